"""GPTQ with the full Hessian: rounding errors of one column are made good by the columns still to come.

Frantar et al., "GPTQ" (arXiv 2210.17323), with the columns in order of falling diagonal ("act-order"). For a linear
layer y = W x over calibration inputs x, the layer's squared output error is tr(D H D^T) with D the change of W and
H the mean of x x^T. With H^-1 = U^T U and U upper triangular, rounding column j with the error e moves every later
column k by -e * U_jk / U_jj, which is the least-squares answer given what is already rounded.

A column is rounded to the nearest codes or, with a trellis, to the best path through it, down the column's rows.

What the loss makes of an error is rather tr(G D H D^T), with G the mean of the outer products of its gradients by y. So
the same holds between rows: those still to come make good the errors of those that are done. Rows are done in blocks,
each by GPTQ, with every row of a block by itself ("YAQA", arXiv 2505.22988, goes row by row and column by column).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.linalg import solve_triangular

from golf.quant.quantized import QuantizedTensor, check_bits, check_finite
from golf.quant.steps import Scheme, column_exponents, factors_of, within_reach
from golf.quant.viterbi import Search
from golf.runtime.errors import DataError, FairwayError
from golf.runtime.graphs import record

# Rows of a block are a multiple of what the search takes at once in every trellis, and there are about eight blocks.
ROWS, BLOCKS_OF = 60, 512
MAX_RETRIES = 6  # of ten times the damping each: from 0.01 of the mean diagonal to 10,000 of it


@dataclass(frozen=True)
class Inverse:
    """What GPTQ needs of a Hessian (C, C): the order of its columns, and the factor of its inverse in that order."""

    order: Tensor  # (C,) int64
    factor: Tensor  # (C, C) fp32, upper triangular
    scale: float = 1.0  # the mean of the Hessian's diagonal where it is not 0, which the factor leaves out
    rows: Tensor | None = None  # (R, R) fp32, such a factor of the outputs' Hessian; None: each row by itself

    @property
    def exponents(self) -> Tensor:
        """(C,) int8: the columns' steps, in their own order; see :mod:`golf.quant.steps`."""
        exponents = torch.empty_like(self.order, dtype=torch.int8)
        exponents[self.order] = column_exponents(self.factor.diagonal())
        return exponents

    def rearranged(self, order: Tensor) -> Inverse:
        """That of the Hessian whose columns are ``order`` (C,) of this one's: the columns are done as they were."""
        places = torch.argsort(order.to(self.order.device))
        return replace(self, order=places[self.order])

    def shares(self, rows: slice) -> Tensor:
        """(rows, those behind): what one unit of error of each takes from each later row; see ``rows``."""
        assert self.rows is not None
        return solve_triangular(self.rows[rows, rows], self.rows[rows, rows.stop :], upper=True)

    def row_weights(self, rows: int) -> Tensor:
        """(R,): what a squared error of each row costs when the blocks behind its own have made good what they can."""
        if self.rows is None:
            return self.factor.new_ones(rows)
        parts = [self.rows[part, part] for part in row_blocks(rows)]
        return torch.cat([solve_triangular(part, _identity(part), upper=True).square().sum(1) for part in parts])


def invert(
    hessian: Tensor, damping: float, *, name: str = "weight", warn: Callable[[str], None] | None = None
) -> Inverse:
    """Order and factorise ``hessian``; see :func:`inverse_factor`."""
    check_finite(f"Hessian of {name}", hessian, hint="a diverged model; see reports/curves")
    order = torch.argsort(hessian.diagonal(), descending=True, stable=True)
    factor = inverse_factor(hessian[order][:, order], damping, name=name, warn=warn)
    diagonal = hessian.diagonal().double()
    return Inverse(order, factor, float(diagonal.sum() / (diagonal != 0).sum().clamp_min(1)))


def gptq(
    weight: Tensor,
    hessian: Tensor,
    bits: int,
    clip_sigma: float,
    damping: float,
    block_size: int,
    *,
    name: str = "weight",
    warn: Callable[[str], None] | None = None,
) -> QuantizedTensor:
    """Quantise ``weight`` (R, C) on the grid of its rows so that its outputs on the calibration inputs change least.

    Args:
        weight: (R, C), one output a row. Not changed.
        hessian: (C, C), the mean of x x^T; symmetric, positive semidefinite. Not changed.
        bits: width of a code, 2 to 8.
        clip_sigma: clip of a row in standard deviations of the original row.
        damping: added to the diagonal, as a share of its mean; tenfold after each failed factorisation.
        block_size: columns rounded between two updates of all columns that follow. The speed, not the result.
        name: of the tensor, for messages.
        warn: called with one line for each retry.

    Returns:
        The codes on the CPU, in the original order of the columns.

    Raises:
        ConfigError: ``bits`` is not 2 to 8.
        DataError: shapes don't fit, or a value is NaN or infinite.
        FairwayError: the Hessian is not positive definite even with the most damping.
    """
    check_bits(bits)
    check_shapes(weight, hessian, name)
    check_finite(name, weight)
    inverse = invert(hessian, damping, name=name, warn=warn)
    return quantize_batch([weight], [inverse], [Scheme(bits, clip_sigma)], block_size)[0]


def quantize_batch(
    weights: Sequence[Tensor], inverses: Sequence[Inverse], schemes: Sequence[Scheme], block_size: int
) -> list[QuantizedTensor]:
    """GPTQ of matrices (R, C) of one shape side by side: each as if it were alone, but the processor kept busy.

    Args:
        weights: finite; not changed.
        inverses: of each one's Hessian, on the device where the work is done.
        schemes: of each; they differ in width and clip alone.
        block_size: see :func:`gptq`.
    """
    device, rows = inverses[0].factor.device, weights[0].shape[0]
    # columns are rows here: each step then reads and writes contiguous memory
    order = torch.stack([inverse.order for inverse in inverses])
    columns = torch.stack([weight.detach().to(device, torch.float32).T for weight in weights])
    columns = columns.gather(1, order[:, :, None].expand_as(columns))
    factors = torch.stack([inverse.factor for inverse in inverses])
    stored = [scheme.rows(weight) for scheme, weight in zip(schemes, weights, strict=True)]
    steps = torch.stack([scheme.steps(rows).to(device) for scheme, rows in zip(schemes, stored, strict=True)])
    costs = steps.square() * torch.stack([inverse.row_weights(rows) for inverse in inverses])
    by_column = schemes[0].by_column
    exponents = torch.zeros_like(order)
    if by_column:
        wanted = zip(inverses, weights, steps, strict=True)
        exponents = torch.stack([within_reach(inverse.exponents, weight, step) for inverse, weight, step in wanted])
    scales = factors_of(exponents.gather(1, order))
    limits = torch.tensor([float(scheme.limit) for scheme in schemes], device=device)
    search = Search.of(schemes[0].states, device) if schemes[0].states else None
    codes = torch.empty_like(columns, dtype=torch.int8)
    states = torch.zeros_like(order)  # of the trellis, that each column is in
    together = [slice(0, rows)] if inverses[0].rows is None else row_blocks(rows)
    with _one_thread():
        for now in together:
            rounded = columns[:, :, now].contiguous()
            given = steps[:, now], costs[:, now], scales, limits
            codes[:, :, now] = _round_columns(rounded, factors, *given, search, states, block_size)
            for own, before, after, inverse in zip(columns, columns[:, :, now], rounded, inverses, strict=True):
                if inverse.rows is not None and now.stop < rows:
                    own[:, now.stop :] -= (before - after) @ inverse.shares(now)
    codes = torch.empty_like(codes).scatter_(1, order[:, :, None].expand_as(codes), codes)
    return [
        QuantizedTensor(
            codes[i].T.contiguous().cpu(),
            stored[i].cpu(),
            scheme.bits,
            exponents[i].cpu() if by_column else None,
            scheme.states,
        )
        for i, scheme in enumerate(schemes)
    ]


def row_blocks(rows: int) -> list[slice]:
    """The blocks in which the rows of a matrix are quantised, one after the other."""
    height = ROWS * -(-rows // BLOCKS_OF)
    return [slice(start, min(start + height, rows)) for start in range(0, rows, height)]


def inverse_factor(
    hessian: Tensor,
    damping: float,
    *,
    name: str = "weight",
    warn: Callable[[str], None] | None = None,
) -> Tensor:
    """The upper triangular U (C, C), fp32, with U^T U the inverse of the damped ``hessian`` (C, C).

    Columns whose diagonal is 0 were never active: they get the mean diagonal, hence neither give nor take a
    correction. Factorised in fp32; where that fails in fp64; where that fails too, again with ten times the damping.

    Raises:
        FairwayError: no damping helped.
    """
    diagonal = hessian.diagonal()
    alive = diagonal != 0
    # only ratios of entries of U are used, so the mean diagonal may be 1: no overflow, and the damping is a share
    scale = diagonal[alive].double().abs().mean() if bool(alive.any()) else torch.ones((), dtype=torch.float64)
    normal = hessian.double() / scale.to(hessian.device)  # fp64: a small damping would vanish in fp32
    normal[~alive] = 0.0
    normal[:, ~alive] = 0.0
    base = torch.where(alive, normal.diagonal(), torch.ones_like(normal.diagonal()))
    for retry in range(MAX_RETRIES + 1):
        normal.diagonal().copy_(base + damping)
        for dtype in (torch.float32, torch.float64):
            factor = _factor(normal.to(dtype))
            if factor is not None:
                return factor.to(torch.float32)
        if retry < MAX_RETRIES:
            damping *= 10
            if warn is not None:
                warn(f"{name}: Hessian not positive definite, trying again with damping {damping:g}")
    raise FairwayError(
        f"{name}: Hessian ({hessian.shape[0]} columns) not positive definite even with damping {damping:g}",
        hint="dvc exp run -S quant.calibration_tokens=262144",
    )


def output_error(weight: Tensor, hessian: Tensor, restored: Tensor) -> float:
    """tr(D H D^T) / tr(W H W^T) with D = restored - W: squared output error relative to the output's square.

    All (R, C), (C, C), (R, C). 0 when the outputs are 0 and stay so.
    """
    weight, hessian = weight.double(), hessian.double()
    change = restored.to(weight) - weight
    error = float(((change @ hessian) * change).sum())
    power = float(((weight @ hessian) * weight).sum())
    return error / power if power > 0 else max(error, 0.0)


def check_shapes(weight: Tensor, hessian: Tensor, name: str) -> None:
    """Refuse a Hessian that is not one of ``weight`` (R, C).

    Raises:
        DataError: it is not (C, C).
    """
    if weight.dim() != 2 or hessian.shape != (weight.shape[1], weight.shape[1]):
        raise DataError(
            f"{name}: found a weight {tuple(weight.shape)} with a Hessian {tuple(hessian.shape)}, "
            "needed (rows, columns) with (columns, columns)"
        )


def _factor(matrix: Tensor) -> Tensor | None:
    """Upper U with U^T U = matrix^-1, or None when ``matrix`` is not positive definite to working precision.

    With J the reversal of the order and J A J = L L^T, U = J L^-1 J: one factorisation, and no inverse of A.
    """
    lower, info = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(info) != 0:
        return None
    upper = solve_triangular(lower, _identity(matrix), upper=False).flip(0, 1)
    return upper if bool(torch.isfinite(upper).all()) else None


def _identity(like: Tensor) -> Tensor:
    return torch.eye(like.shape[0], dtype=like.dtype, device=like.device)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of operations of microseconds: on a busy machine waiting for a second thread costs 80 times more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _round_columns(
    columns: Tensor,
    factors: Tensor,
    steps: Tensor,
    costs: Tensor,
    scales: Tensor,
    limits: Tensor,
    search: Search | None,
    states: Tensor,
    block_size: int,
) -> Tensor:
    """The codes (B, C, R), int8, of ``columns`` (B, C, R), which become what the codes stand for.

    ``factors`` (B, C, C) are upper triangular, ``steps`` (B, R) and ``scales`` (B, C) make the step of a weight,
    ``limits`` (B,) are the largest codes; with ``search`` codes are symbols of a trellis, which columns enter in their
    ``states`` (B, C), replaced by those that they leave it in, and ``costs`` (B, R) what a step's square costs a row.
    """
    count = columns.shape[1]
    codes = torch.empty_like(columns, dtype=torch.int8)
    # row j: what one unit of error of j takes from each later column
    ratios = factors / factors.diagonal(dim1=1, dim2=2)[:, :, None]
    # the columns of a block and what is theirs, always in the same memory: a graph goes from one to the next
    place = torch.zeros(1, dtype=torch.int64, device=columns.device)
    block, taken, scale, state, found = (
        part[:, :block_size].clone() for part in (columns, ratios[:, :, :block_size], scales, states, codes)
    )
    errors = torch.zeros_like(block)

    def round_at(place: slice | Tensor, seen: int) -> None:
        """The column at ``place``, less what the first ``seen`` take from it; an error that is still to come is 0."""
        column = block[:, place].baddbmm(taken[:, :seen, place].transpose(1, 2), errors[:, :seen], alpha=-1)[:, 0]
        step = steps * scale[:, place]
        if search is None:
            code = level = torch.round(column / step).clamp(-limits[:, None], limits[:, None])
        else:
            code, level, end = search.symbols(column / step, costs, limits, state[:, place][:, 0])
            level, state[:, place] = level / 2, end[:, None]
        found[:, place] = code[:, None].to(torch.int8)
        block[:, place] = (level * step)[:, None]
        errors[:, place] = column[:, None] - block[:, place]

    def round_next() -> None:
        round_at(place, block_size)
        place.add_(1)

    replay = record(round_next).replay if columns.is_cuda else None
    for start in range(0, count, block_size):
        now, later = slice(start, start + block_size), slice(start + block_size, count)
        width = columns[:, now].shape[1]
        block[:, :width], scale[:, :width], state[:, :width] = columns[:, now], scales[:, now], states[:, now]
        taken[:, :width, :width] = ratios[:, now, now]
        errors.zero_()
        place.zero_()
        for j in range(width):
            replay() if replay else round_at(slice(j, j + 1), j)
        codes[:, now], columns[:, now], states[:, now] = found[:, :width], block[:, :width], state[:, :width]
        columns[:, later].baddbmm_(ratios[:, now, later].transpose(1, 2), errors[:, :width], alpha=-1)
    return codes
