"""For :mod:`golf.runtime.progress`: a line now and then."""

from __future__ import annotations

import sys
import time

EVERY_SECONDS = 5


class Progress:
    """A line every few seconds, and one at the end."""

    def __init__(self, name: str, total: float) -> None:
        self.name, self.total, self.done, self.printed = name, total, 0.0, time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Count ``amount`` more as done."""
        self.update(self.done + amount, note)

    def update(self, done: float, note: str = "") -> None:
        """Set what is done, in units of ``total``."""
        finished = self.done < self.total <= done
        self.done = done
        if finished or time.monotonic() - self.printed > EVERY_SECONDS:
            self.printed = time.monotonic()
            print(f"{self.name}: {done / self.total:.0%} {note}", file=sys.stderr, flush=True)
