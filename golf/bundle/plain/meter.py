"""For :mod:`golf.train.meter`: tokens a second since the warm-up."""

from __future__ import annotations

import time
from typing import Any

import torch


class Meter:
    """Counts tokens, and nothing else."""

    def __init__(self, device: torch.device, ranks: int, peak: float | None, captured: Any = None) -> None:
        self.counts_work = False
        self.rows: list[Any] = []
        self.work: dict[int, Any] = {}

    def begin(self, waited: float) -> None:
        """Count from here."""
        self.tokens, self.started = 0, time.perf_counter()

    def count(self, tokens: int, pairs: int, passes: int) -> None:
        """A step was queued; those of the warm-up come before the beginning."""
        self.tokens = getattr(self, "tokens", 0) + tokens

    def row(self, steps: int, waited: float) -> None:
        """A row of the curve was written."""

    @property
    def last(self) -> str:
        """For the log."""
        return f"{self.tokens / (time.perf_counter() - self.started):,.0f} tokens/s"


def speed(run: Any, seconds: float) -> dict[str, Any]:
    """There is no timing report."""
    return {}
