"""Both residual lanes between two layers, in one pass over memory forward and one backward.

The lanes p and q take their shares of the branches a and m; the first merges a skip; attention reads its norm, mixed
with the embedding, and the MLP the norm of the second::

    p' = gate * (k_0 p + t_00 a + t_10 m) + weight * skip    norm(stream * p' + embedding * x0)
    q' = k_1 q + t_01 a + t_11 m                             norm(q')

where the sums of :mod:`golf.model.kernels.mix_norm` read a, m and p' more than once and have gradients of each reading.
The twin is made of those: :func:`golf.model.residual.read_lanes`. k and t are numbers: their gradients take a register
a row, those of the four factors per channel as many as the row is wide. ``torch.compile`` has the twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from golf.model.kernels.launch import Kernel, power_of_two, programs
from golf.model.kernels.mix_norm import BACKWARD_PROGRAMS, ROWS, Relay, per_channel, read
from golf.model.norm import EPS

if TYPE_CHECKING:
    import triton.language as tl

BRANCHED = 5  # terms: those that are always there, q, a and m
NUMBERS = 6


def cross(
    lanes: Sequence[Tensor],
    numbers: Sequence[Tensor],
    x0: Tensor | Relay,
    skip: Sequence[Tensor],
    channels: Sequence[Tensor | float],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``p', scale * norm(stream * p' + embedding * x0), q', scale * norm(q')``.

    Args:
        lanes: p, q, a, m (…, D) of one dtype; p alone where the lanes part: the sum in brackets and q' are p then.
        numbers: fp32, 0-d: k_0, t_00, t_10, k_1, t_01, t_11; none where the lanes part.
        x0: (…, D); handed on.
        skip: (…, D), or none.
        channels: fp32, (D,) or one number: stream, embedding; with a skip also gate and weight.
        scale: of the norms.
    """
    shape = lanes[0].shape
    terms = [term.reshape(-1, shape[-1]).contiguous() for term in (lanes[0], read(x0), *lanes[1:], *skip)]
    factors = [per_channel(factor, terms[0]) for factor in channels]
    packed = torch.stack([*numbers]) if numbers else factors[0].new_empty(0)
    *found, handed = _Lanes.apply(len(terms), scale, *terms, *factors, packed)
    if isinstance(x0, Relay):
        x0.value = handed.view(shape)
    lane, normed, other, other_normed = (result.view(shape) for result in found)
    return lane, normed, other, other_normed


class _Lanes(torch.autograd.Function):
    """The kernels. They hand x0 on, and p where the lanes part."""

    @staticmethod
    def forward(ctx: Any, count: int, scale: float, *tensors: Tensor) -> tuple[Tensor, ...]:
        terms, factors = tensors[:count], tensors[count:]
        like, (rows, width) = terms[0], terms[0].shape
        lane, normed, other_normed = (torch.empty_like(like) for _ in range(3))
        other = torch.empty_like(like) if count >= BRANCHED else like  # not written where the lanes part
        _forward_kernel[(-(-rows // ROWS),)](
            *_operands(terms, factors), lane, normed, other, other_normed, rows, width, scale, EPS, *_kind(terms), ROWS,
            power_of_two(width), num_warps=ROWS,
        )  # fmt: skip
        ctx.set_materialize_grads(False)
        ctx.count, ctx.scale = count, scale
        ctx.save_for_backward(*tensors)
        return lane, normed, other, other_normed, terms[1]

    @staticmethod
    def backward(ctx: Any, *flows: Tensor | None) -> Any:
        terms, factors = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        like, (rows, width) = terms[0], terms[0].shape
        *own, carried = (None if flow is None else flow.contiguous() for flow in flows)
        known = [torch.zeros_like(like) if flow is None else flow for flow in own]
        gradients = [torch.empty_like(term) for term in terms]
        grid = min(-(-rows // ROWS), programs(like.device, BACKWARD_PROGRAMS))
        parts = torch.empty(grid, len(factors) - 1, width, device=like.device)
        numbers = torch.empty(grid, NUMBERS, device=like.device)
        _backward_kernel[(grid,)](
            *known, like if carried is None else carried, *_operands(terms, factors), *_places(gradients),
            parts, numbers, rows, width, ctx.scale, EPS, *_kind(terms), carried is not None, ROWS,
            power_of_two(width), num_warps=ROWS,
        )  # fmt: skip
        return None, None, *gradients, *parts.sum(0).unbind(), numbers.sum(0) if ctx.count >= BRANCHED else None


def _kind(terms: Sequence[Tensor]) -> tuple[bool, bool]:
    """Whether there are branches, and whether there is a skip."""
    return len(terms) >= BRANCHED, len(terms) in (3, BRANCHED + 1)


def _places(terms: Sequence[Tensor]) -> list[Tensor]:
    """p, x0, q, a, m, skip: what there is not holds p."""
    branched, _ = _kind(terms)
    first = terms[0]
    placed = terms if branched else [*terms[:2], first, first, first, *terms[2:]]
    return [*placed, first][: BRANCHED + 1]


def _operands(terms: Sequence[Tensor], factors: Sequence[Tensor]) -> list[Tensor]:
    """Terms, numbers and channels in the kernels' places."""
    *channels, numbers = factors
    return [*_places(terms), numbers, *(channels * 2)[:4]]


@Kernel
def _forward_kernel(  # type: ignore[no-untyped-def]
    p, x0, q, a, m, skip, numbers, stream, embedding, gate, weight, lane, normed, other, other_normed,
    rows, width, scale, eps,
    BRANCHED: tl.constexpr, MERGED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    at, inside, channel = row * width + column, (row < rows) & (column < width), column < width
    u = tl.load(p + at, inside, 0.0).to(tl.float32)
    v = u
    if BRANCHED:
        first, second = tl.load(a + at, inside, 0.0).to(tl.float32), tl.load(m + at, inside, 0.0).to(tl.float32)
        v = tl.load(numbers + 3) * tl.load(q + at, inside, 0.0).to(tl.float32)
        v += tl.load(numbers + 4) * first + tl.load(numbers + 5) * second
        tl.store(other + at, v.to(other.dtype.element_ty), inside)
        u = tl.load(numbers) * u + tl.load(numbers + 1) * first + tl.load(numbers + 2) * second
    inverse = tl.rsqrt(tl.sum(v * v, 1) / width + eps) * scale
    tl.store(other_normed + at, (v * inverse[:, None]).to(other_normed.dtype.element_ty), inside)
    if MERGED:
        u = tl.load(gate + column, channel, 0.0) * u
        u += tl.load(weight + column, channel, 0.0) * tl.load(skip + at, inside, 0.0).to(tl.float32)
    tl.store(lane + at, u.to(lane.dtype.element_ty), inside)
    u = tl.load(stream + column, channel, 0.0) * u
    u += tl.load(embedding + column, channel, 0.0) * tl.load(x0 + at, inside, 0.0).to(tl.float32)
    inverse = tl.rsqrt(tl.sum(u * u, 1) / width + eps) * scale
    tl.store(normed + at, (u * inverse[:, None]).to(normed.dtype.element_ty), inside)


@Kernel
def _backward_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0915 - the chain rule, line by line
    dlane, dnormed, dother, dother_normed, carried, p, x0, q, a, m, skip, numbers, stream, embedding, gate, weight,
    dp, dx0, dq, da, dm, dskip, parts, of_numbers, rows, width, scale, eps,
    BRANCHED: tl.constexpr, MERGED: tl.constexpr, CARRIED: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    column = tl.arange(0, BLOCK)[None, :]
    channel = column < width
    s0 = tl.zeros((ROWS, BLOCK), tl.float32)
    s1, s2, s3 = s0, s0, s0
    n0 = tl.zeros((ROWS,), tl.float32)
    n1, n2, n3, n4, n5 = n0, n0, n0, n0, n0
    for start in range(tl.program_id(0) * ROWS, rows, tl.num_programs(0) * ROWS):
        row = (start + tl.arange(0, ROWS)[:, None]).to(tl.int64)
        at, inside = row * width + column, (row < rows) & channel
        own = tl.load(p + at, inside, 0.0).to(tl.float32)
        added = own
        if BRANCHED:
            first, second = tl.load(a + at, inside, 0.0).to(tl.float32), tl.load(m + at, inside, 0.0).to(tl.float32)
            added = tl.load(numbers) * own + tl.load(numbers + 1) * first + tl.load(numbers + 2) * second
        merged = added
        if MERGED:
            # Factors are loaded where they are used, from the cache: kept, they would take the sums' registers.
            carry = tl.load(skip + at, inside, 0.0).to(tl.float32)
            opened, share = tl.load(gate + column, channel, 0.0), tl.load(weight + column, channel, 0.0)
            merged = opened * added + share * carry
        embedded = tl.load(x0 + at, inside, 0.0).to(tl.float32)
        kept, mixed = tl.load(stream + column, channel, 0.0), tl.load(embedding + column, channel, 0.0)
        u = kept * merged + mixed * embedded
        flow = tl.load(dnormed + at, inside, 0.0).to(tl.float32) * scale
        inverse = tl.rsqrt(tl.sum(u * u, 1) / width + eps)[:, None]
        along = tl.sum(flow * u, 1)[:, None] / width * inverse * inverse
        g = inverse * (flow - along * u)
        s0 += g * merged
        s1 += g * embedded
        flow = mixed * g + tl.load(carried + at, inside & CARRIED, 0.0)
        tl.store(dx0 + at, flow.to(dx0.dtype.element_ty), inside)
        g = kept * g + tl.load(dlane + at, inside, 0.0).to(tl.float32)
        if MERGED:
            s2 += g * added
            s3 += g * carry
            tl.store(dskip + at, (share * g).to(dskip.dtype.element_ty), inside)
            g = opened * g
        u = own
        if BRANCHED:
            other = tl.load(q + at, inside, 0.0).to(tl.float32)
            u = tl.load(numbers + 3) * other + tl.load(numbers + 4) * first + tl.load(numbers + 5) * second
        flow = tl.load(dother_normed + at, inside, 0.0).to(tl.float32) * scale
        inverse = tl.rsqrt(tl.sum(u * u, 1) / width + eps)[:, None]
        along = tl.sum(flow * u, 1)[:, None] / width * inverse * inverse
        h = inverse * (flow - along * u) + tl.load(dother + at, inside, 0.0).to(tl.float32)
        if BRANCHED:
            n0, n3 = n0 + tl.sum(g * own, 1), n3 + tl.sum(h * other, 1)
            n1, n4 = n1 + tl.sum(g * first, 1), n4 + tl.sum(h * first, 1)
            n2, n5 = n2 + tl.sum(g * second, 1), n5 + tl.sum(h * second, 1)
            tl.store(dq + at, (tl.load(numbers + 3) * h).to(dq.dtype.element_ty), inside)
            tl.store(da + at, (tl.load(numbers + 1) * g + tl.load(numbers + 4) * h).to(da.dtype.element_ty), inside)
            tl.store(dm + at, (tl.load(numbers + 2) * g + tl.load(numbers + 5) * h).to(dm.dtype.element_ty), inside)
            g = tl.load(numbers) * g
        else:
            g += h
        tl.store(dp + at, g.to(dp.dtype.element_ty), inside)
    channels = tl.arange(0, BLOCK) < width
    parts += tl.program_id(0) * (2 + 2 * MERGED) * width + tl.arange(0, BLOCK)
    tl.store(parts, tl.sum(s0, 0), channels)
    tl.store(parts + width, tl.sum(s1, 0), channels)
    if MERGED:
        tl.store(parts + 2 * width, tl.sum(s2, 0), channels)
        tl.store(parts + 3 * width, tl.sum(s3, 0), channels)
    found = (n0, n1, n2, n3, n4, n5)
    for i in tl.static_range(6):
        tl.store(of_numbers + tl.program_id(0) * 6 + i, tl.sum(found[i], 0))
