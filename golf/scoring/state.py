"""A digest of everything that adapts, cheap enough to take at every chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

_ELEMENTS = 1 << 22  # at a time: the int64 copy of a piece stays at 32 MB


def digest(model: nn.Module, momentum: Sequence[Tensor] = ()) -> str:
    """Hex digest of all parameters and buffers, by name, and of ``momentum``: of their bits and their order.

    On CPU the bytes are hashed. On a GPU, each tensor is reduced, where it lies, to the sum modulo 2^64 of its bit
    patterns times odd numbers that differ by position: integer addition has no rounding, so any order gives the same
    sum, and a changed bit changes it. That is a check against mistakes, not against an adversary, who could write any
    trace he likes.
    """
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        hasher.update(f"{name}:".encode())
        hasher.update(_summary(tensor.detach()))
    for tensor in momentum:
        hasher.update(_summary(tensor.detach()))
    return hasher.hexdigest()[:32]


def _summary(tensor: Tensor) -> bytes:
    """The bytes of a tensor in CPU memory, or a checksum of one that lies on a GPU."""
    flat = tensor.contiguous().flatten()
    if flat.device.type == "cpu":
        return flat.view(torch.uint8).numpy().tobytes()
    return _checksum(flat).to_bytes(8, "little", signed=True)


def _checksum(flat: Tensor) -> int:
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = flat.view(views[flat.element_size()])
    result = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, bits.numel(), _ELEMENTS):
        piece = bits[start : start + _ELEMENTS].to(torch.int64)
        places = torch.arange(start, start + piece.numel(), device=flat.device)
        # Knuth's multiplier spreads neighbours; the low bit makes it odd, hence invertible modulo 2^64
        result += ((piece + 1) * (places * 2_654_435_761 | 1)).sum()
    return int(result)
