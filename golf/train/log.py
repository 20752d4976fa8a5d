"""The run's curve, and the watch for losses that go wrong; asks a GPU for them only when a row is due."""

from __future__ import annotations

import math
import statistics
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from golf.runtime.errors import FairwayError
from golf.train.distributed import Ranks

COLUMNS = ("step", "tokens", "loss", "lr_scale", "grad_norm")
RECENT = 64  # steps whose median loss a spike is measured from
ENOUGH = 16  # of them, before anything is called a spike


class _Step(NamedTuple):
    pair: Tensor  # (2,): loss and gradient norm
    measured: bool  # whether the gradient norm is
    norms: Tensor  # (parameters,)
    begins: int


@dataclass
class Curve:
    """Rows of :data:`COLUMNS`; nothing in them depends on the machine's speed.

    ``loss`` (nats a token) and ``grad_norm`` (before clipping, over ranks) are means over the steps since the row
    before; without clipping the norm is that of the row's own step, as the others need none.
    ``spike_nats``: a step's loss so far above the median of those before it raises; 0: none does.
    """

    ranks: Ranks
    spike_nats: float = 0.0
    rows: list[list[float]] = field(default_factory=list)
    _pending: list[_Step] = field(default_factory=list)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    _changes: set[int] = field(default_factory=set)

    def add(self, loss: Tensor, grad_norm: Tensor | None, norms: Tensor, begins: int) -> None:
        """Note a step, which stays on the device: no wait.

        Args:
            loss: on this rank, 0-d.
            grad_norm: over all ranks, 0-d; None: nobody needed it.
            norms: of each tensor's gradient on this rank.
            begins: tokens before the step's batch.
        """
        pair = torch.stack((loss, loss.new_zeros(()) if grad_norm is None else grad_norm))
        self._pending.append(_Step(pair, grad_norm is not None, norms, begins))

    def expect_change(self, step: int) -> None:
        """From ``step`` (counted from 0) on another function is trained: losses before it are no measure."""
        self._changes.add(step + 1)

    def flush(self, steps: int, tokens: int, lr_scale: float) -> None:
        """Add the row of the steps since the last one; ``steps`` were done in all. Waits for the device.

        Raises:
            Diverged: a loss or a gradient of them was NaN or infinite, or a loss a spike.
        """
        if not self._pending:
            return
        values = torch.stack([noted.pair for noted in self._pending])
        noted, self._pending = self._pending, []
        self.ranks.mean_([values])
        numbers: list[list[float]] = values.tolist()
        for step, (loss, norm) in enumerate(numbers, steps - len(numbers) + 1):
            what = self._wrong(step, loss, norm)
            if what:
                bad = noted[step - steps - 1]
                raise Diverged(step, what, bad.norms.tolist(), bad.begins)
        losses = [loss for loss, _ in numbers]
        measured = [norm for (_, norm), step in zip(numbers, noted, strict=True) if step.measured]
        norm = sum(measured) / len(measured) if measured else math.nan
        self.rows.append([steps, tokens, sum(losses) / len(losses), lr_scale, norm])

    def _wrong(self, step: int, loss: float, norm: float) -> str:
        """What is wrong with a step; empty: nothing."""
        if not math.isfinite(loss):
            return f"loss {loss:g}, needed finite numbers"
        if not math.isfinite(norm):
            return f"loss {loss:.4f}, gradient norm {norm:g}, needed finite numbers"
        if step in self._changes:
            self._changes.remove(step)
            self._recent.clear()
        if self.spike_nats > 0 and len(self._recent) >= ENOUGH:
            median = statistics.median(self._recent)
            if loss > median + self.spike_nats:
                return f"loss {loss:.4f}, needed at most train.spike_nats = {self.spike_nats:g} above {median:.4f}"
        self._recent.append(loss)
        return ""

    def forget(self) -> None:
        """Drop the steps noted since the last row, and what was expected."""
        self._pending.clear()
        self._changes.clear()

    @property
    def last_loss(self) -> float:
        """Of the newest row."""
        return self.rows[-1][COLUMNS.index("loss")] if self.rows else math.nan


class Diverged(FairwayError):
    """A loss or a gradient was NaN or infinite, or a loss far above those before it.

    Attributes:
        step: counted from 1.
        what: the numbers found and needed.
        norms: of each tensor's gradient in that step, on this rank.
        begins: tokens before its batch.
    """

    def __init__(self, step: int, what: str, norms: Sequence[float], begins: int, more: str = "") -> None:
        super().__init__(
            f"step {step}: {what}: training diverged{more and '; '}{more}",
            hint="dvc exp run -S optim.matrix_lr=... with half of its value, or optim.grad_clip=0.3",
        )
        self.step, self.what, self.norms, self.begins = step, what, norms, begins


def say(line: str) -> None:
    """One line to the log."""
    print(f"train: {line}", file=sys.stderr, flush=True)


def write_curve(rows: Sequence[Sequence[float]]) -> bytes:
    """The rows as CSV."""
    lines = [",".join(COLUMNS)]
    for step, tokens, loss, lr_scale, norm in rows:
        lines.append(f"{int(step)},{int(tokens)},{loss:.6f},{lr_scale:.6f},{norm:.6f}")
    return ("\n".join(lines) + "\n").encode()
