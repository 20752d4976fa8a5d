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
    return summaries(tensor.reshape(1, -1))[0]


def summaries(rows: Tensor) -> list[bytes]:
    """Of each row of (N, M) its bytes, in CPU memory, or a checksum, on a GPU: all rows at once."""
    found = rows.contiguous().view(torch.uint8) if rows.device.type == "cpu" else checksums(rows)[:, None].cpu()
    return [row.tobytes() for row in found.numpy()]


def checksums(rows: Tensor) -> Tensor:
    """(N,) int64, of each row of (N, M)."""
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = rows.contiguous().view(views[rows.element_size()])
    result = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
    at_once = max(_ELEMENTS // max(len(rows), 1), 1)
    for start in range(0, bits.shape[1], at_once):
        piece = bits[:, start : start + at_once].to(torch.int64)
        places = torch.arange(start, start + piece.shape[1], device=rows.device)
        # Knuth's multiplier spreads neighbours; the low bit makes it odd, hence invertible modulo 2^64
        result += ((piece + 1) * (places * 2_654_435_761 | 1)).sum(1)
    return result
