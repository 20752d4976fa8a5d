"""GPTQ with the full Hessian: rounding errors of one column are made good by the columns still to come.

Frantar et al., "GPTQ" (arXiv 2210.17323), with the columns in order of falling diagonal ("act-order"). For a linear
layer y = W x over calibration inputs x, the layer's squared output error is tr(D H D^T) with D the change of W and
H the mean of x x^T. With H^-1 = U^T U and U upper triangular, rounding column j with the error e moves every later
column k by -e * U_jk / U_jj, which is the least-squares answer given what is already rounded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from golf.quant.grid import max_code, row_steps
from golf.quant.quantized import QuantizedTensor, check_bits, check_finite
from golf.runtime.errors import DataError, FairwayError

MAX_RETRIES = 6  # of ten times the damping each: from 0.01 of the mean diagonal to 10,000 of it


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
    """Quantise ``weight`` (R, C) so that its outputs on the calibration inputs change least.

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
    _check(weight, hessian, name)
    # columns are rows here: each step then reads and writes contiguous memory
    columns = weight.detach().to(torch.float32).T.contiguous()
    steps = row_steps(weight, bits, clip_sigma)
    diagonal = hessian.diagonal()
    order = torch.argsort(diagonal, descending=True, stable=True)
    factor = inverse_factor(hessian[order][:, order], damping, name=name, warn=warn)
    codes = torch.empty_like(columns, dtype=torch.int8)
    with _one_thread():
        codes[order] = _round_columns(columns[order], factor, steps, max_code(bits), block_size)
    return QuantizedTensor(codes.T.contiguous().cpu(), steps.half().cpu(), bits)


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


def _check(weight: Tensor, hessian: Tensor, name: str) -> None:
    if weight.dim() != 2 or hessian.shape != (weight.shape[1], weight.shape[1]):
        raise DataError(
            f"{name}: found a weight {tuple(weight.shape)} with a Hessian {tuple(hessian.shape)}, "
            "needed (rows, columns) with (columns, columns)"
        )
    check_finite(name, weight)
    check_finite(f"Hessian of {name}", hessian, hint="a diverged model; see reports/curves")


def _factor(matrix: Tensor) -> Tensor | None:
    """Upper U with U^T U = matrix^-1, or None when ``matrix`` is not positive definite to working precision.

    With J the reversal of the order and J A J = L L^T, U = J L^-1 J: one factorisation, and no inverse of A.
    """
    lower, info = torch.linalg.cholesky_ex(matrix.flip(0, 1))
    if int(info) != 0:
        return None
    identity = torch.eye(matrix.shape[0], dtype=matrix.dtype, device=matrix.device)
    upper = torch.linalg.solve_triangular(lower, identity, upper=False).flip(0, 1)
    return upper if bool(torch.isfinite(upper).all()) else None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Thousands of operations of microseconds: on a busy machine waiting for a second thread costs 80 times more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _round_columns(columns: Tensor, factor: Tensor, steps: Tensor, limit: int, block_size: int) -> Tensor:
    """The codes (C, R), int8, of ``columns`` (C, R), which is used up; ``factor`` (C, C) upper, ``steps`` (R,)."""
    count = columns.shape[0]
    codes = torch.empty_like(columns, dtype=torch.int8)
    ratios = factor / factor.diagonal()[:, None]  # row j: what one unit of error of j takes from each later column
    for start in range(0, count, block_size):
        stop = min(start + block_size, count)
        errors = torch.empty_like(columns[start:stop])
        for j in range(start, stop):
            column = columns[j]
            code = torch.round(column / steps).clamp_(-limit, limit)
            codes[j] = code.to(torch.int8)
            errors[j - start] = column - code * steps
            if j + 1 < stop:
                columns[j + 1 : stop].addr_(ratios[j, j + 1 : stop], errors[j - start], alpha=-1)
        if stop < count:
            columns[stop:].addmm_(ratios[start:stop, stop:].T, errors, alpha=-1)
    return codes
