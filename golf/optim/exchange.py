"""What the optimizer asks of its peers. :class:`golf.train.distributed.Ranks` answers; alone, nobody is asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn


class Pending(Protocol):
    """An exchange under way."""

    def wait(self) -> object:
        """Let what is queued next on this device wait for it; on a GPU the host goes on."""


class Peers(Protocol):
    """``count`` ranks, of which this is number ``index``.

    All of them call the same methods in the same order with tensors of the same shape. Each method returns at once;
    its tensors may be touched again after ``wait``.
    """

    @property
    def index(self) -> int:
        """0 to ``count - 1``."""

    @property
    def count(self) -> int:
        """Ranks."""

    def sum_(self, tensor: Tensor) -> Pending:
        """Replace ``tensor`` by its sum over ranks."""

    def sum_shares(self, whole: Tensor, share: Tensor) -> Pending:
        """Put into ``share`` (K, …) this rank's rows of the sum of ``whole`` (K * count, …) over ranks."""

    def gather_shares(self, share: Tensor, whole: Tensor) -> Pending:
        """Put into ``whole`` (K * count, …) the ``share`` (K, …) of each rank, in their order."""


class Replicated:
    """The gradients that every rank needs whole: large ones are summed in place, all small ones as one flat tensor.

    Args:
        params: whose ``grad`` is summed; the same on every rank.
        peers: the other ranks; None: the gradients stay as they are.
    """

    SMALL = 1 << 16  # numbers: the bandwidth of a link is not reached below

    def __init__(self, params: Sequence[nn.Parameter], peers: Peers | None) -> None:
        self._peers = peers
        self._large = [param for param in params if param.numel() > self.SMALL]
        self._small = [param for param in params if param.numel() <= self.SMALL]
        self._sums: list[Tensor] = []
        self._pending: list[Pending] = []

    @torch.no_grad()
    def start(self) -> None:
        """Start the sums; a tensor without gradient counts as zero. The small gradients become views of one tensor."""
        if self._peers is None:
            self._sums = [param.grad for param in [*self._large, *self._small] if param.grad is not None]
            return
        self._sums = [_gradient(param) for param in self._large]
        if self._small:
            flat = torch.cat([_gradient(param).reshape(-1) for param in self._small])
            self._sums.append(flat)
            for param, part in zip(self._small, flat.split([p.numel() for p in self._small]), strict=True):
                param.grad = part.view_as(param)
        for param, total in zip(self._large, self._sums, strict=False):
            param.grad = total
        self._pending = [self._peers.sum_(total) for total in self._sums]

    def sums(self) -> list[Tensor]:
        """The sums over ranks, the same memory as the gradients; waits for them."""
        for pending in self._pending:
            pending.wait()
        self._pending = []
        return self._sums


def _gradient(param: nn.Parameter) -> Tensor:
    return torch.zeros_like(param) if param.grad is None else param.grad
