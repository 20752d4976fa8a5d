import math

import pytest
import torch

from golf.model.attention import (
    NAMES,
    Documents,
    attend,
    choose_backend,
    implementation,
    prepare_behind,
    segments,
)
from golf.model.weights import ModelSpec, build
from golf.params.model import Model
from golf.runtime.errors import ConfigError

pytestmark = pytest.mark.gpu


def available():
    """The implementations that this machine has."""
    if not torch.cuda.is_available():
        return []
    found = []
    for name in NAMES:
        try:
            found.append(choose_backend(name, "cuda")[0])
        except ConfigError:
            continue
    return found


def naive(q, k, v):
    share = q.shape[2] // k.shape[2]
    q, k, v = (t.double().transpose(1, 2) for t in (q, k, v))
    k, v = k.repeat_interleave(share, 1), v.repeat_interleave(share, 1)
    scores = q @ k.mT / math.sqrt(q.shape[-1])
    hidden = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool, device=q.device).triu(1)
    return (scores.masked_fill(hidden, -math.inf).softmax(-1) @ v).transpose(1, 2)


def test_there_is_a_gpu_with_a_fused_implementation():
    assert {"cudnn", "flash"} & set(available())


@pytest.mark.parametrize("name", NAMES)
def test_forward_and_backward_against_fp64(name):
    if name not in available():
        pytest.skip(f"{name} is not on this machine")
    torch.manual_seed(0)
    shapes = ((2, 256, 8, 64), (2, 256, 4, 64), (2, 256, 4, 64))
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    wide = [t.detach().double().requires_grad_() for t in (q, k, v)]
    y, expected = attend(q, k, v, name), naive(*wide)
    weight = torch.randn_like(expected)
    (y.double() * weight).sum().backward()
    (expected * weight).sum().backward()
    assert (y.double() - expected).abs().max() < 2e-2
    for found, exact in zip((q, k, v), wide, strict=True):
        error = (found.grad.double() - exact.grad).norm() / exact.grad.norm()
        assert error < 1e-2


@pytest.mark.parametrize("form", ["numbers", "segments", "windows"])
@pytest.mark.parametrize("name", NAMES)
def test_within_documents_against_plain_sdpa(name, form):
    if name not in available():
        pytest.skip(f"{name} is not on this machine")
    torch.manual_seed(0)
    shapes = ((3, 384, 8, 64), (3, 384, 4, 64), (3, 384, 4, 64))
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    wide = [t.detach().float().requires_grad_() for t in (q, k, v)]
    numbers = (torch.rand(3, 384, device="cuda") < 0.05).cumsum(1).int()
    packed = segments(numbers)
    ends = torch.cat([packed.starts.unique(), packed.starts[-1:].repeat(50)])
    window = 20 if form == "windows" else 0
    y = attend(q, k, v, name, numbers if form == "numbers" else Documents(ends, 384, window))
    expected = attend(*wide, "sdpa", Documents(ends, 384, window))
    weight = torch.randn_like(expected)
    (y.float() * weight).sum().backward()
    (expected * weight).sum().backward()
    assert (y.float() - expected).abs().max() < 3e-2
    for found, exact in zip((q, k, v), wide, strict=True):
        assert (found.grad.float() - exact.grad).norm() / exact.grad.norm() < 1e-2


@pytest.mark.parametrize("window", [100, 400])
@pytest.mark.parametrize("fixed", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_behind_earlier_keys_against_plain_sdpa(name, fixed, window):
    """Of 384 keys a row, 330 are there, or so many as the device knows; the last 30 are the queries'."""
    if name not in available():
        pytest.skip(f"{name} is not on this machine")
    if fixed and name not in ("fa3", "sdpa"):
        pytest.skip("not told on the device how many keys there are")
    torch.manual_seed(0)
    total, past = 384 if fixed else 330, torch.tensor(300, device="cuda") if fixed else 300
    shapes = ((3, 30, 8, 64), (3, total, 4, 64), (3, total, 4, 64))
    q, k, v = (torch.randn(shape, device="cuda", dtype=torch.bfloat16, requires_grad=True) for shape in shapes)
    wide = [t.detach().float().requires_grad_() for t in (q, k, v)]
    y = implementation(name)(q, k, v, prepare_behind(name, 3, 30, past, total, window, q.device))
    exact = [wide[0], *(x[:, :330] for x in wide[1:])]
    expected = implementation("sdpa")(*exact, prepare_behind("sdpa", 3, 30, 300, 330, window, q.device))
    weight = torch.randn_like(expected)
    (y.float() * weight).sum().backward()
    (expected * weight).sum().backward()
    assert (y.float() - expected).abs().max() < 3e-2
    for found, needed in zip((q, k, v), wide, strict=True):
        seen = slice(0, 30 if found is q else 330)  # of the others nobody asks
        assert (found.grad[:, seen].float() - needed.grad[:, seen]).norm() / needed.grad.norm() < 1e-2


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("masked", [False, True])
def test_the_model_trains_on_it(name, compiled, masked):
    if name not in available():
        pytest.skip(f"{name} is not on this machine")
    torch.manual_seed(0)
    torch.compiler.reset()
    config = Model(num_layers=2, dim=256, num_heads=4, num_kv_heads=2, xsa_layers=2, document_mask=masked)
    model = build(ModelSpec(config, 1024), attention=name, device="cuda")
    assert model.compute_dtype == torch.bfloat16
    forward = torch.compile(model, fullgraph=True, dynamic=False) if compiled else model
    ids = torch.randint(0, 1024, (4, 257), device="cuda")
    nll = forward(ids[:, :-1], ids[:, 1:])
    nll.mean().backward()
    assert nll.mean().item() == pytest.approx(math.log(1024), abs=0.1)
    for parameter_name, param in model.named_parameters():
        assert torch.isfinite(param.grad).all(), parameter_name


def test_auto_takes_a_fused_one_and_says_why():
    name, reason = choose_backend("auto", "cuda")
    assert name != "sdpa"
    assert reason
