import pytest
import torch
from torch import nn

from golf.optim.muon import Muon, newton_schulz


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(3, 32, 32), (2, 16, 48), (2, 48, 16), (1, 8, 1)])
def test_singular_values_come_near_one(shape):
    x = newton_schulz(random(*shape), steps=5)
    singular = torch.linalg.svdvals(x)
    assert x.shape == shape
    assert singular.max() < 1.3
    assert singular.quantile(0.1) > 0.6


def test_direction_is_that_of_the_polar_factor():
    gradient = random(1, 24, 40)
    u, _, vh = torch.linalg.svd(gradient[0], full_matrices=False)
    x = newton_schulz(gradient, steps=5)[0]
    cosine = (x * (u @ vh)).sum() / (x.norm() * (u @ vh).norm())
    assert cosine > 0.97


def test_a_batch_equals_its_matrices_one_by_one():
    batch = random(4, 12, 20)
    together = newton_schulz(batch)
    for one, x in zip(batch, together, strict=True):
        assert torch.allclose(newton_schulz(one[None])[0], x, atol=1e-5)


def test_tall_is_the_transpose_of_wide():
    tall = random(1, 20, 12)
    assert torch.allclose(newton_schulz(tall).mT, newton_schulz(tall.mT.contiguous()), atol=1e-5)


def test_zero_and_tiny_gradients_stay_finite():
    assert newton_schulz(torch.zeros(1, 4, 8)).abs().max() == 0
    assert torch.isfinite(newton_schulz(1e-30 * random(1, 4, 8))).all()


def test_scale_of_the_gradient_does_not_matter():
    gradient = random(1, 12, 20)
    assert torch.allclose(newton_schulz(gradient), newton_schulz(1000 * gradient), atol=1e-4)


@pytest.mark.parametrize("row_normalize", [False, True])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_two_steps_by_the_formula(shape, row_normalize):
    weight = nn.Parameter(random(*shape))
    muon = Muon({"w": weight}, lr=0.02, weight_decay=0.1, row_normalize=row_normalize)
    expected, buffer = weight.detach().clone(), torch.zeros(shape)
    for step, momentum in enumerate((0.85, 0.9)):
        weight.grad = random(*shape, seed=step + 1)
        buffer = momentum * buffer + weight.grad
        update = weight.grad + momentum * buffer
        if row_normalize:
            update = update / update.norm(dim=1, keepdim=True)
        orthogonal = newton_schulz(update[None])[0]
        lr = 0.02 * 0.5
        expected = expected * (1 - lr * 0.1) - lr * max(1, shape[0] / shape[1]) ** 0.5 * orthogonal
        muon.step(0.5, momentum)
        assert torch.allclose(weight, expected, atol=1e-6)


def test_a_matrix_without_gradient_only_decays():
    weight = nn.Parameter(torch.ones(3, 4))
    Muon({"w": weight}, lr=0.1, weight_decay=0.5).step(1.0, 0.9)
    assert torch.allclose(weight, torch.full((3, 4), 0.95))


def test_it_keeps_no_matrix_when_there_is_none():
    muon = Muon({}, lr=0.1, weight_decay=0.0)
    muon.step(1.0, 0.9)
    assert muon.state_dict() == {}
