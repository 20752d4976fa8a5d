"""How much of the budget is spent: counted in steps, or by the wall clock. It drives every schedule of a run."""

from __future__ import annotations

import time
from collections import deque
from typing import Protocol

import torch

from golf.train.distributed import Ranks


class Clock(Protocol):
    """The budget of a run."""

    def begin(self, elapsed: float) -> None:
        """Start counting; ``elapsed`` seconds were spent before, by the run that this one resumes."""

    @property
    def elapsed(self) -> float:
        """Seconds spent, those before a resumption included."""

    def progress(self, step: int) -> float:
        """Share of the budget spent before ``step``, the same on every rank; 1 or more: there is no such step."""

    def after(self, step: int, progress: float) -> float:
        """Share of the budget that counts as spent after ``step``, which began at ``progress``."""


class _Seconds:
    """Seconds since ``begin``, on this host."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._before = 0.0

    def begin(self, elapsed: float) -> None:
        """See :class:`Clock`."""
        self._start, self._before = time.perf_counter(), elapsed

    @property
    def elapsed(self) -> float:
        """See :class:`Clock`."""
        return self._before + time.perf_counter() - self._start


class StepClock(_Seconds):
    """A budget of ``steps``: the same on every machine."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def progress(self, step: int) -> float:
        """``step / steps``."""
        return step / self.steps

    def after(self, step: int, progress: float) -> float:
        """``(step + 1) / steps``."""
        return (step + 1) / self.steps


class WallClock(_Seconds):
    """A budget of ``seconds``, counted on the first rank's host.

    It ends before a step that is not expected to finish in time: the last steps' mean duration is what the next one
    takes, and ``in_flight`` earlier ones may still be running on the GPU.
    """

    RECENT = 8  # steps whose mean predicts the next

    def __init__(self, seconds: float, ranks: Ranks) -> None:
        super().__init__()
        self.seconds, self._ranks = seconds, ranks
        self._in_flight = Pace.RUN_AHEAD if ranks.device.type == "cuda" else 0
        self._marks: deque[float] = deque(maxlen=self.RECENT + 1)

    def begin(self, elapsed: float) -> None:
        """See :class:`Clock`."""
        super().begin(elapsed)
        self._marks.clear()

    def progress(self, step: int) -> float:
        """Elapsed share of the seconds; infinite when ``step`` would end after them."""
        now = self.elapsed
        self._marks.append(now)
        steps = len(self._marks) - 1
        step_seconds = (now - self._marks[0]) / steps if steps else 0.0
        ends = now + step_seconds * (1 + min(self._in_flight, steps))
        late = ends > self.seconds or now >= self.seconds
        return self._ranks.first_says(float("inf") if late else now / self.seconds)

    def after(self, step: int, progress: float) -> float:
        """``progress``: a decision of this rank's own clock could differ from its peers'."""
        return progress


class Pace:
    """Keeps the host at most ``RUN_AHEAD`` steps ahead of the GPU, so that the wall clock means what it says.

    The wait is for a step before the last one: the GPU always has the last one queued and never idles.
    """

    RUN_AHEAD = 1

    def __init__(self, device: torch.device) -> None:
        self._events: deque[torch.cuda.Event] | None = deque() if device.type == "cuda" else None

    def step_queued(self) -> None:
        """Call after each step's work was queued."""
        if self._events is None:
            return
        event = torch.cuda.Event()
        event.record()
        self._events.append(event)
        if len(self._events) > self.RUN_AHEAD:
            self._events.popleft().synchronize()
