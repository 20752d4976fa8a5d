"""The run's curve, and the watch for losses that are no numbers; asks a GPU for them only when a row is due."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from golf.runtime.errors import FairwayError
from golf.train.distributed import Ranks

COLUMNS = ("step", "tokens", "loss", "lr_scale", "grad_norm")


@dataclass
class Curve:
    """Rows of :data:`COLUMNS`; nothing in them depends on the machine's speed.

    ``loss`` (nats a token) and ``grad_norm`` (before clipping) are means over the steps since the row before.
    """

    ranks: Ranks
    batch_tokens: int
    rows: list[list[float]] = field(default_factory=list)
    _pending: list[Tensor] = field(default_factory=list)

    def add(self, loss: Tensor, grad_norm: Tensor) -> None:
        """Note a step's loss on this rank, and the norm of its reduced gradient; both stay where they are."""
        self._pending.append(torch.stack((loss, grad_norm)))

    def flush(self, steps: int, lr_scale: float) -> None:
        """Add the row of the steps since the last one; ``steps`` were done in all. Waits for the device.

        Raises:
            NotFinite: a loss or a gradient of them was NaN or infinite.
        """
        if not self._pending:
            return
        values = torch.stack(self._pending)
        self._pending.clear()
        self.ranks.mean_([values])
        numbers: list[list[float]] = values.tolist()
        first = steps - len(numbers) + 1
        for step, (loss, norm) in enumerate(numbers, first):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise NotFinite(step, loss, norm)
        loss, norm = (sum(column) / len(numbers) for column in zip(*numbers, strict=True))
        self.rows.append([steps, steps * self.batch_tokens, loss, lr_scale, norm])

    def forget(self) -> None:
        """Drop the steps noted since the last row."""
        self._pending.clear()

    @property
    def last_loss(self) -> float:
        """Of the newest row."""
        return self.rows[-1][COLUMNS.index("loss")] if self.rows else math.nan


class NotFinite(FairwayError):
    """A loss or a gradient was NaN or infinite."""

    def __init__(self, step: int, loss: float, norm: float, checkpoint: str = "") -> None:
        what = f"loss {loss:g}" if not math.isfinite(loss) else f"loss {loss:.4f}, gradient norm {norm:g}"
        kept = f"; {checkpoint}" if checkpoint else ""
        super().__init__(
            f"step {step}: {what}, needed finite numbers: training diverged{kept}",
            hint="dvc exp run -S optim.matrix_lr=... with half of its value, or optim.grad_clip=0.3",
        )
        self.step, self.loss, self.norm = step, loss, norm


def write_curve(rows: Sequence[Sequence[float]]) -> bytes:
    """The rows as CSV."""
    lines = [",".join(COLUMNS)]
    for step, tokens, loss, lr_scale, norm in rows:
        lines.append(f"{int(step)},{int(tokens)},{loss:.6f},{lr_scale:.6f},{norm:.6f}")
    return ("\n".join(lines) + "\n").encode()
