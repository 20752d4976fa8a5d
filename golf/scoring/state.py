"""A digest of everything that adapts, cheap enough to take at every chunk."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor, nn

_ELEMENTS = 1 << 22  # at a time: the int64 copy of a piece stays at 32 MB


def digest(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> str:
    """Hex digest of all parameters, buffers and optimizer state, of their bits and their order.

    Each tensor is reduced, where it lies, to the sum modulo 2^64 of its bit patterns times odd numbers that differ by
    position: integer addition has no rounding, so any order on any device gives the same sum. A changed bit changes
    it. This is a check against mistakes, not against an adversary, who could write any trace he likes.
    """
    hasher = hashlib.sha256()
    for name, tensor in sorted(model.state_dict(keep_vars=True).items()):
        hasher.update(f"{name}:{_checksum(tensor)};".encode())
    if optimizer is not None:
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        for number, parameter in enumerate(parameters):
            for key, value in sorted(optimizer.state.get(parameter, {}).items()):
                text = str(_checksum(value)) if isinstance(value, Tensor) else repr(value)
                hasher.update(f"{number}.{key}:{text};".encode())
    return hasher.hexdigest()[:32]


@torch.no_grad()
def _checksum(tensor: Tensor) -> int:
    flat = tensor.detach().contiguous().flatten()
    if flat.dtype.is_complex:
        flat = torch.view_as_real(flat).flatten()
    views = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    bits = flat.view(views[flat.element_size()]) if flat.dtype != torch.bool else flat
    result = torch.zeros((), dtype=torch.int64, device=flat.device)
    for start in range(0, bits.numel(), _ELEMENTS):
        piece = bits[start : start + _ELEMENTS].to(torch.int64)
        places = torch.arange(start, start + piece.numel(), device=flat.device)
        # Knuth's multiplier spreads neighbours; the low bit makes it odd, hence invertible modulo 2^64
        result += ((piece + 1) * (places * 2_654_435_761 | 1)).sum()
    return int(result)
