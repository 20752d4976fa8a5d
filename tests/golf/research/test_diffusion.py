import math

import pytest
import torch
from torch import Tensor

from golf.research.diffusion import MaskedDiffusion
from golf.research.idea import Size
from golf.runtime.errors import ConfigError

SMALL, VOCAB = Size(dim=32, layers=3, heads=2, kv_heads=1, mlp_ratio=2.0, length=12), 17
HIDDEN = VOCAB


@pytest.fixture(scope="module")
def model() -> MaskedDiffusion:
    """Every weight random, so that no zero hides a path."""
    torch.manual_seed(0)
    model = MaskedDiffusion(SMALL, VOCAB)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.2 * torch.randn_like(param))
    return model


def tokens(rows: int = 2, seed: int = 0, length: int = SMALL.length) -> Tensor:
    return torch.randint(2, VOCAB, (rows, length + 1), generator=torch.Generator().manual_seed(seed))


def uniform() -> MaskedDiffusion:
    model = MaskedDiffusion(SMALL, VOCAB)
    torch.nn.init.zeros_(model.transformer.embed.weight)
    return model


def test_the_bound_of_a_uniform_predictor_is_log_v() -> None:
    """Whatever was hidden: the number of hidden tokens is part of the weight, and adds no noise."""
    model = uniform()
    assert model.nll(tokens(5)).mean(1).tolist() == pytest.approx([math.log(VOCAB)] * 5, rel=1e-5)
    assert model.loss(tokens(5)).item() == pytest.approx(math.log(VOCAB), rel=1e-5)


def test_it_estimates_the_integral_over_time(model: MaskedDiffusion) -> None:
    """The papers' bound, by a sum over every set of hidden tokens: with T = 4 there are 15.

    The integral of t^(n-1) (1-t)^(T-n) is the chance of one set of n hidden tokens, divided by t.
    """
    ids, bound = tokens(1, length=4), 0.0
    for chosen in range(1, 16):
        hidden = torch.tensor([False] + [bool(chosen >> i & 1) for i in range(4)])
        count = int(hidden.sum())
        log_p = model.log_probs(ids.masked_fill(hidden, HIDDEN)).gather(-1, ids[..., None])[0, :, 0]
        weight = math.gamma(count) * math.gamma(5 - count) / math.gamma(5)
        bound -= weight * log_p[hidden].sum().item() / 4
    torch.manual_seed(0)
    with torch.no_grad():
        draws = [model.loss(ids.expand(64, -1)).item() for _ in range(20)]
        assert sum(draws) / len(draws) == pytest.approx(bound, rel=0.01)
        assert model.nll(ids.expand(300, -1)).mean().item() == pytest.approx(bound, rel=0.01)


def test_the_distribution_is_normalised_and_never_the_mask(model: MaskedDiffusion) -> None:
    log_p = model.log_probs(tokens().masked_fill(torch.eye(2, SMALL.length + 1).bool(), HIDDEN))
    assert log_p.shape == (2, SMALL.length + 1, VOCAB)
    assert torch.allclose(log_p.exp().sum(-1), torch.ones(2, SMALL.length + 1), atol=1e-5)


def test_it_looks_both_ways(model: MaskedDiffusion) -> None:
    """Which is why its score is no code for the challenge."""
    ids = tokens(1)
    ids[:, 6] = HIDDEN
    for neighbour in (2, 10):
        changed = ids.clone()
        changed[:, neighbour] = (ids[:, neighbour] + 1) % VOCAB
        assert (model.log_probs(ids) - model.log_probs(changed))[0, 6].abs().max() > 1e-4
    assert not model.exact


def test_a_hidden_token_is_hidden(model: MaskedDiffusion) -> None:
    """Alone in the window, a target's cost is that of its value given the context: all values sum to one."""
    ids = torch.stack((torch.full((VOCAB,), 5), torch.arange(VOCAB)), dim=1)
    with torch.no_grad():
        assert model.nll(ids)[:, 0].neg().exp().sum().item() == pytest.approx(1.0, abs=1e-5)


def test_masks_are_spread_over_the_batch(model: MaskedDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    """12 rows of 12 targets: each number of hidden tokens comes once, and the first token is never hidden."""
    seen = []
    monkeypatch.setattr(model, "log_probs", lambda noisy: seen.append(noisy) or torch.zeros(*noisy.shape, VOCAB))
    torch.manual_seed(1)
    model.loss(tokens(12))
    hidden = seen[0] == HIDDEN
    assert sorted(hidden.sum(1).tolist()) == list(range(1, 13))
    assert not hidden[:, 0].any()


def test_the_same_again(model: MaskedDiffusion) -> None:
    ids = tokens(3)
    with torch.no_grad():
        first = model.nll(ids)
        torch.rand(7)
        assert torch.equal(model.nll(ids), first)
        losses = []
        for seed in (4, 4, 5):
            torch.manual_seed(seed)
            losses.append(model.loss(ids).item())
    assert losses[0] == losses[1] != losses[2]


def test_scoring_leaves_the_random_state_alone(model: MaskedDiffusion) -> None:
    before = torch.get_rng_state()
    with torch.no_grad():
        model.nll(tokens())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_bad_size_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"size\.dim: found 30, needed a multiple of .* Try: python -m"):
        MaskedDiffusion(Size(30, 2, 4, 1, 2.0, 8), VOCAB)
