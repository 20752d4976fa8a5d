"""From the joint projection of queries, keys and values to what attention reads: norm, gain and rotation of each head.

One pass reads the projection and writes queries, keys and values; one pass of the backward pass writes the gradient of
the projection whole, so that one matrix product, not three and two sums, takes it further. Left to the compiler these
are reductions over heads of 64, which it tiles badly. Keys and values that query heads share can be written out for
each of them: attention that adds shared gradients up in fp32 and converts them then is spared that.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from golf.model.kernels.launch import Kernel, differentiable, power_of_two, programs
from golf.model.norm import EPS, rms_norm
from golf.model.rope import Rotation, rotate

if TYPE_CHECKING:
    import triton.language as tl

ROWS, WARPS = 4, 4  # positions at a time
BACKWARD_PROGRAMS = 8  # a multiprocessor


def rotary_heads(
    projected: Tensor, gain: Tensor, rope: Rotation, kv_heads: int, kernel: bool = False, spread: bool = False
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Queries ``gain * rotate(norm(q))``, keys ``rotate(norm(k))`` and values, of heads of width W each.

    Args:
        projected: (B, T, (H + 2 G) W): queries, keys and values side by side.
        gain: (H,) fp32, of each query head.
        rope: of :func:`golf.model.rope.rotation`.
        kv_heads: G.
        kernel: use the kernels, else their twin.
        spread: write the keys and values that attention reads out for each query head.

    Returns:
        queries (B, T, H, W) and keys (B, T, G, W); values (B, T, G, W), and as attention reads them: the same, or with
        ``spread``, as the keys, (B, T, H, W). All contiguous with the kernels, in the dtype of ``projected``.
    """
    batch, length, total = projected.shape
    width, share = total // (len(gain) + 2 * kv_heads), len(gain) // kv_heads if spread else 1
    heads = projected.view(batch, length, -1, width)
    if kernel:
        cos, sin = (table.reshape(length, -1) for table in rope)
        q, k, v, read = _rotary_heads(heads.contiguous(), gain, cos, sin, share)
        return q, k, v, v if share == 1 else read
    q, k, v = heads.split([len(gain), kv_heads, kv_heads], 2)
    q, k = rotate(rms_norm(q, gain[:, None]), rope), rotate(rms_norm(k), rope)
    return q, spread_heads(k, share), v, spread_heads(v, share)


def spread_heads(x: Tensor, share: int) -> Tensor:
    """(B, T, G, W) -> (B, T, G * share, W): each head ``share`` times."""
    return x if share == 1 else x.repeat_interleave(share, 2)


@torch.library.custom_op(
    "golf::rotary_heads",
    mutates_args=(),
    schema="(Tensor heads, Tensor gain, Tensor cos, Tensor sin, int share) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _rotary_heads(heads: Tensor, gain: Tensor, cos: Tensor, sin: Tensor, share: int) -> tuple[Tensor, ...]:
    outputs = _outputs(heads, gain, share)
    positions, kinds = heads.shape[0] * heads.shape[1], _kinds(heads, gain, cos, share)
    _forward_kernel[(-(-positions // ROWS),)](
        heads, gain, cos, sin, *outputs, positions, heads.shape[1], EPS, *kinds, num_warps=WARPS
    )
    return outputs


def _outputs(heads: Tensor, gain: Tensor, share: int) -> tuple[Tensor, ...]:
    batch, length, count, width = heads.shape
    groups = (count - len(gain)) // 2
    q, k = heads.new_empty(batch, length, len(gain), width), heads.new_empty(batch, length, groups * share, width)
    v = heads.new_empty(batch, length, groups, width)
    return q, k, v, heads.new_empty(0) if share == 1 else torch.empty_like(k)


def _kinds(heads: Tensor, gain: Tensor, cos: Tensor, share: int) -> tuple[int, ...]:
    """Query heads, all heads, width, rotated pairs, copies, and the block that holds some positions."""
    count, width = heads.shape[2:]
    return len(gain), count, width, cos.shape[1], share, ROWS, power_of_two(count), power_of_two(width)


@_rotary_heads.register_fake
def _(heads: Tensor, gain: Tensor, cos: Tensor, sin: Tensor, share: int) -> tuple[Tensor, ...]:
    return _outputs(heads, gain, share)


@torch.library.custom_op(
    "golf::rotary_heads_backward",
    mutates_args=(),
    schema="(Tensor dq, Tensor dk, Tensor dv, Tensor dread, Tensor heads, Tensor gain, Tensor cos, Tensor sin,"
    " int share) -> (Tensor, Tensor)",
)
def _rotary_heads_backward(
    dq: Tensor, dk: Tensor, dv: Tensor, dread: Tensor, heads: Tensor, gain: Tensor, cos: Tensor, sin: Tensor, share: int
) -> tuple[Tensor, Tensor]:
    dheads = torch.empty_like(heads)
    positions, kinds = heads.shape[0] * heads.shape[1], _kinds(heads, gain, cos, share)
    grid = min(-(-positions // ROWS), programs(heads.device, BACKWARD_PROGRAMS))
    parts = gain.new_empty(grid, len(gain), dtype=torch.float32)
    _backward_kernel[(grid,)](
        dq, dk, dv, dread, heads, gain, cos, sin, dheads, parts, positions, heads.shape[1], EPS, *kinds, num_warps=WARPS
    )
    return dheads, parts.sum(0)


@_rotary_heads_backward.register_fake
def _(
    dq: Tensor, dk: Tensor, dv: Tensor, dread: Tensor, heads: Tensor, gain: Tensor, cos: Tensor, sin: Tensor, share: int
) -> tuple[Tensor, Tensor]:
    return torch.empty_like(heads), torch.empty_like(gain)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.share = inputs
    ctx.save_for_backward(*tensors)


@differentiable(_rotary_heads, _keep)
def _gradients(ctx: Any, *flows: Tensor) -> tuple[Tensor | None, ...]:
    contiguous = (flow.contiguous() for flow in flows)
    return *_rotary_heads_backward(*contiguous, *ctx.saved_tensors, ctx.share), None, None, None


@Kernel
def _forward_kernel(  # type: ignore[no-untyped-def]
    heads, gain, cos, sin, q, k, v, read, positions, length, eps, QUERIES: tl.constexpr, COUNT: tl.constexpr,
    WIDTH: tl.constexpr, PAIRS: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, HEADS: tl.constexpr,
    COLUMNS: tl.constexpr,
):  # fmt: skip
    # Queries, keys and values are one tile: what differs between them is masked, for the pass waits for memory anyway.
    GROUPS: tl.constexpr = (COUNT - QUERIES) // 2
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None, None]
    head, column = tl.arange(0, HEADS)[None, :, None], tl.arange(0, COLUMNS)[None, None, :]
    inside = (row < positions) & (head < COUNT) & (column < WIDTH)
    value = head >= QUERIES + GROUPS
    at = (row * COUNT + head) * WIDTH
    x = tl.load(heads + at + column, inside, 0.0).to(tl.float32)
    inverse = tl.where(value, 1.0, tl.rsqrt(tl.sum(x * x, 2, keep_dims=True) / WIDTH + eps))
    out = x
    if PAIRS > 0:
        turned = (column < 2 * PAIRS) & (head < QUERIES + GROUPS) & (row < positions)
        angle = (row % length) * PAIRS + column % PAIRS
        partner = tl.load(heads + at + (column + PAIRS) % (2 * PAIRS), turned, 0.0).to(tl.float32)
        s = tl.load(sin + angle, turned, 0.0).to(tl.float32)
        out = x * tl.load(cos + angle, turned, 1.0).to(tl.float32) + partner * tl.where(column < PAIRS, s, -s)
    out *= inverse * tl.load(gain + head, head < QUERIES, 1.0)
    out = out.to(q.dtype.element_ty)
    key = (head >= QUERIES) & (head < QUERIES + GROUPS)
    k_at = (row * GROUPS + head - QUERIES) * WIDTH
    v_at = k_at - GROUPS * WIDTH
    tl.store(q + (row * QUERIES + head) * WIDTH + column, out, inside & (head < QUERIES))
    tl.store(v + v_at + column, out, inside & value)
    for copy in tl.static_range(SHARE):
        tl.store(k + k_at * SHARE + copy * WIDTH + column, out, inside & key)
        if SHARE > 1:
            tl.store(read + v_at * SHARE + copy * WIDTH + column, out, inside & value)


@Kernel
def _backward_kernel(  # type: ignore[no-untyped-def]
    dq, dk, dv, dread, heads, gain, cos, sin, dheads, parts, positions, length, eps, QUERIES: tl.constexpr,
    COUNT: tl.constexpr, WIDTH: tl.constexpr, PAIRS: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr,
    HEADS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    GROUPS: tl.constexpr = (COUNT - QUERIES) // 2
    head, column = tl.arange(0, HEADS)[None, :, None], tl.arange(0, COLUMNS)[None, None, :]
    query, value = head < QUERIES, head >= QUERIES + GROUPS
    key = (head >= QUERIES) & (head < QUERIES + GROUPS)
    factor = tl.load(gain + head, query, 1.0)
    total = tl.zeros((HEADS,), tl.float32)
    for start in range(tl.program_id(0) * ROWS, positions, tl.num_programs(0) * ROWS):
        row = (start + tl.arange(0, ROWS)[:, None, None]).to(tl.int64)
        inside = (row < positions) & (head < COUNT) & (column < WIDTH)
        at = (row * COUNT + head) * WIDTH
        q_at, k_at = (row * QUERIES + head) * WIDTH, (row * GROUPS + head - QUERIES) * WIDTH
        v_at = k_at - GROUPS * WIDTH
        x = tl.load(heads + at + column, inside, 0.0).to(tl.float32)
        g = tl.load(dq + q_at + column, inside & query, 0.0).to(tl.float32)
        g += tl.load(dv + v_at + column, inside & value, 0.0).to(tl.float32)
        for copy in tl.static_range(SHARE):
            g += tl.load(dk + k_at * SHARE + copy * WIDTH + column, inside & key, 0.0).to(tl.float32)
            if SHARE > 1:
                g += tl.load(dread + v_at * SHARE + copy * WIDTH + column, inside & value, 0.0).to(tl.float32)
        if PAIRS > 0:
            turned = (column < 2 * PAIRS) & (row < positions)
            across, angle = (column + PAIRS) % (2 * PAIRS), (row % length) * PAIRS + column % PAIRS
            partner = tl.load(dq + q_at + across, turned & query, 0.0).to(tl.float32)
            for copy in tl.static_range(SHARE):
                partner += tl.load(dk + k_at * SHARE + copy * WIDTH + across, turned & key, 0.0).to(tl.float32)
            s = tl.load(sin + angle, turned, 0.0).to(tl.float32)
            c = tl.load(cos + angle, turned & (head < QUERIES + GROUPS), 1.0).to(tl.float32)
            g = g * c - partner * tl.where(column < PAIRS, s, -s)
        inverse = tl.rsqrt(tl.sum(x * x, 2, keep_dims=True) / WIDTH + eps)
        along = tl.sum(g * x, 2, keep_dims=True) * inverse  # d loss / d gain
        total += tl.sum(tl.sum(tl.where(query, along, 0.0), 2), 0)
        bent = factor * inverse * (g - along * inverse / WIDTH * x)
        tl.store(dheads + at + column, tl.where(value, g, bent).to(dheads.dtype.element_ty), inside)
    each = tl.arange(0, HEADS)
    tl.store(parts + tl.program_id(0) * QUERIES + each, total, each < QUERIES)
