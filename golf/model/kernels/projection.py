"""One product for queries, keys and values, and the output gates that read the first channels of the same input.

No kernel of ours, only the order of the library's: one large product where three small ones wait for memory, and in the
backward pass one gradient of the input, to whose first channels that of the gates is added in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from golf.model.kernels.launch import differentiable, weight_gradient


def project(
    x: Tensor, weights: Sequence[Tensor], gate: Tensor | None = None, kernel: bool = False
) -> tuple[Tensor, Tensor | None]:
    """``x Wᵀ`` for the matrices ``weights`` one below the other, and ``x[..., :n] gateᵀ``.

    With ``kernel`` the gradients of the matrices come out in fp32; the twin rounds them to the dtype of x.

    Args:
        x: (B, T, D), bf16 or fp32.
        weights: fp32, (rows, D) each.
        gate: (H, n) fp32, n <= D; None: there is none.
        kernel: use the one operation, else its twin.

    Returns:
        (B, T, all rows) and (B, T, H), in the dtype of x.
    """
    weight = torch.cat(list(weights))
    if not kernel:
        logits = None if gate is None else F.linear(x[..., : gate.shape[1]], gate.to(x.dtype))
        return F.linear(x, weight.to(x.dtype)), logits
    if gate is None:
        projected, _ = _project(x.flatten(0, 1), weight, weight.new_empty(0, 0))
        return projected.unflatten(0, x.shape[:2]), None
    projected, logits = _project(x.flatten(0, 1), weight, gate)
    return projected.unflatten(0, x.shape[:2]), logits.unflatten(0, x.shape[:2])


@torch.library.custom_op(
    "golf::project", mutates_args=(), schema="(Tensor x, Tensor weight, Tensor gate) -> (Tensor, Tensor)"
)
def _project(x: Tensor, weight: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return x @ weight.to(x.dtype).mT, x[:, : gate.shape[1]] @ gate.to(x.dtype).mT


@_project.register_fake
def _(x: Tensor, weight: Tensor, gate: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(len(x), len(weight)), x.new_empty(len(x), len(gate))


@torch.library.custom_op(
    "golf::project_backward",
    mutates_args=(),
    schema="(Tensor gradient, Tensor gate_gradient, Tensor x, Tensor weight, Tensor gate) -> (Tensor, Tensor, Tensor)",
)
def _project_backward(
    gradient: Tensor, gate_gradient: Tensor, x: Tensor, weight: Tensor, gate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dx, channels = gradient @ weight.to(x.dtype), gate.shape[1]
    if not channels:
        return dx, weight_gradient(gradient, x), torch.empty_like(gate)
    read = dx[:, :channels]
    torch.addmm(read, gate_gradient, gate.to(x.dtype), out=read)
    return dx, weight_gradient(gradient, x), weight_gradient(gate_gradient, x[:, :channels])


@_project_backward.register_fake
def _(
    gradient: Tensor, gate_gradient: Tensor, x: Tensor, weight: Tensor, gate: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weight), torch.empty_like(gate)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs)


@differentiable(_project, _keep)
def _gradients(ctx: Any, gradient: Tensor, gate_gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    dx, dweight, dgate = _project_backward(gradient.contiguous(), gate_gradient.contiguous(), *ctx.saved_tensors)
    return dx, dweight, dgate
