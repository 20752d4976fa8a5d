"""The feed-forward layer with its activation inside the matrix products.

Four of the six products stay with cuBLAS. The first takes the activation as its epilogue, the first of the backward
pass the activation's derivative. Of the hidden layer only phi(z) is kept, 0.4 GB at 98,304 x 2,048 in bf16: phi is a
square, so that it tells |phi'(z)|, and its last bit tells on which side of zero z was. It is rounded to the nearest
number with that bit: an error of at most 2**-7 where bf16 alone has 2**-8.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.kernels.launch import Kernel, descriptor, differentiable, programs, weight_gradient

if TYPE_CHECKING:
    import triton.language as tl

ROWS, COLUMNS, INNER = 128, 128, 64  # tile of both products
PROGRAMS = 2  # a multiprocessor: the one multiplies while the other writes
WARPS, STAGES = 4, 3  # as many stages as shared memory holds for two programs


def mlp(x: Tensor, up: Tensor, down: Tensor, slope: float, kernel: bool = False) -> Tensor:
    """``phi(x upᵀ) downᵀ`` with phi(z) = z² above zero and (slope z)² below.

    With the kernels the gradients of the matrices come out in fp32; the twin rounds them to the dtype of x.

    Args:
        x: (…, D), bf16 or fp32.
        up: (hidden, D) fp32.
        down: (D, hidden) fp32; D and hidden multiples of 8.
        slope: 0 for the squared ReLU.
        kernel: use the kernels, else their twin.

    Returns:
        (…, D) in the dtype of x.
    """
    if not kernel:
        return F.linear(activate(F.linear(x, up.to(x.dtype)), slope), down.to(x.dtype))
    return _mlp(x.reshape(-1, x.shape[-1]).contiguous(), up, down, slope)[0].view_as(x)


def activate(z: Tensor, slope: float) -> Tensor:
    """z² above zero and (slope z)² below."""
    return F.leaky_relu(z, slope).square()


@torch.library.custom_op(
    "golf::mlp", mutates_args=(), schema="(Tensor x, Tensor up, Tensor down, float slope) -> (Tensor, Tensor)"
)
def _mlp(x: Tensor, up: Tensor, down: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    after = _hidden(x, up)
    tiles, columns, grid = _tiles(x, up)
    _up_kernel[(grid,)](
        descriptor(x, (ROWS, INNER)),
        descriptor(up.to(x.dtype), (COLUMNS, INNER)),
        descriptor(after, (ROWS, COLUMNS // 2)),
        up.shape[1], tiles, columns, slope * slope,
        ROWS, COLUMNS, INNER, grid, _sign_bit(x), num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return torch.mm(after, down.to(x.dtype).mT), after


@_mlp.register_fake
def _(x: Tensor, up: Tensor, down: Tensor, slope: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), len(down)), _hidden(x, up)


@torch.library.custom_op(
    "golf::mlp_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor x, Tensor up, Tensor down, Tensor after, float slope) -> (Tensor, Tensor, Tensor)",
)
def _mlp_backward(
    gradient: Tensor, x: Tensor, up: Tensor, down: Tensor, after: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    hidden_gradient = _hidden(x, up)
    tiles, columns, grid = _tiles(x, up)
    _down_kernel[(grid,)](
        descriptor(gradient, (ROWS, INNER)),
        descriptor(down.to(x.dtype), (INNER, COLUMNS)),
        after, hidden_gradient, len(down), len(x), len(up), tiles, columns, slope,
        ROWS, COLUMNS, INNER, grid, _sign_bit(x), num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return (
        torch.mm(hidden_gradient, up.to(x.dtype)),
        weight_gradient(hidden_gradient, x),
        weight_gradient(gradient, after),
    )


@_mlp_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, up: Tensor, down: Tensor, after: Tensor, slope: float
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), up.new_empty(up.shape), down.new_empty(down.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*inputs[:3], output[1])
    ctx.slope = inputs[3]


@differentiable(_mlp, _keep)
def _gradients(ctx: Any, gradient: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    return *_mlp_backward(gradient.contiguous(), *ctx.saved_tensors, ctx.slope), None


def _hidden(x: Tensor, up: Tensor) -> Tensor:
    return x.new_empty(len(x), len(up))


def _tiles(x: Tensor, up: Tensor) -> tuple[int, int, int]:
    """Tiles of the hidden activations, tiles in a row of them, and the programs that share them."""
    columns = -(-len(up) // COLUMNS)
    tiles = -(-len(x) // ROWS) * columns
    return tiles, columns, min(tiles, programs(x.device, PROGRAMS))


def _sign_bit(x: Tensor) -> int:
    """The place, among the bits of an fp32 number, of the last one that the dtype of x keeps."""
    return 16 if x.dtype == torch.bfloat16 else 0


@Kernel
def _up_kernel(  # type: ignore[no-untyped-def]
    x, up, after, width, tiles, columns, leak,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PROGRAMS: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    # Neighbours in time share their rows of x; all of the weight stays in the cache.
    for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=True):
        row, column = tile // columns * ROWS, tile % columns * COLUMNS
        z = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, width, INNER):
            z = tl.dot(x.load([row, k]), up.load([column, k]).T, z)
        # In halves, which halves the shared memory that the stores take from the loads.
        left, right = tl.split(tl.permute(tl.reshape(z, (ROWS, 2, COLUMNS // 2)), (0, 2, 1)))
        for half in tl.static_range(2):
            part = left if half == 0 else right
            activated = part * tl.where(part > 0, part, leak * part)
            sign = (part < 0).to(tl.int32) << SIGN
            bits = activated.to(tl.int32, bitcast=True) - sign + (1 << SIGN)
            signed = ((bits >> SIGN + 1 << SIGN + 1) + sign).to(tl.float32, bitcast=True)
            # What is no number must not become one: adding to its bits may.
            signed = tl.where(activated == activated, signed, activated)  # noqa: PLR0124
            after.store([row, column + half * (COLUMNS // 2)], signed.to(after.dtype))


@Kernel
def _down_kernel(  # type: ignore[no-untyped-def]
    gradient, down, after, out, width, rows, hidden, tiles, columns, slope,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, INNER: tl.constexpr, PROGRAMS: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=True):
        row, column = tile // columns * ROWS, tile % columns * COLUMNS
        z = tl.zeros((ROWS, COLUMNS), tl.float32)
        for k in range(0, width, INNER):
            z = tl.dot(gradient.load([row, k]), down.load([k, column]), z)
        # Plain loads and stores: through the bulk copy engine they would take shared memory from the second program.
        own, unit = row + tl.arange(0, ROWS)[:, None], column + tl.arange(0, COLUMNS)[None, :]
        at, inside = own.to(tl.int64) * hidden + unit, (own < rows) & (unit < hidden)
        activated = tl.load(after + at, inside, 0.0).to(tl.float32)
        below = (activated.to(tl.int32, bitcast=True) >> SIGN) & 1
        z *= 2.0 * tl.sqrt(activated) * tl.where(below == 1, -slope, 1.0)  # phi'(z)
        tl.store(out + at, z.to(out.dtype.element_ty), inside)
