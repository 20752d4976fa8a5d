"""The kernels in Triton's interpreter, on the CPU. Run by test_interpreted.py, which sets the interpreter up."""

import math

import pytest
import torch
import triton

from golf.model.kernels import loss
from golf.model.kernels.exclusive import exclude_and_gate
from golf.model.kernels.mix_norm import mix_norm
from golf.model.kernels.mlp import mlp
from golf.model.linear import set_fake_quant
from tests.golf.model.kernels import cases, exact
from tests.golf.model.tiny import EVERYTHING, tiny, tokens

FP32_ERROR = 5e-6  # relative, after sums of a hundred terms; how exp2 rounds depends on the processor


def test_this_is_the_interpreter():
    assert triton.knobs.runtime.interpret


@pytest.mark.parametrize("case", cases.small(), ids=lambda case: case.name)
def test_kernel_equals_the_formula(case, monkeypatch):
    monkeypatch.setattr(loss, "CHUNK", 16 * 50)
    found = exact.errors(case.function(kernel=True), case.formula, case.inputs(), uniform=case.uniform)
    assert max(found.values()) < FP32_ERROR, found


def test_a_value_of_zero_excludes_nothing():
    y, v = torch.randn(1, 2, 2, 8, requires_grad=True), torch.zeros(1, 2, 1, 8, requires_grad=True)
    out = exclude_and_gate(y, v, kernel=True)
    out.sum().backward()
    assert torch.equal(out, y)
    assert torch.equal(v.grad, torch.zeros_like(v))


def test_loss_without_gradient_is_the_same():
    x, weight, targets, cap = cases.loss(21, 8, 30).inputs()
    with torch.no_grad():
        alone = loss.linear_cross_entropy(x, weight, targets, cap, kernel=True)
    assert torch.equal(alone, loss.linear_cross_entropy(x.requires_grad_(), weight, targets, cap, kernel=True))


def test_positions_of_unequal_weight_give_no_gradient_that_looks_right():
    x, weight, targets, cap = cases.loss(6, 8, 30).inputs()
    x.requires_grad_()
    weight.requires_grad_()
    (loss.linear_cross_entropy(x, weight, targets, cap, kernel=True) * torch.arange(6)).sum().backward()
    assert weight.grad.isnan().all()
    wide = x.detach().double().requires_grad_()
    (exact.linear_cross_entropy(wide, weight.detach().double(), targets, cap) * torch.arange(6)).sum().backward()
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-5, atol=1e-6)


def test_the_backward_pass_of_one_output_alone():
    x, c = torch.randn(5, 16, requires_grad=True), torch.randn(1, 16)
    mix_norm([x], c, kernel=True)[0].sum().backward()
    torch.testing.assert_close(x.grad, c.expand(5, 16))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_matrices_keep_fp32_gradients(dtype):
    torch.manual_seed(0)
    x = torch.randn(16, 8).to(dtype).requires_grad_()
    up, down = torch.randn(24, 8, requires_grad=True), torch.randn(8, 24, requires_grad=True)
    mlp(x, up, down, 0.5, kernel=True).sum().backward()
    assert (x.grad.dtype, up.grad.dtype, down.grad.dtype) == (dtype, torch.float32, torch.float32)
    if dtype == torch.bfloat16:
        assert not torch.equal(up.grad, up.grad.bfloat16().float()), "rounded on the way"


@pytest.mark.parametrize("bits", cases.NO_NUMBERS)
def test_the_bit_of_the_sign_makes_no_number_of_what_is_none(bits):
    cases.check_no_number(bits, torch.float32, "cpu")


def test_dynamo_takes_all_of_them_in_one_graph():
    torch.manual_seed(0)
    v, up, down = torch.randn(1, 24, 1, 8), torch.randn(32, 16), torch.randn(16, 32)
    weight, targets, c = torch.randn(40, 16), torch.randint(0, 40, (24,)), torch.randn(2, 16)
    leaves = [t.requires_grad_() for t in (torch.randn(24, 16), v, up, down, weight, c)]

    def layers(x, v, up, down, weight, c, kernel):
        y = exclude_and_gate(x.view(1, 24, 2, 8), v, kernel=kernel).view(24, 16)
        mixed, normed = mix_norm([x, y], c, 0.5, kernel=kernel)
        return loss.linear_cross_entropy(mixed + mlp(normed, up, down, 0.5, kernel), weight, targets, 30.0, kernel)

    def gradients(call, kernel):
        value = call(*leaves, kernel).mean()
        return [value, *torch.autograd.grad(value, leaves)]

    compiled = gradients(torch.compile(layers, fullgraph=True, dynamic=False, backend="aot_eager"), True)
    for found, expected in zip(compiled, gradients(layers, False), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert math.isfinite(compiled[0])


@pytest.mark.parametrize("quantized", [False, True], ids=["plain", "fake-quantised"])
@pytest.mark.parametrize(
    "switches",
    [
        EVERYTHING,
        {"attention_gate": "sparse", "parallel": "two_lane", "parallel_from": 2, "loop_last": 1, "loop_passes": 2},
        {"parallel": "one_lane", "resid_mix": False, "xsa_layers": 0, "attention_gate": "double"},
        {"parallel": "one_lane", "parallel_from": 1, "unet_skips": "gated"},
        {"activation": "star_relu", "softcap_kind": "asymmetric"},
    ],
    ids=["serial", "lanes and loop", "one lane", "one lane, mixed", "without kernels of their own"],
)
def test_the_model_computes_the_same_with_kernels(switches, quantized):
    model, ids = tiny(**switches), tokens()
    if quantized:
        set_fake_quant(model, (5, 3.0), (6, 3.0))

    def gradients():
        model.zero_grad()
        loss = model(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        return {name: param.grad for name, param in model.named_parameters() if param.grad is not None} | {"": loss}

    expected = gradients()
    model.use_kernels()
    for block in model.blocks:
        block.attention.spreads = quantized  # as for FlashAttention 3
    found = gradients()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)
    with torch.no_grad():
        logits = model(ids)
        model.use_kernels(False)
        torch.testing.assert_close(logits, model(ids))
