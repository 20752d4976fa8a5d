"""What a step computes, and what the chip could: model FLOPs utilisation (MFU)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from golf.model.linear import Linear, TiedHead
from golf.model.transformer import Transformer

# Dense bf16 products with fp32 sums, FLOP/s, by a part of the device's name: the makers' data sheets. First match.
PEAKS = (
    ("H100 PCIe", 756e12), ("H100 NVL", 835e12), ("H100", 989.4e12), ("H200", 989.4e12), ("GH200", 989.4e12),
    ("B200", 2250e12), ("B300", 2250e12), ("A100", 312e12), ("A800", 312e12), ("L40S", 362e12), ("L40", 181e12),
    ("L4", 121e12), ("A10", 125e12), ("RTX 5090", 209.5e12), ("RTX 4090", 165.2e12), ("RTX 3090", 71e12),
)  # fmt: skip
FORWARD_AND_BACKWARD = 3  # the backward pass multiplies twice where the forward pass does once


class Work(NamedTuple):
    """FLOPs of a step forward and backward: products with weights and attention, nothing else; no recomputation."""

    per_token: int
    per_pair: int  # of a query and a key: q.k and its weight times v


def peak_flops(name: str) -> float | None:
    """The peak of the device called ``name``; None when it is not in the table."""
    return next((peak for part, peak in PEAKS if part in name), None)


@torch.no_grad()
def count_work(model: Transformer) -> Work:
    """The work of ``model`` as its passes are set now: 6 FLOPs a weight and token, each time a layer runs.

    Counted in a forward pass over a few tokens, so it holds for any order and number of passes.
    """
    device = model.embed.weight.device
    weights, attentions = 0, 0

    def multiply(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal weights
        weights += (inputs[1] if isinstance(module, TiedHead) else module.weight).numel()

    def attend(module: Any, inputs: tuple[Any, ...], output: Any) -> None:
        nonlocal attentions
        attentions += 1

    def hook(name: str, module: torch.nn.Module) -> Callable[..., None] | None:
        if isinstance(module, (Linear, TiedHead)):
            return multiply
        return attend if name.endswith(".attention") else None

    found = [(module, hook(name, module)) for name, module in model.named_modules()]
    handles = [module.register_forward_hook(call) for module, call in found if call is not None]
    kernels = model.kernels
    model.kernels = False  # they contain products that no hook sees
    try:
        model(torch.full((1, 16), model.bos_id, device=device))
    finally:
        model.kernels = kernels
        for handle in handles:
            handle.remove()
    products = 2 * FORWARD_AND_BACKWARD
    return Work(products * weights, products * 2 * model.config.dim * attentions)
