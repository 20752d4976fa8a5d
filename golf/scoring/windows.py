"""Windows over a stream: which window scores which target, and the forward pass over a batch of them.

Window 0 holds the first ``length`` inputs and scores all of its targets; each further one moves on by ``stride`` and
scores its last ``stride`` targets. So every target is scored exactly once, the tail too: the last window is padded
beyond the end, and a causal model's scores don't change for what stands behind them.

Window positions count from the start of the stream and batches keep one shape, so the scores of a prefix are the
same bits whether the stream ends there or goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

Forward = Callable[..., Tensor]
"""tokens (B, L), targets (B, L) -> nll (B, L); tokens (B, L) alone -> logits (B, L, V)."""


def nll_of(forward: Forward, tokens: Tensor, wanted: Tensor, *given: Any) -> Tensor:
    """(N, B, L) fp32 nats of ``wanted`` (N, B, L), given ``tokens`` (B, L): targets, then hints, from one pass."""
    if len(wanted) == 1:
        return forward(tokens, wanted[0], *given)[None]
    log_p = torch.log_softmax(forward(tokens, None, *given).float(), dim=-1)
    return log_p.gather(-1, wanted.movedim(0, -1)).neg().movedim(-1, 0)


@dataclass(frozen=True)
class Windows:
    """Windows of ``length`` inputs that move by ``stride``, scored ``rows`` at a time."""

    length: int
    stride: int
    rows: int

    def count(self, tokens: int) -> int:
        """Windows that score a stream of that many tokens."""
        return 0 if tokens < 2 else self.holding(tokens - 1) + 1

    def holding(self, position: int) -> int:
        """The window that scores the target at ``position`` (1 or more)."""
        return 0 if position <= self.length else (position - self.length - 1) // self.stride + 1

    def first_target(self, window: int) -> int:
        """Position of the first target that ``window`` scores."""
        return 1 if window == 0 else self.length + 1 + (window - 1) * self.stride

    def stop_target(self, window: int) -> int:
        """The position after the last target that ``window`` scores, if the stream reaches so far."""
        return self.length + 1 + window * self.stride

    def pad(self, tokens: Tensor) -> Tensor:
        """``tokens`` (T,) followed by zeros, so that every window, and every window's target, is whole."""
        needed = max(self.count(tokens.numel()) - 1, 0) * self.stride + self.length + 1
        return torch.nn.functional.pad(tokens, (0, max(needed - tokens.numel(), 0)))

    def batch(self, padded: Tensor, first: int, stop: int) -> Tensor:
        """Windows [first, stop) as (rows, length + 1) int64, inputs and targets; rows left over repeat ``first``."""
        numbers = torch.arange(first, first + self.rows, device=padded.device)
        starts = torch.where(numbers < stop, numbers, first) * self.stride
        return padded[starts[:, None] + torch.arange(self.length + 1, device=padded.device)]

    def score(self, forward: Forward, padded: Tensor, first: int, stop: int, into: Tensor) -> None:
        """Write the log-probabilities of all targets of the windows [first, stop), at most ``rows``.

        Args:
            forward: the model's forward pass.
            padded: the stream, from :meth:`pad`.
            first: the first window.
            stop: the window after the last.
            into: (T-1,) float64: the target at position p goes to place p - 1.
        """
        rows = self.batch(padded, first, stop)
        nll = forward(rows[:, :-1], rows[:, 1:])
        fresh = nll[: stop - first, self.length - self.stride :]
        scored = fresh.flatten() if first else torch.cat((nll[0], fresh[1:].flatten()))
        start = self.first_target(first) - 1
        wanted = into[start : self.stop_target(stop - 1) - 1]
        wanted.copy_(scored[: wanted.numel()]).neg_()

    def score_beside(
        self, forward: Forward, padded: Tensor, hints: Tensor, first: int, stop: int, into: Sequence[Tensor]
    ) -> None:
        """As :meth:`score`, also the log-probabilities of ``hints``, one a position, from the same forward pass.

        Args:
            forward: the model's forward pass.
            padded: the stream, from :meth:`pad`.
            hints: as long.
            first: the first window.
            stop: the window after the last.
            into: two as for :meth:`score`: of the targets, of the hints.
        """
        rows = [self.batch(one, first, stop) for one in (padded, hints)]
        found = nll_of(forward, rows[0][:, :-1], torch.stack([row[:, 1:] for row in rows]))
        for nll, one in zip(found, into, strict=True):
            self.score(lambda *_, nll=nll: nll, padded, first, stop, one)

    def distribution(self, forward: Forward, padded: Tensor, batch_first: int, position: int) -> Tensor:
        """(V,) float64: softmax that scored the target at ``position``, within the batch that begins at a window."""
        window = self.holding(position)
        rows = self.batch(padded, batch_first, window + 1)
        logits = forward(rows[:, :-1])
        place = position - 1 - window * self.stride
        return torch.softmax(logits[window - batch_first, place].double(), dim=-1).cpu()
