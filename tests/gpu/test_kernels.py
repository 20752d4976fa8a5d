import pytest
import torch

from golf.model.kernels.launch import kernels_available
from golf.model.kernels.loss import linear_cross_entropy
from golf.model.transformer import Transformer
from golf.params.model import Model
from tests.golf.model.kernels import cases, exact

pytestmark = pytest.mark.gpu

TOKENS = 98_304
BF16_ERROR = 1e-2  # relative: of operands and results rounded to bf16


def on_gpu(case, half):
    """The case's inputs on the GPU: activations (the first ``half`` of them) in bf16, weights in fp32."""
    values = [moved(value) for value in case.inputs()]
    return [value.bfloat16() if i < half else value for i, value in enumerate(values)]


def moved(value):
    if isinstance(value, tuple):
        return tuple(moved(each) for each in value)
    return value.cuda() if isinstance(value, torch.Tensor) else value


CASES = [
    (cases.loss(1000, 512, 1024, 1.0), 1),
    (cases.loss(9000, 512, 8192, 1.0), 1),  # more than two chunks, the last a part
    (cases.loss(777, 512, 5000, 1.0), 1),
    (cases.feed_forward(4096, 512, 2048), 1),
    (cases.feed_forward(40_000, 512, 1536, slope=0.0), 1),
    (cases.feed_forward(1000, 200, 1000), 1),
    (cases.mixed(1, 5000, 512), 1),
    (cases.mixed(2, 5000, 512), 2),
    (cases.mixed(3, 5001, 512), 3),
    (cases.mixed(4, 5000, 384), 4),
    (cases.mixed(2, 5000, 512, together=2, plain=True), 2),
    (cases.mixed(4, 5000, 512, together=2), 4),
    (cases.mixed(6, 5001, 384, together=3), 6),
    (cases.exclusive((3, 777, 8, 64), 4, gated=True), 3),
    (cases.exclusive((2, 512, 8, 64), 8, gated=False), 2),
    (cases.exclusive((2, 100, 6, 48), 2, gated=True), 3),
    (cases.projection((3, 777, 512), rows=(512, 256), gate=(8, 12)), 1),
    (cases.projection((3, 777, 512), rows=(512, 256), gate=None), 1),
    (cases.rotary((3, 777), heads=8, groups=4, width=64, rope_dims=16), 1),
    (cases.rotary((3, 777), heads=8, groups=4, width=64, rope_dims=16, spread=True), 1),
    (cases.rotary((2, 100), heads=6, groups=2, width=48, rope_dims=48), 1),
]


def test_kernels_are_available():
    assert kernels_available("cuda") == (True, "triton and a CUDA device")


@pytest.mark.parametrize("compiled", [False, True], ids=["eager", "compiled"])
@pytest.mark.parametrize(("case", "half"), CASES, ids=[case.name for case, _ in CASES])
def test_kernel_against_fp64(case, half, compiled):
    torch.compiler.reset()
    function = case.function(kernel=True)
    if compiled:
        function = torch.compile(function, fullgraph=True, dynamic=False)
    found = exact.errors(function, case.formula, on_gpu(case, half), uniform=case.uniform)
    assert max(found.values()) < BF16_ERROR, found


@pytest.mark.parametrize("bits", cases.NO_NUMBERS)
def test_the_bit_of_the_sign_makes_no_number_of_what_is_none(bits):
    cases.check_no_number(bits, torch.bfloat16, "cuda")


def test_a_batch_whose_logits_pass_2_to_the_31():
    torch.manual_seed(0)
    x = torch.randn(2 * TOKENS, 64, device="cuda", dtype=torch.bfloat16).requires_grad_()
    weight = torch.randn(16_384, 64, device="cuda", requires_grad=True)
    targets = torch.randint(0, len(weight), (len(x),), device="cuda")
    linear_cross_entropy(x, weight, targets, 30.0, kernel=True).mean().backward()
    last = slice(-500, None)
    tail = x[last].detach().clone().requires_grad_()
    (linear_cross_entropy(tail, weight.detach(), targets[last], 30.0).sum() / len(x)).backward()
    assert exact.relative(x.grad[last], tail.grad.double()) < BF16_ERROR
    assert torch.isfinite(weight.grad).all()


def test_loss_is_the_same_to_the_bit_each_time():
    inputs = on_gpu(cases.loss(20_000, 512, 8192, 1.0), 1)
    first, second = (exact_gradients(inputs) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def exact_gradients(inputs):
    x, weight = (value.detach().clone().requires_grad_() for value in inputs[:2])
    nll = linear_cross_entropy(x, weight, *inputs[2:], kernel=True)
    return nll, *torch.autograd.grad(nll.mean(), (x, weight))


@pytest.mark.parametrize(
    "switches",
    [
        {"unet_skips": "gated"},
        {"parallel": "two_lane", "parallel_from": 2, "attention_gate": "sparse", "loop_passes": 2},
    ],
    ids=["serial", "lanes and loop"],
)
def test_the_compiled_model_learns_the_same_with_kernels(switches):
    torch.manual_seed(0)
    shape = {"num_layers": 4, "dim": 256, "num_heads": 4, "num_kv_heads": 2, "xsa_layers": 4}
    model = Transformer(Model(**(shape | switches)), 1024, attention="flash").cuda()
    model.compute_dtype = torch.bfloat16
    for name, param in model.named_parameters():  # the zero projections would hide every gradient behind them
        if name.endswith(("output.weight", "down.weight")):
            torch.nn.init.orthogonal_(param)
    ids = torch.randint(2, 1024, (8, 513), device="cuda")

    def gradients(kernels):
        torch.compiler.reset()
        model.kernels = kernels
        model.zero_grad()
        loss = torch.compile(model, fullgraph=True, dynamic=False)(ids[:, :-1], ids[:, 1:]).mean()
        loss.backward()
        return [loss.detach(), *(param.grad for param in model.parameters() if param.grad is not None)]

    plain, fused = gradients(False), gradients(True)
    assert len(plain) == len(fused)
    assert fused[0].item() == pytest.approx(plain[0].item(), abs=2e-3)
    flat_plain, flat_fused = (torch.cat([value.flatten() for value in values[1:]]) for values in (plain, fused))
    assert exact.relative(flat_fused, flat_plain.double()) < 2e-2
