from itertools import product

import numpy as np
import pytest
import torch
from torch import Tensor

from golf.quant.trellis import levels, trellis
from golf.quant.viterbi import Search


def targets(batch: int, rows: int, seed: int = 0, spread: float = 2.4) -> Tensor:
    return torch.randn(batch, rows, generator=torch.Generator().manual_seed(seed)) * spread


def cost(x: Tensor, weights: Tensor, level: Tensor) -> Tensor:
    return ((x - level / 2).square().double() * weights).sum(-1)


def plain(x: np.ndarray, weights: np.ndarray, states: int, start: int = 0) -> float:
    """Viterbi over one whole sequence, as its definition reads."""
    offset, successor = trellis(states)
    best = {start: 0.0}
    for value, weight in zip(x, weights, strict=True):
        after: dict[int, float] = {}
        for state, so_far in best.items():
            for odd in (0, 1):
                symbol = 2 * np.round(((2 * value - offset[state]) / 2 - odd) / 2) + odd
                total = so_far + weight * (value - (2 * symbol + offset[state]) / 2) ** 2
                end = int(successor[state, odd])
                after[end] = min(total, after.get(end, np.inf))
        best = after
    return min(best.values())


@pytest.mark.parametrize("states", [4, 8])
@pytest.mark.parametrize("rows", [1, 2, 3, 5])
def test_no_sequence_at_all_is_better(states: int, rows: int) -> None:
    x, weights = targets(3, rows, spread=1.0), torch.rand(3, rows, generator=torch.Generator().manual_seed(9)) + 0.1
    symbols, level, _ = Search.of(states).symbols(x, weights, 3)
    every = np.array(list(product(range(-3, 4), repeat=rows)), dtype=np.int8).T
    candidates = torch.from_numpy(levels(every, states)).T.float()
    for i in range(3):
        best = cost(x[i], weights[i], candidates).min()
        assert cost(x[i], weights[i], level[i]) == pytest.approx(float(best), rel=1e-5)
    assert int(symbols.abs().max()) <= 3


@pytest.mark.parametrize("states", [4, 8, 16, 32])
@pytest.mark.parametrize("rows", [7, 64, 300])
def test_segments_find_what_one_search_finds(states: int, rows: int) -> None:
    x, weights = targets(2, rows, seed=rows), torch.rand(2, rows, generator=torch.Generator().manual_seed(1)) + 0.01
    _, level, _ = Search.of(states).symbols(x, weights, 127)
    for i in range(2):
        assert cost(x[i], weights[i], level[i]) == pytest.approx(
            plain(x[i].numpy(), weights[i].numpy(), states), rel=1e-4
        )


@pytest.mark.parametrize("states", [4, 8, 32])
def test_levels_are_what_the_decoder_makes_of_the_symbols(states: int) -> None:
    x = targets(5, 101)
    symbols, level, _ = Search.of(states).symbols(x, torch.ones(1, 101), 127)
    decoded = levels(symbols.T.to(torch.int8).numpy(), states)
    assert np.array_equal(decoded.T, level.numpy())


@pytest.mark.parametrize("states", [4, 8, 16, 32])
def test_a_sequence_in_parts_is_one_that_the_decoder_reads(states: int) -> None:
    """Each part begins in the states in which the part before ended, and is the best from there."""
    x, state = targets(5, 180, seed=states), torch.zeros(5, dtype=torch.int64)
    parts = []
    for part in x.split(60, 1):
        began = state
        symbols, level, state = Search.of(states).symbols(part, torch.ones(1, 60), 127, began)
        parts.append((symbols, level))
        for i in range(5):
            best = plain(part[i].numpy(), np.ones(60), states, int(began[i]))
            assert float((part[i] - level[i] / 2).square().sum()) == pytest.approx(best, rel=1e-4)
    symbols, level = (torch.cat(found, 1) for found in zip(*parts, strict=True))
    assert np.array_equal(levels(symbols.T.to(torch.int8).numpy(), states).T, level.numpy())


def test_sequences_do_not_know_of_each_other() -> None:
    x, weights = targets(6, 50), torch.ones(1, 50)
    together = Search.of(8).symbols(x, weights, 31)[0]
    alone = torch.cat([Search.of(8).symbols(part, weights, 31)[0] for part in x.split(1)])
    assert torch.equal(together, alone)


def test_each_sequence_has_its_own_limit() -> None:
    x = targets(3, 40, spread=20.0)
    symbols, _, _ = Search.of(8).symbols(x, torch.ones(1, 40), torch.tensor([2.0, 5.0, 127.0]))
    assert symbols.abs().amax(1)[:2].tolist() == [2.0, 5.0]
    assert float(symbols.abs().amax(1)[2]) > 5


@pytest.mark.parametrize(("states", "decibels"), [(4, 0.95), (8, 1.03), (32, 1.15)])
def test_it_gains_what_the_trellis_promises(states: int, decibels: float) -> None:
    """Over the scalar grid of the same step, whose error is step^2 / 12, and which costs as many bits."""
    x = targets(16, 1024)
    _, level, _ = Search.of(states).symbols(x, torch.ones(1, 1024), 127)
    gain = 10 * np.log10((1 / 12) / float((x - level / 2).square().mean()))
    assert gain > decibels
