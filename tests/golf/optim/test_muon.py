import functools

import pytest
import torch
from torch import nn

from golf.optim.muon import Muon
from golf.optim.newton_schulz import newton_schulz, quintics


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def step(muon, momentum, lr_scale=1.0, **scales):
    muon.collect()
    muon.orthogonalize(momentum, scales.pop("factor", None))
    muon.apply(lr_scale, **scales)


@pytest.mark.parametrize("kind", ["stock", "polar_express"])
@pytest.mark.parametrize("row_normalize", [False, True])
@pytest.mark.parametrize("shape", [(12, 20), (20, 12)])
def test_steps_by_the_formula_in_double(shape, row_normalize, kind):
    weights = {name: nn.Parameter(random(*shape, seed=seed)) for seed, name in enumerate("abc")}
    expected = {name: weight.detach().double() for name, weight in weights.items()}
    buffers = {name: torch.zeros(shape, dtype=torch.float64) for name in weights}
    muon = Muon(weights, lr=0.02, weight_decay=0.1, coefficients=kind, row_normalize=row_normalize)
    for number, momentum in enumerate((0.85, 0.9)):
        for seed, (name, weight) in enumerate(weights.items()):
            weight.grad = random(*shape, seed=10 * number + seed + 5)
            buffers[name] = momentum * buffers[name] + weight.grad.double()
            update = weight.grad.double() + momentum * buffers[name]
            if row_normalize:
                update = update / update.norm(dim=1, keepdim=True)
            orthogonal = newton_schulz(update[None], quintics(kind, 5), dtype=torch.float64)[0]
            lr = 0.02 * 0.5
            size = max(1, shape[0] / shape[1]) ** 0.5
            expected[name] = expected[name] * (1 - lr * 0.1 * 0.75) - lr * size * orthogonal
        step(muon, momentum, 0.5, decay_scale=0.75)
        for name, weight in weights.items():
            torch.testing.assert_close(weight.double(), expected[name], rtol=0, atol=2e-6)
            torch.testing.assert_close(muon.state_dict()[f"{name}.momentum"].double(), buffers[name], rtol=0, atol=1e-6)


def test_the_factor_scales_what_enters_the_momentum():
    one, two = (nn.Parameter(random(4, 6)) for _ in range(2))
    first, second = (Muon({"w": weight}, lr=0.02, weight_decay=0.1) for weight in (one, two))
    one.grad, two.grad = random(4, 6, seed=1), 4 * random(4, 6, seed=1)
    step(first, 0.9)
    step(second, 0.9, factor=torch.tensor(0.25))
    assert torch.equal(one, two)
    assert torch.equal(first.state_dict()["w.momentum"], second.state_dict()["w.momentum"])


def test_matrices_of_one_shape_are_one_batch_and_the_largest_bank_comes_first():
    shapes = {"a": (4, 6), "b": (6, 4), "c": (4, 6), "d": (30, 30), "e": (4, 6)}
    muon = Muon({name: nn.Parameter(random(*shape)) for name, shape in shapes.items()}, lr=0.1, weight_decay=0.0)
    assert [list(bank.params) for bank in muon.banks] == [["d"], ["a", "c", "e"], ["b"]]
    assert [tuple(bank.momentum.shape) for bank in muon.banks] == [(1, 30, 30), (3, 4, 6), (1, 6, 4)]
    assert list(muon.state_dict()) == [f"{name}.momentum" for name in shapes]


def test_a_matrix_without_gradient_only_decays():
    weight = nn.Parameter(torch.ones(3, 4))
    step(Muon({"w": weight}, lr=0.1, weight_decay=0.5), 0.9)
    assert torch.allclose(weight, torch.full((3, 4), 0.95))


def test_it_keeps_no_matrix_when_there_is_none():
    muon = Muon({}, lr=0.1, weight_decay=0.0)
    step(muon, 0.9)
    assert muon.state_dict() == {}


def test_compiled_is_the_same_and_compiles_a_shape_once(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    plain, compiled = ({n: nn.Parameter(random(*s)) for n, s in (("a", (8, 12)), ("b", (12, 8)))} for _ in range(2))
    pair = [(plain, Muon(plain, lr=0.1, weight_decay=0.1))]
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    pair.append((compiled, Muon(compiled, lr=0.1, weight_decay=0.1, compiled=True)))
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 0, "nothing before the first step"
    for number in range(3):
        for weights, muon in pair:
            for seed, weight in enumerate(weights.values()):
                weight.grad = random(*weight.shape, seed=10 * number + seed)
            step(muon, 0.85 + 0.01 * number)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2
    for name, weight in plain.items():
        torch.testing.assert_close(weight, compiled[name], rtol=0, atol=1e-5)
