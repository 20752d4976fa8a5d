"""After each stage, while the next one computes: what is new goes to the remote.

A paid run (``hardware.dollars_per_hour`` above 0) is saved whole, as ``fairway save`` does it, so that a rented machine
can die at any time; any other pushes DVC's cache (:mod:`pipeline.push`), for those who share the remote
(:mod:`pipeline.share`). A save that fails is told loudly and tried again after the next stage: it never stops the run.
"""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from golf.runtime.errors import Exit, FairwayError
from pipeline.supervise import BusyError, started

PUSH = (sys.executable, "-m", "pipeline.push")
SAVE = (sys.executable, "-m", "pipeline.cli", "save")
LOCK = "keeper"
PATIENCE = 120.0  # seconds that the last save waits for another one here
GRACE = 5.0  # seconds that a save has to end when the run is cancelled
Tell = Callable[[str], None]
_BEGINS = re.compile(r"Running stage '([^']+)'")
_RESTORED = re.compile(r"Stage '([^']+)' is cached")
_WRITTEN = re.compile(r"(?:Updating|Generating) lock file")


def command(remote: str, *, paid: bool) -> Sequence[str]:
    """What brings results to the remote; nothing without one."""
    if not remote:
        return ()
    return SAVE if paid else PUSH


class Keeper:
    """Hears what DVC says, and runs ``command`` each time that a stage has ended; ``saved`` is told which are safe.

    Used in a ``with`` block: its end waits for the last save, unless it is a cancellation.
    """

    def __init__(
        self, command: Sequence[str], tell: Tell, warn: Tell, saved: Callable[[list[str]], None] = lambda _: None
    ) -> None:
        self.command, self.tell, self.warn, self.saved = command, tell, warn, saved
        self._stage = ""
        self._ended: list[str] = []
        self._change = threading.Condition()
        self._closing = self._cancelled = False
        self._watcher: subprocess.Popen[str] | None = None
        self._thread = threading.Thread(target=self._work, name="keeper", daemon=True)

    def __enter__(self) -> Keeper:
        if self.command:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        cancelled = error is not None and not isinstance(error, FairwayError)
        with self._change:
            self._closing, self._cancelled = True, cancelled
            self._change.notify()
        if cancelled and self._watcher is not None:
            self._watcher.terminate()
        if self.command:
            self._thread.join()

    def heard(self, line: str) -> None:
        """Take note of a line of DVC's output."""
        if found := _BEGINS.search(line) or _RESTORED.search(line):
            self._stage = found[1]
        elif self._stage and _WRITTEN.search(line):
            self.ended(self._stage)
            self._stage = ""

    def ended(self, name: str) -> None:
        """Take note that this stage, or run, has ended well."""
        with self._change:
            self._ended.append(name)
            self._change.notify()

    def _work(self) -> None:
        """Save whenever something has ended; what was saved meanwhile is one save."""
        failed: list[str] = []
        while True:
            with self._change:
                self._change.wait_for(lambda: self._closing or self._ended)
                stages, self._ended = failed + self._ended, []
                last = self._closing
            if stages and not self._cancelled:
                failed = [] if self._save(stages, PATIENCE if last else 0.0) else stages
            if last:
                return

    def _save(self, stages: list[str], patience: float) -> bool:
        begin = time.monotonic()
        while True:
            lines: list[str] = []
            why = ""
            try:
                with started(self.command, LOCK, grace=GRACE, output=subprocess.PIPE) as self._watcher:
                    if self._cancelled:  # between the question and the start
                        self._watcher.terminate()
                    lines = [line.rstrip("\n") for line in self._watcher.stdout or ()]
                    code = self._watcher.wait()
            except (BusyError, OSError) as error:
                code, why = Exit.RETRY, str(error)
            if code == 0:
                self.tell(f"saved after {', '.join(stages)}: {time.monotonic() - begin:.0f} s")
                with contextlib.suppress(OSError):
                    self.saved(stages)
                return True
            busy = bool(why) or any(".locks/save: held" in line for line in lines)
            if not busy or self._cancelled or time.monotonic() - begin > patience:
                break
            time.sleep(1.0)
        for line in [line for line in lines if not line.startswith("ok ")] or [why or f"exit code {code}"]:
            self.warn(f"NOT SAVED after {', '.join(stages)}: {line}; the run goes on")
        return False
