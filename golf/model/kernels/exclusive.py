"""Exclusive self-attention and the output gate of the heads, between attention and its output projection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.kernels.launch import Kernel, differentiable, power_of_two

if TYPE_CHECKING:
    import triton.language as tl

EPS = 1e-12  # least length of a value vector, as in the 1.1228 record
PAIRS = 16  # of a position and a value head, in a program
WARPS = 4


def exclude_and_gate(y: Tensor, v: Tensor, gate: Tensor | None = None, kernel: bool = False) -> Tensor:
    """``gate * (y - <y, d> d)``, d the direction of the position's own value, for each head.

    Args:
        y: (B, T, H, W), the output of attention.
        v: (B, T, G, W), G a divisor of H; head h reads value h * G // H.
        gate: (B, T, H), or None for 1.
        kernel: use the kernels, else their twin.

    Returns:
        (B, T, H, W) in the dtype of y.
    """
    if kernel:
        return _exclude(y.contiguous(), v.contiguous(), None if gate is None else gate.contiguous())
    direction = F.normalize(v, dim=-1, eps=EPS).unsqueeze(3)  # (B, T, G, 1, W)
    grouped = y.view(*v.shape[:3], -1, v.shape[3])  # (B, T, G, H / G, W): no copy of v for each query head
    y = (grouped - (grouped * direction).sum(-1, keepdim=True) * direction).view(y.shape)
    return y if gate is None else y * gate[..., None]


@torch.library.custom_op("golf::exclude", mutates_args=(), schema="(Tensor y, Tensor v, Tensor? gate) -> Tensor")
def _exclude(y: Tensor, v: Tensor, gate: Tensor | None) -> Tensor:
    out = torch.empty_like(y)
    pairs, share, width = _sizes(y, v)
    _forward_kernel[(-(-pairs // PAIRS),)](
        y, v, y if gate is None else gate, out, pairs, share, width, EPS * EPS,
        gate is not None, PAIRS, power_of_two(share), power_of_two(width), num_warps=WARPS,
    )  # fmt: skip
    return out


@_exclude.register_fake
def _(y: Tensor, v: Tensor, gate: Tensor | None) -> Tensor:
    return torch.empty_like(y)


@torch.library.custom_op(
    "golf::exclude_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor y, Tensor v, Tensor? gate) -> (Tensor, Tensor, Tensor)",
)
def _exclude_backward(gradient: Tensor, y: Tensor, v: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    dy, dv, dgate = _gradients_of(y, v, gate)
    pairs, share, width = _sizes(y, v)
    _backward_kernel[(-(-pairs // PAIRS),)](
        gradient, y, v, y if gate is None else gate, dy, dv, dgate, pairs, share, width, EPS * EPS,
        gate is not None, PAIRS, power_of_two(share), power_of_two(width), num_warps=WARPS,
    )  # fmt: skip
    return dy, dv, dgate


@_exclude_backward.register_fake
def _(gradient: Tensor, y: Tensor, v: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return _gradients_of(y, v, gate)


def _gradients_of(y: Tensor, v: Tensor, gate: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(y), torch.empty_like(v), y.new_empty(0) if gate is None else torch.empty_like(gate)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.gated = inputs[2] is not None
    ctx.save_for_backward(*inputs[: 3 if ctx.gated else 2])


@differentiable(_exclude, _keep)
def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    y, v, *gate = ctx.saved_tensors
    dy, dv, dgate = _exclude_backward(gradient.contiguous(), y, v, gate[0] if ctx.gated else None)
    return dy, dv, dgate if ctx.gated else None


def _sizes(y: Tensor, v: Tensor) -> tuple[int, int, int]:
    """Pairs of a position and a value head, query heads that share one, width: the heads that share lie together."""
    width = v.shape[-1]
    return v.numel() // width, y.shape[-2] // v.shape[-2], width


@Kernel
def _forward_kernel(  # type: ignore[no-untyped-def]
    y, v, gate, out, pairs, share, width, eps,
    GATED: tl.constexpr, PAIRS: tl.constexpr, SHARE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)[:, None, None]
    head, column = tl.arange(0, SHARE)[None, :, None], tl.arange(0, WIDTH)[None, None, :]
    values = tl.load(v + pair * width + column, (pair < pairs) & (column < width), 0.0).to(tl.float32)
    at = (pair * share + head) * width + column
    inside = (pair < pairs) & (head < share) & (column < width)
    x = tl.load(y + at, inside, 0.0).to(tl.float32)
    inverse = 1.0 / tl.maximum(tl.sum(values * values, 2, keep_dims=True), eps)
    x -= tl.sum(x * values, 2, keep_dims=True) * inverse * values
    if GATED:
        x *= tl.load(gate + pair * share + head, (pair < pairs) & (head < share), 0.0).to(tl.float32)
    tl.store(out + at, x.to(out.dtype.element_ty), inside)


@Kernel
def _backward_kernel(  # type: ignore[no-untyped-def]
    gradient, y, v, gate, dy, dv, dgate, pairs, share, width, eps,
    GATED: tl.constexpr, PAIRS: tl.constexpr, SHARE: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    pair = tl.program_id(0).to(tl.int64) * PAIRS + tl.arange(0, PAIRS)[:, None, None]
    head, column = tl.arange(0, SHARE)[None, :, None], tl.arange(0, WIDTH)[None, None, :]
    value_at, value_inside = pair * width + column, (pair < pairs) & (column < width)
    at = (pair * share + head) * width + column
    inside = (pair < pairs) & (head < share) & (column < width)
    values = tl.load(v + value_at, value_inside, 0.0).to(tl.float32)
    x = tl.load(y + at, inside, 0.0).to(tl.float32)
    g = tl.load(gradient + at, inside, 0.0).to(tl.float32)
    square = tl.sum(values * values, 2, keep_dims=True)
    inverse = 1.0 / tl.maximum(square, eps)
    along_y = tl.sum(x * values, 2, keep_dims=True) * inverse
    if GATED:
        gate_at, gate_inside = pair * share + head, (pair < pairs) & (head < share)
        opened = tl.load(gate + gate_at, gate_inside, 0.0).to(tl.float32)
        closed = tl.sum(g * (x - along_y * values), 2, keep_dims=True)
        tl.store(dgate + gate_at, closed.to(dgate.dtype.element_ty), gate_inside)
        g *= opened
    along_g = tl.sum(g * values, 2, keep_dims=True) * inverse
    tl.store(dy + at, (g - along_g * values).to(dy.dtype.element_ty), inside)
    # Below the least length the divisor is a constant.
    bend = tl.where(square > eps, 2.0 * along_y * along_g, 0.0)
    gradients = bend * values - along_g * x - along_y * g
    tl.store(dv + value_at, tl.sum(gradients, 1, keep_dims=True).to(dv.dtype.element_ty), value_inside)
