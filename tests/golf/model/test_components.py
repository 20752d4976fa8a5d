import math

import pytest
import torch
import torch.nn.functional as F

from golf.model.embedding import BigramHash, SmearGate, has_predecessor
from golf.model.kernels.exclusive import exclude_and_gate
from golf.model.loss import softcap, softcapped_nll
from golf.model.norm import rms_norm
from golf.model.rope import rotate, rotation
from tests.golf.model.tiny import BOS, tiny, tokens


def test_rms_norm_is_fp32_inside_and_has_an_explicit_epsilon():
    x = 0.005 * torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    expected = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt()
    assert torch.allclose(rms_norm(x).double(), expected, atol=1e-6)
    narrow = rms_norm(x.bfloat16())
    assert narrow.dtype == torch.bfloat16
    assert narrow.float().square().mean().sqrt().item() == pytest.approx(0.98, abs=0.03)
    assert torch.allclose(rms_norm(x, 0.5), 0.5 * rms_norm(x))
    assert torch.equal(rms_norm(torch.zeros(2, 8)), torch.zeros(2, 8))


@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-6), (torch.bfloat16, 0.004)], ids=str)
@pytest.mark.parametrize("shape", [(), (512, 1)], ids=["plain", "scaled"])
def test_the_norm_of_gpus_is_that_of_cpus(
    dtype: torch.dtype, error: float, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scaled one in bf16 is rounded twice there."""
    generator = torch.Generator().manual_seed(0)
    x = (0.005 * torch.randn(512, 64, generator=generator)).to(dtype)
    scale = torch.rand(shape, generator=generator) + 0.5 if shape else 1.0
    expected = rms_norm(x, scale)
    monkeypatch.setattr(torch.Tensor, "is_cuda", True, raising=False)
    found = rms_norm(x, scale)
    assert found.dtype == dtype
    assert (found - expected).double().norm() <= error * expected.double().norm()


def test_rope_scores_depend_on_distance_alone():
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 1, 1, 16, generator=generator, dtype=torch.float64)
    rope = rotation(64, 16, 10_000.0, torch.device("cpu"), torch.float64)
    turned_q, turned_k = rotate(q.expand(1, 64, 1, 16), rope), rotate(k.expand(1, 64, 1, 16), rope)
    scores = torch.einsum("bthd,bshd->ts", turned_q, turned_k)
    for distance in (0, 1, 9, 40):
        diagonal = scores.diagonal(-distance)
        assert torch.allclose(diagonal, diagonal[:1].expand_as(diagonal), atol=1e-5)
    assert (scores[:, 0].max() - scores[:, 0].min()) > 0.1


def test_partial_rope_turns_halves_and_leaves_the_rest():
    x = torch.randn(2, 5, 3, 16, generator=torch.Generator().manual_seed(0))
    y = rotate(x, rotation(5, 8, 100.0, torch.device("cpu"), torch.float32))
    assert torch.equal(y[..., 8:], x[..., 8:])
    assert torch.equal(y[:, 0], x[:, 0])
    angle = 3 * 100.0 ** (-2 * 1 / 8)  # position 3, pair 1: dimensions 1 and 1 + 4
    a, b = x[0, 3, 0, 1].item(), x[0, 3, 0, 5].item()
    assert y[0, 3, 0, 1].item() == pytest.approx(a * math.cos(angle) + b * math.sin(angle), abs=1e-5)
    assert y[0, 3, 0, 5].item() == pytest.approx(b * math.cos(angle) - a * math.sin(angle), abs=1e-5)
    assert torch.allclose(y.norm(dim=-1), x.norm(dim=-1), atol=1e-5)
    assert torch.equal(rotate(x, rotation(5, 0, 100.0, torch.device("cpu"), torch.float32)), x)


def test_predecessors():
    ids = torch.tensor([[5, 6, BOS, 7], [BOS, 6, 7, BOS]])
    assert has_predecessor(ids, BOS).tolist() == [[False, True, False, True], [False, True, True, False]]


def test_smear_mixes_and_stops_at_documents():
    generator = torch.Generator().manual_seed(0)
    gate = SmearGate(8)
    gate.gate.data = torch.randn(8, generator=generator)
    ids = tokens(batch=2, length=10)
    x = torch.randn(2, 10, 8, generator=generator)
    out = gate(x, has_predecessor(ids, BOS))
    share = torch.sigmoid(gate.gate)
    assert torch.equal(out[:, 5], x[:, 5])  # the BOS
    assert torch.equal(out[:, 0], x[:, 0])
    assert torch.allclose(out[:, 6], (1 - share) * x[:, 6] + share * x[:, 5], atol=1e-6)
    assert torch.allclose(out[:, 4], (1 - share) * x[:, 4] + share * x[:, 3], atol=1e-6)


def test_bigram_hash():
    bigram = BigramHash(37, 8, 16)
    ids = torch.tensor([[9, 4, 60, BOS, 9]])
    buckets = bigram.bucket(ids, has_predecessor(ids, BOS))[0].tolist()
    assert buckets == [
        36,
        ((36313 * 4) ^ (27191 * 9)) % 36,
        ((36313 * 60) ^ (27191 * 4)) % 36,
        36,
        ((36313 * 9) ^ (27191 * BOS)) % 36,
    ]
    large = torch.tensor([[65535, 65535]])
    assert bigram.bucket(large, has_predecessor(large, BOS))[0, 1].item() == ((36313 * 65535) ^ (27191 * 65535)) % 36


def test_no_embedding_crosses_a_document():
    """What enters the first layer at and after a BOS is blind to the document before it."""
    model = tiny()
    ids = tokens(batch=1)
    border = ids.shape[1] // 2
    other = ids.clone()
    other[:, :border] = (other[:, :border] + 13) % 50 + 2
    with torch.no_grad():
        one, two = (model.embed_tokens(t, model.embed.weight) for t in (ids, other))
    assert torch.equal(one[:, border:], two[:, border:])
    assert not torch.allclose(one[:, :border], two[:, :border])


def test_a_bos_at_any_place_embeds_as_at_the_start():
    model, ids = tiny(), tokens(batch=1)
    with torch.no_grad():
        inside = model.embed_tokens(ids, model.embed.weight)[:, ids.shape[1] // 2]
        alone = model.embed_tokens(torch.tensor([[BOS]]), model.embed.weight)[:, 0]
    assert torch.allclose(inside, alone, atol=1e-6)


def test_xsa_leaves_nothing_along_the_own_value():
    generator = torch.Generator().manual_seed(0)
    y, v = torch.randn(2, 5, 6, 8, generator=generator), torch.randn(2, 5, 3, 8, generator=generator)
    out = exclude_and_gate(y, v)
    repeated = v.repeat_interleave(2, dim=2)
    assert (out * repeated).sum(-1).abs().max() < 1e-5
    unit = F.normalize(repeated.double(), dim=-1)
    expected = y.double() - (y.double() * unit).sum(-1, keepdim=True) * unit
    assert torch.allclose(out.double(), expected, atol=1e-5)
    assert torch.equal(exclude_and_gate(y, torch.zeros_like(v)), y)


@pytest.mark.parametrize("rows", [1, 255, 256, 700])
def test_blocked_loss_and_gradient_against_fp64(rows):
    generator = torch.Generator().manual_seed(0)
    logits = 20 * torch.randn(1, rows, 50, generator=generator)
    targets = torch.randint(0, 50, (1, rows), generator=generator)
    weights = torch.rand(1, rows, generator=generator)  # unequal upstream gradients
    found, exact = logits.clone().requires_grad_(), logits.double().requires_grad_()
    nll = softcapped_nll(found, targets, 15.0)
    (nll * weights).sum().backward()
    expected = F.cross_entropy(softcap(exact, 15.0)[0], targets[0], reduction="none")[None]
    (expected * weights.double()).sum().backward()
    assert torch.allclose(nll.double(), expected, atol=1e-5)
    assert torch.allclose(found.grad.double(), exact.grad, atol=1e-6)
    with torch.no_grad():
        assert torch.equal(softcapped_nll(logits, targets, 15.0), nll)
