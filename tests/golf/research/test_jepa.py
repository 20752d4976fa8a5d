import pytest
import torch
from torch import Tensor

from golf.research.idea import Size, build_idea
from golf.research.jepa import AHEAD, SPREAD, LatentPrediction, collapse, prediction_error
from golf.research.training import artifact_bytes

SMALL, VOCAB = Size(dim=32, layers=2, heads=2, kv_heads=1, mlp_ratio=2.0, length=16), 23


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def build() -> LatentPrediction:
    torch.manual_seed(0)
    idea = LatentPrediction(SMALL, VOCAB)
    with torch.no_grad():
        for param in idea.parameters():
            param.add_(0.1 * torch.randn_like(param))
    return idea


def tokens(length: int = 16) -> Tensor:
    return torch.randint(VOCAB, (3, length + 1), generator=torch.Generator().manual_seed(0))


def test_the_terms_are_in_the_loss_and_not_in_the_score() -> None:
    idea = build()
    loss, nll = idea.loss(tokens()), idea.nll(tokens())
    assert float(loss) > float(nll.mean())
    with torch.no_grad():
        idea.predictor.down.weight.neg_()
    assert float(idea.loss(tokens())) != float(loss)
    assert torch.equal(idea.nll(tokens()), nll)


def test_rows_without_a_later_latent_have_the_plain_loss() -> None:
    idea = build()
    assert torch.equal(idea.loss(tokens(AHEAD)), idea.nll(tokens(AHEAD)).mean())
    assert not torch.equal(idea.loss(tokens(AHEAD + 1)), idea.nll(tokens(AHEAD + 1)).mean())


def test_the_error_is_one_minus_the_cosine() -> None:
    x = drawn(2, 5, 8)
    assert float(prediction_error(3 * x, x)) == pytest.approx(0.0, abs=1e-6)
    assert float(prediction_error(-x, x)) == pytest.approx(2.0, abs=1e-6)


def test_collapsed_latents_are_pulled_apart_and_spread_ones_left_alone() -> None:
    one = drawn(8).expand(4, 50, 8)
    assert float(collapse(one)) == pytest.approx(1.0, abs=0.01)
    assert float(collapse(2 * SPREAD * drawn(4, 50, 8))) == 0.0
    nearly = (one + 0.01 * drawn(4, 50, 8)).requires_grad_()
    collapse(nearly).backward()
    assert nearly.grad is not None
    assert float(collapse((nearly - nearly.grad).detach())) < float(collapse(nearly.detach()))


def test_the_artifact_is_the_baseline_s() -> None:
    idea, baseline = build(), build_idea("baseline", SMALL, VOCAB)
    assert artifact_bytes(idea) == artifact_bytes(baseline)
    assert sum(p.numel() for p in idea.parameters()) > sum(p.numel() for p in baseline.parameters())
