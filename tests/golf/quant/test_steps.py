import pytest
import torch

from golf.quant.grid import row_steps
from golf.quant.steps import (
    LOWEST,
    REACH,
    Scheme,
    column_exponents,
    factors_of,
    log_steps,
    steps_of,
    within_reach,
)


def test_a_step_is_rounded_by_a_sixteenth_of_an_octave_at_most() -> None:
    steps = torch.exp2(torch.rand(5000, generator=torch.Generator().manual_seed(0)) * 31 + LOWEST + 0.2)
    octaves = torch.log2(steps_of(log_steps(steps)) / steps)
    assert float(octaves.abs().max()) < 1 / 16 + 0.006, "half a place of the grid, and what 8 bits of mantissa round"


def test_the_grid_is_its_own_nearest_and_rises() -> None:
    indices = torch.arange(256, dtype=torch.uint8)
    steps = steps_of(indices)
    assert torch.equal(log_steps(steps), indices)
    assert bool((steps.diff() > 0).all())
    assert float(steps[0]) == 2.0**LOWEST


def test_steps_times_factors_times_a_code_are_exact_in_fp32() -> None:
    steps = steps_of(torch.arange(256, dtype=torch.uint8))[:, None]
    factors = factors_of(torch.arange(-16, 17, dtype=torch.int8))[None]
    exact = steps.double() * factors.double()
    assert torch.equal((steps * factors).double(), exact)
    for code in (-127.0, 1.0, 63.0, 127.0):
        assert torch.equal((code * (steps * factors)).double(), code * exact)


def test_factors_follow_the_diagonal_and_keep_the_rate() -> None:
    diagonal = torch.exp2(torch.randn(400, generator=torch.Generator().manual_seed(1)))
    factors = factors_of(column_exponents(diagonal))
    octaves = torch.log2(factors / diagonal)
    assert float(octaves.max() - octaves.min()) < 0.27, "a quarter octave"
    assert abs(float(torch.log2(factors).mean())) < 0.02
    assert torch.equal(column_exponents(diagonal), column_exponents(diagonal * 1000)), "only ratios count"


def test_a_column_of_outliers_gets_steps_that_reach_them() -> None:
    weight = torch.randn(50, 6, generator=torch.Generator().manual_seed(2))
    weight[:, 3] *= 1000
    steps = torch.full((50,), 0.1)
    wanted = torch.tensor([0, 0, 0, -16, 4, 0], dtype=torch.int8)
    exponents = within_reach(wanted, weight, steps)
    assert torch.equal(exponents[[0, 1, 2, 4, 5]], wanted[[0, 1, 2, 4, 5]])
    assert float((weight[:, 3].abs() / (0.1 * factors_of(exponents)[3])).max()) <= REACH * 1.01
    assert not within_reach(torch.zeros(2, dtype=torch.int8), torch.zeros(3, 2), torch.ones(3)).any()


@pytest.mark.parametrize("bits", [2, 6, 8])
def test_schemes_store_the_training_grid_or_the_logarithmic_one(bits: int) -> None:
    weight = torch.randn(20, 30, generator=torch.Generator().manual_seed(3))
    exact = row_steps(weight, bits, 5.0)
    row, column = Scheme(bits, 5.0), Scheme(bits, 5.0, by_column=True)
    assert torch.equal(Scheme.steps(row.rows(weight)), exact)
    assert torch.equal(Scheme.steps(column.rows(weight)), steps_of(log_steps(exact)))
    assert (row.limit, column.limit) == (2 ** (bits - 1) - 1, 127)
