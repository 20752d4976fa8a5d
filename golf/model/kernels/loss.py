"""Output projection and softcapped cross-entropy in one: the logits of a few thousand positions at a time.

The gradients are computed with the loss. Each chunk's logits are made, turned in place into their own gradient while
they are in the cache, and multiplied into dX and dW, so the logits of a batch (98,304 x 8,192: 1.6 GB in bf16, and as
much for their gradient) never exist. The price: what flows into the loss must be one number for all positions (a mean
or a sum), for dW is summed over positions before it is known.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.kernels.launch import Kernel, differentiable, power_of_two
from golf.model.loss import softcapped_nll

if TYPE_CHECKING:
    import triton.language as tl

CHUNK = 1 << 27  # logits at a time, 256 MiB in bf16: chunks that fit the cache were slower, their products too small
MOST_TOKENS = 32_768  # of a vocabulary: one program holds a row of logits
HIGHEST_CAP = 40.0  # exp(-2 cap) must be a normal fp32


def linear_cross_entropy(x: Tensor, weight: Tensor, targets: Tensor, cap: float, kernel: bool = False) -> Tensor:
    """Negative log-likelihood, in nats, of ``targets`` under ``softcap(x weightᵀ)``.

    With the kernel dW comes out in fp32 (the twin rounds it to the dtype of x), and it is NaN, rather than wrong, when
    the gradient that flows in differs between positions.

    Args:
        x: (N, D), bf16 or fp32.
        weight: (V, D) fp32.
        targets: (N,) int64 in [0, V).
        cap: logits z become ``cap * tanh(z / cap)``; with the kernel at most 40.
        kernel: use the kernel, else its twin.

    Returns:
        (N,) fp32.
    """
    if not kernel:
        logits = F.linear(x, weight.to(x.dtype)).float()
        return softcapped_nll(logits[None], targets[None], cap)[0]
    if not takes(len(weight), cap):
        found = f"{len(weight)} tokens and cap {cap}"
        raise ValueError(f"linear_cross_entropy: found {found}, needed at most {MOST_TOKENS} and {HIGHEST_CAP}")
    gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return _linear_nll(x.contiguous(), weight, targets, cap, gradient)[0]


def takes(vocabulary: int, cap: float) -> bool:
    """Whether the kernel can: one program holds a row of logits, and the softmax needs no maximum."""
    return vocabulary <= MOST_TOKENS and 0 < cap <= HIGHEST_CAP


@torch.library.custom_op(
    "golf::linear_nll",
    mutates_args=(),
    schema="(Tensor x, Tensor weight, Tensor targets, float cap, bool gradient) -> (Tensor, Tensor, Tensor)",
)
def _linear_nll(x: Tensor, weight: Tensor, targets: Tensor, cap: float, gradient: bool) -> tuple[Tensor, ...]:
    nll, dx, dw = _outputs(x, weight, gradient)
    dw.zero_()
    seen = weight.to(x.dtype)
    vocabulary, block = len(seen), power_of_two(len(seen))
    chunk = max(1, CHUNK // vocabulary)
    buffer = x.new_empty(min(chunk, len(x)), vocabulary)
    for start in range(0, len(x), chunk):
        rows = slice(start, min(start + chunk, len(x)))
        part = x[rows]
        logits = torch.mm(part, seen.mT, out=buffer[: len(part)])
        _nll_kernel[(len(part),)](
            logits, targets[rows], nll[rows], vocabulary, cap, gradient, block, num_warps=min(16, max(1, block // 512))
        )
        if gradient:
            torch.mm(logits, seen, out=dx[rows])
            _add_product(dw, logits, part)
    return nll, dx, dw


def _outputs(x: Tensor, weight: Tensor, gradient: bool) -> tuple[Tensor, Tensor, Tensor]:
    nll = x.new_empty(len(x), dtype=torch.float32)
    if not gradient:
        return nll, x.new_empty(0), x.new_empty(0, dtype=torch.float32)
    return nll, torch.empty_like(x), weight.new_empty(weight.shape, dtype=torch.float32)


def _add_product(total: Tensor, gradient: Tensor, x: Tensor) -> None:
    """``total += gradientᵀ x`` in fp32."""
    if gradient.is_cuda and gradient.dtype != torch.float32:
        torch.addmm(total, gradient.mT, x, out_dtype=torch.float32, out=total)
    else:
        total.addmm_(gradient.mT.float(), x.float())


@_linear_nll.register_fake
def _(x: Tensor, weight: Tensor, targets: Tensor, cap: float, gradient: bool) -> tuple[Tensor, ...]:
    return _outputs(x, weight, gradient)


def _keep_gradients(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*output[1:])


@differentiable(_linear_nll, _keep_gradients)
def _scale_gradients(ctx: Any, upstream: Tensor, *_: None) -> tuple[Tensor | None, ...]:
    dx, dw = ctx.saved_tensors
    first = upstream[0]
    same = torch.where((upstream == first).all(), first, math.nan)
    scaled = torch.mul(dx, upstream[:, None], out=torch.empty_like(dx))  # in fp32, and one pass over memory
    return scaled, dw * same, None, None, None


@Kernel
def _nll_kernel(  # type: ignore[no-untyped-def]
    logits, targets, nll, vocabulary, cap, GRADIENT: tl.constexpr, BLOCK: tl.constexpr
):
    # With r = 1 / (exp(2z / cap) + 1): cap * tanh(z / cap) = cap - 2 cap r and 1 - tanh² = 4 r (1 - r). As no capped
    # logit leaves (-cap, cap), the softmax needs no maximum, hence one reduction over the row instead of two.
    row = tl.program_id(0).to(tl.int64)
    logits += row * vocabulary
    target = tl.load(targets + row)
    chosen = tl.load(logits + target).to(tl.float32)  # before the stores below overwrite it
    column = tl.arange(0, BLOCK)
    inside = column < vocabulary
    z = tl.load(logits + column, inside, other=0.0).to(tl.float32)
    # exp2 and the square of rsqrt are single instructions; exp and a division take five to eight more.
    inward = 2.8853900817779268 / cap  # 2 / ln 2
    outward = 2.8853900817779268 * cap
    root = tl.rsqrt(tl.exp2(z * inward) + 1.0)
    r = root * root
    weights = tl.where(inside, tl.exp2(-outward * r), 0.0)
    total = tl.sum(weights, 0)
    tl.store(nll + row, tl.log(total) + 2.0 * cap / (tl.exp2(chosen * inward) + 1.0))
    if GRADIENT:
        bend = r - r * r
        gradient = weights * (4.0 / total) * bend
        gradient = tl.where(column == target, gradient - 4.0 * bend, gradient)
        tl.store(logits + column, gradient.to(logits.dtype.element_ty), inside)
