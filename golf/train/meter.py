"""How fast the run is: a row beside each row of the curve, for the timing report; read at logged steps only."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from golf.runtime.device import peak_memory
from golf.train.flops import Work
from golf.train.log import say

if TYPE_CHECKING:
    from golf.train.capture import Captured
    from golf.train.run import Run

COLUMNS = ("step", "ms_per_step", "tokens_per_second", "mfu", "wait_ms", "memory_bytes", "sm_mhz", "recompiles")
Cell = float | None  # None: this machine does not tell


class Meter:
    """Adds up what this process does between two rows.

    Args:
        device: of this process.
        ranks: processes, which are all alike.
        peak: FLOP/s that a device could do; None: not known, and no utilisation is told.
        captured: whose recordings count as compiled graphs; None: there are none.
    """

    def __init__(self, device: torch.device, ranks: int, peak: float | None, captured: Captured | None = None) -> None:
        self._device, self._ranks, self._peak, self._captured = device, ranks, peak, captured
        self.counts_work = peak is not None
        self.rows: list[list[Cell]] = []
        self.work: dict[int, Work] = {}  # by the loop's passes
        self.waited = 0.0  # seconds for data since `begin`
        self._graphs = 0
        self._steps = self._tokens = 0
        self._flops = self._flops_before = self._waited_before = self._started = 0.0

    def begin(self, waited: float) -> None:
        """Count from here: everything before was set-up and warm-up. ``waited``: see :meth:`row`."""
        self._graphs = self._made()
        self._started, self._waited_before = time.perf_counter(), waited
        self._steps = self._tokens = 0
        self._flops = self._flops_before = 0.0

    @property
    def recompiles(self) -> int:
        """Graphs compiled or recorded since the warm-up, which should have made all."""
        return self._made() - self._graphs

    def _made(self) -> int:
        return compiled_graphs() + (self._captured.count if self._captured else 0)

    def count(self, tokens: int, pairs: int, passes: int) -> None:
        """A step was queued: of ``tokens`` over all ranks, with ``pairs`` of attention on this one."""
        self._steps += 1
        self._tokens += tokens
        if passes in self.work:
            work = self.work[passes]
            self._flops += work.per_token * tokens / self._ranks + work.per_pair * pairs

    def row(self, steps: int, waited: float) -> None:
        """Add the row of the steps since the last one; the device has done them. ``waited``: for data, in all."""
        now = time.perf_counter()
        seconds = max(now - self._started, 1e-9)
        if self._steps:
            mfu = self._share_of_peak(self._flops, seconds)
            speed = [1000 * seconds / self._steps, self._tokens / seconds, mfu]
            wait = 1000 * (waited - self._waited_before) / self._steps
            own = [peak_memory(self._device), sm_clock(self._device), self.recompiles]
            self.rows.append([steps, *speed, wait, *own])
        self.waited += waited - self._waited_before
        self._flops_before += self._flops
        self._steps = self._tokens = 0
        self._flops, self._waited_before, self._started = 0.0, waited, now

    def utilisation(self, seconds: float) -> float | None:
        """Model FLOPs of all rows over ``seconds`` at the device's peak; None: not known."""
        return self._share_of_peak(self._flops_before, seconds)

    def _share_of_peak(self, flops: float, seconds: float) -> float | None:
        return flops / seconds / self._peak if self._peak and flops else None

    @property
    def last(self) -> str:
        """The newest row for the log, such as ``1.82 M tokens/s, 41.0 % MFU``."""
        if not self.rows:
            return ""
        rate, mfu = self.rows[-1][2] or 0.0, self.rows[-1][3]
        return f"{rate:,.0f} tokens/s" + (f", {100 * mfu:.1f} % MFU" if mfu else "")


def speed(run: Run, seconds: float) -> dict[str, Any]:
    """What the timing report says of this process's part of the run; it trained for ``seconds``."""
    steps, tokens = run.steps - run.start, run.state.place.tokens - run.trained
    mfu = run.meter.utilisation(seconds)
    if run.meter.recompiles:
        say(
            f"warning: {run.meter.recompiles} graphs were compiled after the warm-up, at the cost of the budget: "
            "TORCH_LOGS=recompiles says why"
        )
    return {
        "clock_seconds": round(run.clock.elapsed, 3),
        "tokens_per_second": round(tokens / seconds),
        "ms_per_step": round(1000 * seconds / max(steps, 1), 3),
        **({} if mfu is None else {"mfu": round(mfu, 4)}),
        "data_wait_seconds": round(run.meter.waited, 3),
        "peak_memory_bytes": peak_memory(run.ranks.device),
        "recompiles": run.meter.recompiles,
    }


def compiled_graphs() -> int:
    """Graphs that torch.compile has made in this process."""
    if "torch._dynamo" not in sys.modules:
        return 0
    return int(torch._dynamo.utils.counters["stats"]["unique_graphs"])


def sm_clock(device: torch.device) -> int | None:
    """MHz of the GPU's multiprocessors now; None without a GPU, or without NVIDIA's management library."""
    if device.type != "cuda":
        return None
    try:
        return torch.cuda.clock_rate(device)
    except (ImportError, RuntimeError):  # pynvml is not installed, or its driver refuses
        return None


def write_speed(rows: Sequence[Sequence[Any]]) -> bytes:
    """The rows as CSV; what is not known is left empty."""
    lines = [",".join(COLUMNS)]
    lines += [",".join("" if cell is None else f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row)
              for row in rows]  # fmt: skip
    return ("\n".join(lines) + "\n").encode()
