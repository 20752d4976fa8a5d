"""The kernels in Triton's interpreter, on the CPU. Run by test_interpreted.py, which sets the interpreter up."""

import math

import pytest
import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode

from golf.model.kernels import loss
from golf.model.kernels.exclusive import exclude_and_gate
from golf.model.kernels.mix_norm import Relay, mix, mix_norm, norm_of_mix, read
from golf.model.kernels.mlp import mlp
from golf.model.linear import set_fake_quant
from golf.params.eval import Eval
from golf.scoring.document_scorer import DocumentScorer
from golf.scoring.evaluator import make_scorer
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


def readers(x, x0, c, relayed, kernel):
    """x0 and u are read by several sums each: by one twice, by others that only add or have no factor."""
    x0 = Relay(x0) if relayed else x0
    u, n = mix_norm([x0, x0], c[:2], 0.5, kernel=kernel)
    u = Relay(u) if relayed else u
    first = norm_of_mix([u, x0], c[2:4], kernel=kernel)
    second = mix([first, n, x, x0], [1.0, *c[4:6]], kernel=kernel, together=2)
    again = mix([u, second, x, x0], c[:4], kernel=kernel)
    plain, normed = mix_norm([u], [1.0], 0.3, kernel=kernel)
    third = mix([plain, normed, x0], [1.0], kernel=kernel, together=3)
    return norm_of_mix([third, u, again], c[5:8], kernel=kernel), read(x0) * 2


@pytest.mark.parametrize(("relayed", "kernel"), [(True, False), (False, True), (True, True)])
def test_what_is_handed_on_has_the_gradient_of_all_its_readers(relayed, kernel):
    def results(dtype, relayed, kernel, call=readers):
        torch.manual_seed(0)
        leaves = [torch.randn(shape).to(dtype).requires_grad_() for shape in ((7, 24), (7, 24), (8, 24))]
        outputs = call(*leaves, relayed, kernel)
        flows = [torch.randn(7, 24).to(dtype) for _ in outputs]
        return [*outputs, *torch.autograd.grad(outputs, leaves, flows)]

    expected = results(torch.float64, relayed=False, kernel=False)
    compiled = torch.compile(readers, fullgraph=True, dynamic=False, backend="aot_eager")
    for call in (readers, compiled) if relayed and kernel else (readers,):
        found = results(torch.float32, relayed, kernel, call)
        assert all(exact.relative(*pair) < FP32_ERROR for pair in zip(found, expected, strict=True))


class Additions(TorchDispatchMode):
    """Counts the sums of two tensors of one shape."""

    def __init__(self, shape):
        super().__init__()
        self.shape, self.count = shape, 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        out = function(*arguments, **options or {})
        adds = function in (torch.ops.aten.add.Tensor, torch.ops.aten.add_.Tensor)
        self.count += adds and out.numel() == self.shape.numel()
        return out


@pytest.mark.parametrize(
    ("switches", "left"),
    [
        ({"unet_skips": "gated", "loop_last": 1, "loop_passes": 2}, 0),
        ({"unet_skips": "gated", "parallel": "two_lane", "parallel_from": 4, "num_layers": 6}, 0),
        ({"unet_skips": "additive", "parallel": "two_lane", "parallel_from": 2}, 1),  # a lane is what it merges
    ],
    ids=["skips and loop", "lanes", "lanes behind their skip"],
)
def test_autograd_adds_no_gradients_of_the_stream(switches, left):
    model, ids = tiny(**switches, bigram_buckets=0, smear_gate=False), tokens()
    model.kernels = True
    loss = model(ids[:, :-1], ids[:, 1:]).mean()
    with Additions(torch.Size((2, 23, 32))) as additions:
        loss.backward()
    assert additions.count == left


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
    model.kernels = True
    for block in model.blocks:
        block.attention.spreads = quantized  # as for FlashAttention 3
    found = gradients()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: name + text)
    with torch.no_grad():
        logits = model(ids)
        model.kernels = False
        torch.testing.assert_close(logits, model(ids))


@pytest.mark.parametrize("ttt", ["none", "sgd", "lora"])
def test_scores_are_the_same_with_kernels(ttt):
    """Windows, lessons and documents that are only read use them, documents with adapters don't."""
    model, stream = tiny(parallel="two_lane", parallel_from=2, attention_gate="sparse"), tokens().flatten()
    config = Eval(seq_len=8, stride=4, batch_windows=2, ttt=ttt, ttt_chunk_tokens=12, lora_rank=2, lora_chunk_tokens=4)
    scorer = make_scorer(model, config)
    expected = scorer.score(stream)
    distribution = scorer.distribution(stream, 20)
    model.kernels = True
    torch.testing.assert_close(scorer.score(stream), expected, rtol=0, atol=0 if ttt == "lora" else 1e-5)
    torch.testing.assert_close(scorer.distribution(stream, 20), distribution, rtol=1e-4, atol=1e-7)


def test_documents_read_piece_by_piece_are_the_same_with_kernels():
    model, stream = tiny(**EVERYTHING), tokens().flatten()
    model.blocks[0].attention.spreads = True  # as for FlashAttention 3
    scorer = DocumentScorer(model, Eval(seq_len=8, stride=8, ttt="none"), adapts=False)
    expected = scorer.score(stream)
    model.kernels = True
    torch.testing.assert_close(scorer.score(stream), expected, rtol=0, atol=1e-5)
