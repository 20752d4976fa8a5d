"""The orthogonalisation inside Muon: five matrix polynomials that bring every singular value near 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Kind = Literal["stock", "polar_express"]
Quintic = tuple[float, float, float]  # (a, b, c) of X <- a*X + (b*XX' + c*(XX')^2)*X

STOCK: Quintic = (3.4445, -4.7750, 2.0315)  # Jordan's Muon: steep at 0, ends within about [0.7, 1.2]
# Amsel and others, "The Polar Express": each step is the best one for the interval that the step before left.
POLAR_EXPRESS: tuple[Quintic, ...] = (
    (8.1566, -22.4833, 15.8788),
    (4.0429, -2.8089, 0.5000),
    (3.8917, -2.7725, 0.5061),
    (3.2858, -2.3681, 0.4645),
    (2.3465, -1.7098, 0.4232),
)
NORM_EPS = 1e-7  # added to the norms that divide, as in the records


def quintics(kind: Kind, steps: int) -> tuple[Quintic, ...]:
    """The coefficients of ``steps`` iterations; beyond the five of ``polar_express`` its last repeats."""
    if kind == "stock":
        return (STOCK,) * steps
    return tuple(POLAR_EXPRESS[min(step, len(POLAR_EXPRESS) - 1)] for step in range(steps))


def symmetric_product(x: Tensor, plus: Tensor | None = None, *, alpha: float = 1.0, beta: float = 0.0) -> Tensor:
    """``alpha * x x' + beta * plus``, which is symmetric: half of its tiles determine the other half.

    Args:
        x: (N, R, C).
        plus: (N, R, R), symmetric; None: nothing is added.
        alpha, beta: factors.

    Returns:
        (N, R, R), of x's dtype.
    """
    if plus is None:
        return x @ x.mT if alpha == 1.0 else alpha * (x @ x.mT)
    return torch.baddbmm(plus, x, x.mT, beta=beta, alpha=alpha)


def newton_schulz(
    gradients: Tensor,
    coefficients: Sequence[Quintic] = (STOCK,) * 5,
    *,
    row_normalize: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """The nearest matrices with all singular values near 1: U V' of each G = U S V'.

    Args:
        gradients: (N, R, C), a batch of matrices of one shape.
        coefficients: of each iteration; see :func:`quintics`.
        row_normalize: divide each row by its norm first (MuonEq-R of the 1.0810 record).
        dtype: of the iteration; by default bf16 on a GPU, fp32 elsewhere.

    Returns:
        (N, R, C) in ``dtype``.
    """
    x = gradients
    if row_normalize:
        x = x / (torch.linalg.vector_norm(x, dim=2, keepdim=True) + NORM_EPS)
    x = x.to(dtype or (torch.bfloat16 if x.is_cuda else torch.float32))
    tall = x.shape[1] > x.shape[2]
    if tall:
        x = x.mT
    x = x / (torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True) + NORM_EPS)
    for a, b, c in coefficients:
        gram = symmetric_product(x)
        x = torch.baddbmm(x, symmetric_product(gram, gram, alpha=c, beta=b), x, beta=a)
    return x.mT if tall else x
