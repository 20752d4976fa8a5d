"""Several exponential averages of the weights in one pass: the weights are read once, whatever the number of decays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from golf.model.kernels.launch import Kernel

if TYPE_CHECKING:
    import triton.language as tl

BLOCK = 4096  # weights of a program
MOST_AVERAGES = 4


class Lerps:
    """Moves every average towards the weights: ``average_k += step_k * (weight - average_k)`` for all tensors.

    Args:
        weights: fp32, contiguous; their memory must stay where it is.
        averages: up to four lists of tensors of the same shapes.
        kernel: use the kernel, else its twin.
    """

    def __init__(self, weights: Sequence[Tensor], averages: Sequence[Sequence[Tensor]], kernel: bool = False) -> None:
        if not 1 <= len(averages) <= MOST_AVERAGES:
            raise ValueError(f"averages: found {len(averages)} at once, needed 1 to {MOST_AVERAGES}")
        for tensors in (weights, *averages):
            if any(t.dtype != torch.float32 or not t.is_contiguous() or t.data_ptr() % 16 for t in tensors):
                raise ValueError("averages: needed contiguous fp32 tensors, aligned to 16 bytes")
        self.tensors = [list(tensors) for tensors in (weights, *averages)]
        self.table = self._addresses() if kernel else None
        # All of it for the twin; beside the kernel the last one to three numbers of a tensor.
        self.rest = self.tensors if not kernel else [_remainders(tensors) for tensors in self.tensors]

    def _addresses(self) -> Tensor:
        """(programs, 2 + K) int64: where a program's weights and averages begin, and how many fours there are."""
        table = [
            [tensor.data_ptr() + 4 * start for tensor in tensors] + [min(BLOCK, tensors[0].numel() - start) // 4]
            for tensors in zip(*self.tensors, strict=True)
            for start in range(0, tensors[0].numel() // 4 * 4, BLOCK)
        ]
        return torch.tensor(table, dtype=torch.int64, device=self.tensors[0][0].device)

    @torch.no_grad()
    def __call__(self, steps: Sequence[float]) -> None:
        """Move; ``steps`` has one number in [0, 1] for each average."""
        if self.table is not None and len(self.table):
            padded = [*steps, *[0.0] * (MOST_AVERAGES - len(steps))]
            _kernel[(len(self.table),)](self.table, *padded, len(steps), BLOCK, num_warps=8)
        weights, *averages = self.rest
        for average, step in zip(averages, steps, strict=True):
            if average:
                torch._foreach_lerp_(average, weights, step)


def _remainders(tensors: Sequence[Tensor]) -> list[Tensor]:
    """What is left of each tensor after its last whole four, where anything is."""
    return [tensor.view(-1)[tensor.numel() // 4 * 4 :] for tensor in tensors if tensor.numel() % 4]


@Kernel
def _kernel(table, s0, s1, s2, s3, AVERAGES: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    table += tl.program_id(0) * (AVERAGES + 2)
    at = tl.arange(0, BLOCK)
    # Counted in fours and said to be aligned, so that each thread moves 16 bytes at once.
    inside = at < tl.load(table + AVERAGES + 1) * 4
    weight = tl.load(tl.multiple_of(tl.load(table).to(tl.pointer_type(tl.float32)), 16) + at, inside)
    for k in tl.static_range(AVERAGES):
        step = s0 if k == 0 else s1 if k == 1 else s2 if k == 2 else s3
        average = tl.multiple_of(tl.load(table + k + 1).to(tl.pointer_type(tl.float32)), 16) + at
        value = tl.load(average, inside)
        tl.store(average, value + step * (weight - value), inside)
