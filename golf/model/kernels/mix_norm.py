"""Sum of residual terms, each scaled per channel, and its norm: all that lies between two matrix products of a layer.

``u = c_0 x + c_1 y`` is a residual update or the mix with the embedding; with three or four terms it is both at once
(``c = (m0, m0 b, m1)`` over the stream, the branch and the embedding), or these and a U-Net skip. One pass reads the
terms and writes u and norm(u); one pass of the backward pass reads both gradients and the terms, and writes the terms'
gradients and, from each program, its part of the coefficients' gradients. The parts are added in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from golf.model.kernels.launch import Kernel, differentiable, power_of_two, programs
from golf.model.norm import EPS, rms_norm

if TYPE_CHECKING:
    import triton.language as tl

MOST_TERMS = 4
ROWS = 4  # at a time, a warp each
BACKWARD_PROGRAMS = 4  # a multiprocessor


def mix_norm(
    terms: Sequence[Tensor], coefficients: Tensor, scale: float = 1.0, kernel: bool = False
) -> tuple[Tensor, Tensor]:
    """``u = sum_i c_i * t_i`` per channel, and ``scale * u / sqrt(mean(u²) + EPS)``.

    The kernel normalises u before it is rounded, the twin after.

    Args:
        terms: K tensors (…, D) of one dtype and shape, K from 1 to 4.
        coefficients: (K, D) fp32; the twin rounds them to the dtype of the terms.
        scale: of the normalised result.
        kernel: use the kernels, else their twin.

    Returns:
        u and its norm, each (…, D) in the dtype of the terms.
    """
    if not 1 <= len(terms) <= MOST_TERMS:
        raise ValueError(f"mix_norm: found {len(terms)} terms, needed 1 to {MOST_TERMS}")
    if kernel:
        rows = [term.reshape(-1, term.shape[-1]).contiguous() for term in terms]
        mixed, normed = _mix_norm(rows, coefficients, scale)
        return mixed.view_as(terms[0]), normed.view_as(terms[0])
    rounded = coefficients.to(terms[0].dtype)
    mixed = rounded[0] * terms[0]
    for coefficient, term in zip(rounded[1:], terms[1:], strict=True):
        mixed = torch.addcmul(mixed, coefficient, term)
    return mixed, rms_norm(mixed, scale)


@torch.library.custom_op(
    "golf::mix_norm",
    mutates_args=(),
    schema="(Tensor[] terms, Tensor coefficients, float scale) -> (Tensor, Tensor)",
)
def _mix_norm(terms: list[Tensor], coefficients: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    mixed, normed = torch.empty_like(terms[0]), torch.empty_like(terms[0])
    rows, width = mixed.shape
    _forward_kernel[(-(-rows // ROWS),)](
        *_four(terms), coefficients.contiguous(), mixed, normed, rows, width, scale, EPS,
        len(terms), ROWS, power_of_two(width), num_warps=ROWS,
    )  # fmt: skip
    return mixed, normed


@_mix_norm.register_fake
def _(terms: list[Tensor], coefficients: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(terms[0]), torch.empty_like(terms[0])


@torch.library.custom_op(
    "golf::mix_norm_backward",
    mutates_args=(),
    schema="(Tensor mixed_gradient, Tensor normed_gradient, Tensor[] terms, Tensor coefficients, float scale)"
    " -> (Tensor[], Tensor)",
)
def _mix_norm_backward(
    mixed_gradient: Tensor, normed_gradient: Tensor, terms: list[Tensor], coefficients: Tensor, scale: float
) -> tuple[list[Tensor], Tensor]:
    gradients = [torch.empty_like(term) for term in terms]
    rows, width = terms[0].shape
    grid = min(-(-rows // ROWS), programs(mixed_gradient.device, BACKWARD_PROGRAMS))
    parts = coefficients.new_empty(grid, len(terms), width, dtype=torch.float32)
    _backward_kernel[(grid,)](
        mixed_gradient, normed_gradient, *_four(terms), coefficients.contiguous(), *_four(gradients), parts,
        rows, width, scale, EPS, len(terms), ROWS, power_of_two(width), num_warps=ROWS,
    )  # fmt: skip
    return gradients, parts.sum(0)


@_mix_norm_backward.register_fake
def _(
    mixed_gradient: Tensor, normed_gradient: Tensor, terms: list[Tensor], coefficients: Tensor, scale: float
) -> tuple[list[Tensor], Tensor]:
    return [torch.empty_like(term) for term in terms], torch.empty_like(coefficients)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    terms, coefficients, ctx.scale = inputs
    ctx.save_for_backward(coefficients, *terms)


@differentiable(_mix_norm, _keep)
def _gradients(ctx: Any, mixed_gradient: Tensor, normed_gradient: Tensor) -> tuple[list[Tensor], Tensor, None]:
    coefficients, *terms = ctx.saved_tensors
    found = _mix_norm_backward(
        mixed_gradient.contiguous(), normed_gradient.contiguous(), terms, coefficients, ctx.scale
    )
    return *found, None


def _four(tensors: list[Tensor]) -> list[Tensor]:
    """The tensors, and the first again for the places that the kernel does not touch."""
    return tensors + tensors[:1] * (MOST_TERMS - len(tensors))


@Kernel
def _forward_kernel(  # type: ignore[no-untyped-def]
    t0, t1, t2, t3, coefficients, mixed, normed, rows, width, scale, eps,
    TERMS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    at, inside, channel = row * width + column, (row < rows) & (column < width), column < width
    u = tl.load(coefficients + column, channel, 0.0) * tl.load(t0 + at, inside, 0.0).to(tl.float32)
    if TERMS > 1:
        u += tl.load(coefficients + width + column, channel, 0.0) * tl.load(t1 + at, inside, 0.0).to(tl.float32)
    if TERMS > 2:
        u += tl.load(coefficients + 2 * width + column, channel, 0.0) * tl.load(t2 + at, inside, 0.0).to(tl.float32)
    if TERMS > 3:
        u += tl.load(coefficients + 3 * width + column, channel, 0.0) * tl.load(t3 + at, inside, 0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(u * u, 1) / width + eps) * scale
    tl.store(mixed + at, u.to(mixed.dtype.element_ty), inside)
    tl.store(normed + at, (u * inverse[:, None]).to(normed.dtype.element_ty), inside)


@Kernel
def _backward_kernel(  # type: ignore[no-untyped-def]
    du, dn, t0, t1, t2, t3, coefficients, d0, d1, d2, d3, parts, rows, width, scale, eps,
    TERMS: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    channel = column < width
    c0 = tl.load(coefficients + column, channel, 0.0)
    c1 = tl.load(coefficients + width + column, channel & (TERMS > 1), 0.0)
    c2 = tl.load(coefficients + 2 * width + column, channel & (TERMS > 2), 0.0)
    c3 = tl.load(coefficients + 3 * width + column, channel & (TERMS > 3), 0.0)
    s0 = tl.zeros((ROWS, BLOCK), tl.float32)
    s1, s2, s3 = s0, s0, s0
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (start + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        at, inside = row * width + column, (row < rows) & channel
        x0 = tl.load(t0 + at, inside, 0.0).to(tl.float32)
        u = c0 * x0
        if TERMS > 1:
            x1 = tl.load(t1 + at, inside, 0.0).to(tl.float32)
            u += c1 * x1
        if TERMS > 2:
            x2 = tl.load(t2 + at, inside, 0.0).to(tl.float32)
            u += c2 * x2
        if TERMS > 3:
            x3 = tl.load(t3 + at, inside, 0.0).to(tl.float32)
            u += c3 * x3
        g = tl.load(dn + at, inside, 0.0).to(tl.float32) * scale
        inverse = tl.rsqrt(tl.sum(u * u, 1) / width + eps)[:, None]
        along = tl.sum(g * u, 1)[:, None] / width * inverse * inverse
        g = tl.load(du + at, inside, 0.0).to(tl.float32) + inverse * (g - along * u)
        tl.store(d0 + at, (c0 * g).to(d0.dtype.element_ty), inside)
        s0 += g * x0
        if TERMS > 1:
            tl.store(d1 + at, (c1 * g).to(d1.dtype.element_ty), inside)
            s1 += g * x1
        if TERMS > 2:
            tl.store(d2 + at, (c2 * g).to(d2.dtype.element_ty), inside)
            s2 += g * x2
        if TERMS > 3:
            tl.store(d3 + at, (c3 * g).to(d3.dtype.element_ty), inside)
            s3 += g * x3
    parts += tl.program_id(0) * TERMS * width + tl.arange(0, BLOCK)
    channels = tl.arange(0, BLOCK) < width
    tl.store(parts, tl.sum(s0, 0), channels)
    tl.store(parts + width, tl.sum(s1, 0), channels & (TERMS > 1))
    tl.store(parts + 2 * width, tl.sum(s2, 0), channels & (TERMS > 2))
    tl.store(parts + 3 * width, tl.sum(s3, 0), channels & (TERMS > 3))
