"""A bar with the time left in a terminal, one plain line a second at most elsewhere."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """``with Progress("train", total=300) as bar: bar.advance(1, "loss 3.21")``.

    The bar needs rich and a terminal on stderr; without either, plain lines are printed.
    """

    def __init__(self, name: str, total: float) -> None:
        self.name = name
        self.total = max(total, 1e-12)
        self.done = 0.0
        self._bar: Any = None
        self._task: Any = None
        self._start = self._printed = time.monotonic()
        self._finished = False

    def __enter__(self) -> Progress:
        if sys.stderr.isatty():
            try:
                from rich.console import Console
                from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
                from rich.progress import Progress as RichProgress
            except ImportError:
                return self
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeElapsedColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
            )
            self._bar = RichProgress(*columns, console=Console(stderr=True))
            self._bar.start()
            self._task = self._bar.add_task(self.name, total=self.total, note="")
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count ``amount`` more as done; ``note`` is shown beside the bar."""
        self.update(self.done + amount, note)

    def update(self, done: float, note: str = "") -> None:
        """Set what is done, in units of ``total``."""
        self.done = done
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=note)
            return
        now = time.monotonic()
        finished = done >= self.total and not self._finished
        if now - self._printed < 1.0 and not finished:
            return
        self._printed, self._finished = now, self._finished or finished
        elapsed = now - self._start
        share = min(done / self.total, 1.0)
        left = f", {elapsed * (1 - share) / share:.0f}s left" if share > 0 else ""
        print(f"{self.name}: {100 * share:3.0f}% {elapsed:.0f}s{left}  {note}".rstrip(), file=sys.stderr, flush=True)
