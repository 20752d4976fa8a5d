import pytest
import torch
from torch import Tensor

from golf.research.chunking import (
    BOS,
    SEGMENT,
    TARGET,
    Chunks,
    DynamicChunking,
    capacity,
    choose,
    dechunk,
    document_starts,
    ratio_loss,
)
from golf.research.idea import Size
from golf.runtime.errors import ConfigError

SMALL, VOCAB = Size(dim=32, layers=4, heads=2, kv_heads=1, mlp_ratio=2.0, length=40), 17


@pytest.fixture(scope="module")
def model() -> DynamicChunking:
    """Every weight random, so that no zero hides a path."""
    torch.manual_seed(0)
    model = DynamicChunking(SMALL, VOCAB)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.2 * torch.randn_like(param))
    return model


def tokens(rows: int = 2, seed: int = 0) -> Tensor:
    return torch.randint(2, VOCAB, (rows, SMALL.length + 1), generator=torch.Generator().manual_seed(seed))


def drawn(length: int, share: float = 0.5, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Boundary probabilities and document starts; that share of tokens wants a boundary."""
    generator = torch.Generator().manual_seed(length)
    probability = torch.rand(rows, length, generator=generator) + share - 0.5
    starts = torch.zeros(rows, length, dtype=torch.bool)
    starts[:, [0, length // 2]] = True
    return probability.clamp(0.01, 0.99).masked_fill(starts, 1.0), starts


def boundaries(chunks: Chunks) -> Tensor:
    """(B, T) bool: where the number of the chunk rises."""
    before = torch.full_like(chunks.member[:, :1], -1)
    return chunks.member.diff(dim=1, prepend=before) > 0


@pytest.mark.parametrize("length", [1, 31, 40, 256])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_boundaries_respect_the_capacity(length: int, share: float) -> None:
    probability, starts = drawn(length, share)
    chunks = choose(probability, starts)
    most, in_segment = capacity(length)
    begins = boundaries(chunks)
    assert chunks.first.shape == (3, most)
    assert begins.sum(1).max() <= most
    for segment in (begins & ~starts).split(SEGMENT, dim=1):
        assert segment.sum(1).max() <= in_segment


def test_with_room_every_wanted_boundary_begins_a_chunk() -> None:
    probability, starts = drawn(256, share=0.3)
    chunks = choose(probability, starts)
    begins = boundaries(chunks)
    assert torch.equal(begins, probability >= 0.5)
    for row in range(3):
        places = begins[row].nonzero().flatten()
        assert torch.equal(chunks.first[row, : len(places)], places)


def test_a_documents_first_token_always_begins_a_chunk(model: DynamicChunking) -> None:
    """Even in a segment whose room is used up."""
    ids = tokens()
    ids[:, [29, 30]] = BOS
    starts = document_starts(ids)
    assert starts.nonzero()[:, 1].tolist() == [0, 29, 30] * 2
    everywhere = torch.ones(starts.shape)
    assert boundaries(choose(everywhere, starts))[starts].all()
    assert boundaries(choose(0 * everywhere, starts)).equal(starts)
    assert model.router(torch.randn(2, SMALL.length + 1, SMALL.dim), starts)[starts].eq(1).all()


def test_more_documents_than_chunks_fit_all_the_same() -> None:
    starts = torch.ones(1, 20, dtype=torch.bool)
    chunks = choose(torch.ones(1, 20), starts)
    assert chunks.member[0].tolist() == [min(t, 9) for t in range(20)]


def test_a_boundary_depends_on_no_later_one() -> None:
    probability, starts = drawn(100, share=0.8)
    whole = boundaries(choose(probability, starts))
    for stop in (1, 33, 64, 99):
        cut = probability.clone()
        cut[:, stop:] = 0.0
        assert torch.equal(boundaries(choose(cut, starts))[:, :stop], whole[:, :stop])


def test_dechunking_is_the_moving_average_of_its_docstring() -> None:
    probability, starts = drawn(37)
    chunks = choose(probability, starts)
    inner = torch.randn(3, chunks.first.shape[1], 4, dtype=torch.float64)
    ours = dechunk(inner, probability.double(), starts, chunks)
    begins = boundaries(chunks)
    for row in range(3):
        smooth = torch.zeros(4, dtype=torch.float64)
        for t in range(37):
            if begins[row, t]:
                p = probability[row, t].double()
                smooth = p * inner[row, chunks.member[row, t]] + (1 - p) * smooth
            assert (ours[row, t] - smooth).abs().max() < 1e-9


def test_the_confidence_is_one_forward_and_has_its_gradient_backward() -> None:
    probability = torch.tensor([[1.0, 0.2, 0.8, 0.3]], requires_grad=True)
    starts = torch.tensor([[True, False, False, False]])
    chunks = choose(probability, starts)
    inner = torch.tensor([[[1.0], [3.0]]])  # smooth: 1, then 0.8 * 3 + 0.2 * 1 = 2.6
    spread = dechunk(inner, probability, starts, chunks)
    assert spread.flatten().tolist() == pytest.approx([1.0, 1.0, 2.6, 2.6])
    (gradient,) = torch.autograd.grad(spread.sum(), probability)
    # At the second boundary both of its tokens move by 3 - 1 through the average; then the confidence of each.
    assert gradient[0, 1:].tolist() == pytest.approx([-1.0, 2 * 2.0 + 2.6, -2.6])


def test_the_ratio_loss_is_one_at_the_target_and_pulls_towards_it() -> None:
    at_target = torch.zeros(1, 300)
    at_target[:, ::3] = 1.0
    assert TARGET == 3.0
    assert ratio_loss(at_target).item() == pytest.approx(1.0)
    for probability, sign in ((torch.full((1, 300), 0.6), 1), (torch.full((1, 300), 0.1), -1)):
        probability.requires_grad_()
        (gradient,) = torch.autograd.grad(ratio_loss(probability), probability)
        assert (gradient * sign > 0).all()


def test_a_later_token_changes_nothing_before_it(model: DynamicChunking) -> None:
    ids = tokens()
    for place in (10, 25, 39):
        changed = ids.clone()
        changed[:, place] = BOS
        with torch.no_grad():
            before, after = model.nll(ids), model.nll(changed)
        assert torch.allclose(before[:, : place - 1], after[:, : place - 1], atol=1e-5)  # at place - 1 it is the target
        assert ((before - after)[:, place - 1 :].abs().amax(1) > 1e-3).all()


def test_boundaries_learn_from_the_loss_of_the_tokens_alone(model: DynamicChunking) -> None:
    model.zero_grad()
    model.nll(tokens(4)).mean().backward()
    assert all(param.grad.any() for param in model.router.parameters())


def test_two_layers_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"size\.layers: found 2, needed 3 or more.* Try: python -m"):
        DynamicChunking(Size(16, 2, 1, 1, 2.0, 8), VOCAB)
