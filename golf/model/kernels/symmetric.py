"""Products whose result is symmetric, for Newton-Schulz: only the tiles on and below the diagonal are computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from golf.model.kernels.launch import Kernel

if TYPE_CHECKING:
    import triton.language as tl

SIDE, INNER = 128, 64  # of a tile
WARPS, STAGES = 8, 4


def symmetric_product(
    x: Tensor, alpha: float = 1.0, add: Tensor | None = None, beta: float = 0.0, kernel: bool = False
) -> Tensor:
    """``alpha * x xᵀ + beta * add``; with a symmetric x this is ``alpha * x² + beta * add``. No gradient.

    Args:
        x: (N, R, C), bf16 or fp32.
        alpha: of the product.
        add: (N, R, R), symmetric, in the dtype of x.
        beta: of ``add``.
        kernel: use the kernel, else its twin.

    Returns:
        (N, R, R) in the dtype of x, accumulated in fp32.
    """
    if kernel:
        return _symmetric_product(x, alpha, add, beta)
    if add is not None:
        return torch.baddbmm(add, x, x.mT, beta=beta, alpha=alpha)
    product = x @ x.mT
    return product if alpha == 1.0 else product * alpha


@torch.library.custom_op(
    "golf::symmetric_product",
    mutates_args=(),
    schema="(Tensor x, float alpha, Tensor? add, float beta) -> Tensor",
)
def _symmetric_product(x: Tensor, alpha: float, add: Tensor | None, beta: float) -> Tensor:
    count, rows, columns = x.shape
    out = x.new_empty(count, rows, rows)
    side = -(-rows // SIDE)
    _kernel[(side * (side + 1) // 2, count)](
        x, x if add is None else add.contiguous(), out, rows, columns, *x.stride(), alpha, beta,
        add is not None, SIDE, INNER, num_warps=WARPS, num_stages=STAGES,
    )  # fmt: skip
    return out


@_symmetric_product.register_fake
def _(x: Tensor, alpha: float, add: Tensor | None, beta: float) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], x.shape[1])


@Kernel
def _kernel(  # type: ignore[no-untyped-def]
    x, add, out, rows, columns, matrix_stride, row_stride, column_stride, alpha, beta,
    ADD: tl.constexpr, SIDE: tl.constexpr, INNER: tl.constexpr,
):  # fmt: skip
    # Tile t of the triangle lies in row i with i (i + 1) / 2 <= t; a root in fp32 may miss i by one.
    tile = tl.program_id(0)
    i = tl.floor((tl.sqrt(8.0 * tile + 1.0) - 1.0) * 0.5).to(tl.int32)
    i = tl.where(i * (i + 1) // 2 > tile, i - 1, i)
    i = tl.where((i + 1) * (i + 2) // 2 <= tile, i + 1, i)
    j = tile - i * (i + 1) // 2
    matrix = tl.program_id(1).to(tl.int64)
    x += matrix * matrix_stride
    row, column = i * SIDE + tl.arange(0, SIDE), j * SIDE + tl.arange(0, SIDE)
    k = tl.arange(0, INNER)
    left = x + row[:, None] * row_stride + k[None, :] * column_stride
    right = x + column[None, :] * row_stride + k[:, None] * column_stride
    product = tl.zeros((SIDE, SIDE), tl.float32)
    for start in range(0, columns, INNER):
        a = tl.load(left + start * column_stride, (row < rows)[:, None] & (k + start < columns)[None, :], 0.0)
        b = tl.load(right + start * column_stride, (column < rows)[None, :] & (k + start < columns)[:, None], 0.0)
        product = tl.dot(a, b, product)
    product *= alpha
    at = matrix * rows * rows + row[:, None] * rows + column[None, :]
    inside = (row < rows)[:, None] & (column < rows)[None, :]
    if ADD:
        product += beta * tl.load(add + at, inside, 0.0).to(tl.float32)
    product = product.to(out.dtype.element_ty)
    tl.store(out + at, product, inside)
    if i != j:
        mirror = matrix * rows * rows + column[:, None] * rows + row[None, :]
        tl.store(out + mirror, tl.trans(product), (column < rows)[:, None] & (row < rows)[None, :])
