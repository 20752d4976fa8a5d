"""The quantisation grid: where a row's weights may lie. Training (fake quantisation) and shipping use this one.

A row w of C weights gets the step ``step = fp16(clip_sigma * std(w) / (2^(bits-1) - 1))`` and the integer codes
``round(w / step)`` clipped to ±(2^(bits-1) - 1): the clip lies ``clip_sigma`` standard deviations out, so the step
follows the bulk of the row and not its largest weight ("SDClip" of the 1.0810 record). The step is stored as fp16,
hence rounded before any weight is divided by it.
"""

from __future__ import annotations

import torch
from torch import Tensor

SMALLEST_STEP = 2.0**-24  # the least positive fp16: a row of zeros must not divide by zero
LARGEST_STEP = 65504.0  # the largest finite fp16


def max_code(bits: int) -> int:
    """The largest code of a symmetric ``bits``-wide grid: 31 for 6 bits."""
    return 2 ** (bits - 1) - 1


def row_steps(weight: Tensor, bits: int, clip_sigma: float) -> Tensor:
    """The step of each row.

    Args:
        weight: (R, C) floating point.
        bits: width of a code, 2 to 8.
        clip_sigma: where codes clip, in (unbiased) standard deviations of the row.

    Returns:
        (R,) float32, each exactly representable in fp16 and above 0.
    """
    weight = weight.detach().float()
    spread = weight.std(dim=1) if weight.shape[1] > 1 else weight.abs().squeeze(1)  # one weight has no deviation
    steps = (spread * (clip_sigma / max_code(bits))).clamp(SMALLEST_STEP, LARGEST_STEP)
    return round_to_half(steps)


def round_to_half(x: Tensor) -> Tensor:
    """Positive fp32 values up to 65,504 rounded to the nearest fp16, ties to even, still as fp32.

    Not ``x.half().float()``: the compiler computes fp16 in fp32 and drops that pair of casts, so that a compiled
    model would train on steps that never ship.
    """
    bits = x.view(torch.int32)  # fp16 keeps 10 of fp32's 23 fraction bits
    normal = ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)
    return torch.where(x < 2.0**-14, torch.round(x * 2.0**24) * 2.0**-24, normal)


def quantize_codes(weight: Tensor, steps: Tensor, bits: int) -> Tensor:
    """Integer codes (R, C), as float32, of ``weight`` (R, C) on the grid of ``steps`` (R,). Ties go to even."""
    limit = max_code(bits)
    return torch.round(weight.detach().float() / steps.float()[:, None]).clamp(-limit, limit)


def fake_quantize(weight: Tensor, bits: int, clip_sigma: float) -> Tensor:
    """``weight`` (R, C) rounded to its grid; the gradient passes as if it had not been (straight-through).

    The value is, bit for bit, :func:`quantize_codes` times :func:`row_steps`: ``weight - weight.detach()`` adds zero
    and carries the gradient, where the usual ``weight + (rounded - weight).detach()`` would round once more.
    """
    steps = row_steps(weight, bits, clip_sigma)
    rounded = (quantize_codes(weight, steps, bits) * steps[:, None]).to(weight.dtype)
    return rounded + (weight - weight.detach())
