"""Step sizes that cost a byte a row: a logarithmic grid, and factors for the columns.

A row's step is ``2^(index / 8 - 24)``: eight steps an octave, so rounded by at most 4.4 %, before any weight is, so
that GPTQ corrects for it. Its index is a byte where fp16 takes two.

A column's factor is ``2^(exponent / 4)``. With U the Cholesky factor of the inverse Hessian (U^T U = H^-1, upper),
an error e of column j costs (e / U_jj)^2 in the layer's output, so at one rate for the whole matrix the error is least
when the step of column j is proportional to U_jj: reverse water-filling, "WaterSIC" (arXiv 2603.04956). Their
logarithms have mean 0: the rate stays that of the row steps. Matrices with the same input share H, hence the factors.

Powers of two are 8-bit integers times powers of 2, the same on every machine, and the product of a code of 8 bits
with two of them is exact in fp32.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from golf.quant.grid import max_code, row_steps

ROWS_AN_OCTAVE, COLUMNS_AN_OCTAVE = 8, 4
LOWEST = -24  # log2 of the step with index 0, the least of fp16 too
OCTAVE = (128, 140, 152, 166, 181, 197, 215, 235)  # 128 * 2^(i / 8), rounded
REACH = 100  # the largest code that a column is laid out for; int8 holds 127, for what GPTQ adds
MOST_OCTAVES = 4  # that a column's step may be off the mean


@dataclass(frozen=True)
class Scheme:
    """How one matrix is quantised."""

    bits: int  # its step is the finer the more
    clip_sigma: float  # and the finer the less: clip_sigma * std(row) / (2^(bits-1) - 1)
    by_column: bool = False  # rows on the logarithmic grid, times factors of the columns; else fp16 rows
    states: int = 0  # of the trellis; 0: none

    @property
    def limit(self) -> int:
        """The largest code. Where columns have steps of their own it is what int8 holds: the finest are never cut."""
        return 127 if self.by_column else max_code(self.bits)

    def rows(self, weight: Tensor) -> Tensor:
        """The steps of the rows of ``weight`` (R, C), as they are stored: (R,) fp16, or uint8 indices."""
        steps = row_steps(weight, self.bits, self.clip_sigma)
        return log_steps(steps) if self.by_column else steps.half()

    @staticmethod
    def steps(rows: Tensor) -> Tensor:
        """(R,) fp32: what :meth:`rows` stands for."""
        return steps_of(rows) if rows.dtype == torch.uint8 else rows.float()


def log_steps(steps: Tensor) -> Tensor:
    """The nearest index (R,), uint8, of each of ``steps`` (R,), which are above 0."""
    octaves = torch.log2(steps.double()) - LOWEST
    return torch.round(octaves * ROWS_AN_OCTAVE).clamp(0, 255).to(torch.uint8)


def steps_of(indices: Tensor) -> Tensor:
    """The steps (R,), fp32, that ``indices`` (R,) stand for."""
    return _power(indices.to(torch.int64) + LOWEST * ROWS_AN_OCTAVE)


def column_exponents(diagonal: Tensor) -> Tensor:
    """The exponents (C,), int8, of factors in proportion to ``diagonal`` (C,), that of U, which is above 0."""
    octaves = torch.log2(diagonal.double())
    octaves = (octaves - octaves.mean()).clamp(-MOST_OCTAVES, MOST_OCTAVES)
    return torch.round(octaves * COLUMNS_AN_OCTAVE).to(torch.int8)


def within_reach(exponents: Tensor, weight: Tensor, steps: Tensor) -> Tensor:
    """``exponents`` (C,), raised where the largest code of the column of ``weight`` (R, C) would not fit in int8.

    An outlier column is often the one that the outputs depend on most: fine steps and large weights at once.
    """
    largest = (weight.detach().float().abs() / steps.to(weight.device)[:, None]).amax(0)
    least = torch.ceil(torch.log2(largest.clamp_min(1e-30) / REACH) * COLUMNS_AN_OCTAVE)
    return torch.maximum(exponents.float(), least.to(exponents.device)).clamp(-128, 127).to(torch.int8)


def factors_of(exponents: Tensor) -> Tensor:
    """The factors (C,), fp32, that ``exponents`` (C,) stand for."""
    return _power(exponents.to(torch.int64) * (ROWS_AN_OCTAVE // COLUMNS_AN_OCTAVE))


def _power(eighths: Tensor) -> Tensor:
    """2^(eighths / 8) in fp32, with a mantissa of :data:`OCTAVE`."""
    octave = torch.tensor(OCTAVE, dtype=torch.float32, device=eighths.device)
    return torch.ldexp(octave[eighths % ROWS_AN_OCTAVE], (eighths // ROWS_AN_OCTAVE - 7).to(torch.int32))
