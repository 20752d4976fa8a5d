"""Rotary position embedding on the first dimensions of each head (partial RoPE)."""

from __future__ import annotations

import torch
from torch import Tensor

Rotation = tuple[Tensor, Tensor]  # cos, sin: (1, T, 1, rope_dims / 2)


def rotation(
    length: int, rope_dims: int, base: float, device: torch.device, dtype: torch.dtype, start: int | Tensor = 0
) -> Rotation:
    """cos and sin of ``t * base^(-2j / rope_dims)`` for ``length`` positions t from ``start``, j < rope_dims / 2.

    The angles are computed in fp32 and rounded to ``dtype`` last. In a compiled model this is one opaque operation:
    the compiler would fold it into each layer, and find the cosine of every angle again for every head, which took
    130 of 855 ms of a step on an H100.
    """
    if torch.compiler.is_compiling() and start == 0:
        return _rotation(length, rope_dims, base, device, dtype)
    return _tables(length, rope_dims, base, device, dtype, start)


def _tables(
    length: int, rope_dims: int, base: float, device: torch.device, dtype: torch.dtype, start: int | Tensor = 0
) -> Rotation:
    pairs = torch.arange(0, rope_dims, 2, device=device, dtype=torch.float32)
    positions = start + torch.arange(length, device=device, dtype=torch.float32)
    angles = torch.outer(positions, base ** (-pairs / rope_dims))[None, :, None, :]
    return angles.cos().to(dtype), angles.sin().to(dtype)


@torch.library.custom_op(
    "golf::rotation",
    mutates_args=(),
    schema="(int length, int rope_dims, float base, Device device, ScalarType dtype) -> (Tensor, Tensor)",
)
def _rotation(length: int, rope_dims: int, base: float, device: torch.device, dtype: torch.dtype) -> Rotation:
    return _tables(length, rope_dims, base, device, dtype)


@_rotation.register_fake
def _(length: int, rope_dims: int, base: float, device: torch.device, dtype: torch.dtype) -> Rotation:
    shape = (1, length, 1, (rope_dims + 1) // 2)
    return torch.empty(shape, device=device, dtype=dtype), torch.empty(shape, device=device, dtype=dtype)


def ntk_base(base: float, rope_dims: int, length: int, train_len: int) -> float:
    """The base for a window of ``length`` tokens: above ``train_len`` tokens (0: never) stretched by the NTK rule.

    ``base * (length / train_len)^(r / (r - 2))`` with r = ``rope_dims``: the slowest pair then turns, over the whole
    window, as far as it did over ``train_len`` tokens in training.
    """
    if train_len == 0 or length <= train_len or rope_dims <= 2:
        return base
    return base * (length / train_len) ** (rope_dims / (rope_dims - 2))


def rotate(x: Tensor, rope: Rotation) -> Tensor:
    """Turn x (B, T, H, D) by position in its first 2P dimensions, P the width of ``rope``; the rest passes.

    The pairs are (x_j, x_{j+P}), the two halves of the rotated part: (a, b) -> (a cos + b sin, b cos - a sin).
    """
    cos, sin = rope
    half = cos.shape[-1]
    if half == 0:
        return x
    first, second, rest = x.split([half, half, x.shape[-1] - 2 * half], dim=-1)
    return torch.cat((first * cos + second * sin, second * cos - first * sin, rest), dim=-1)
