"""The process between a supervisor and its command: ``python -I watcher.py PIPE LOCKS GRACE COMMAND...``.

A script of its own, on the standard library alone: one thread, quick to start, and not in the way of what the
supervisor's process does with signals. It exits as the command does (128 + n when signal n ended it), once nothing
that the command started is left. See :mod:`pipeline.supervise` for what it promises.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36
_NOT_FOUND = 127  # as a shell says it
_LOST = 255  # no child is left and none was the command: better an error than to wait for ever


class Watcher:
    """Runs one command and ends it, with everything below it, when told to or when nobody waits any more."""

    def __init__(self, parent: int, locks: int | Sequence[int], grace: float) -> None:
        self.parent, self.grace = parent, grace
        self.locks = (locks,) if isinstance(locks, int) else tuple(locks)
        self.child = 0
        self.code: int | None = None  # of the command, once it ended
        self.signal: int | None = None  # what ends it; None: it runs
        self.deadline = float("inf")
        self.told: set[int] = set()  # processes that had their signal: torchrun takes a second one for impatience

    def run(self, command: Sequence[str]) -> int:
        """Run ``command`` to its end and return its exit code."""
        prctl(_PR_SET_CHILD_SUBREAPER, 1)
        woken = self._wake_on_signals()
        try:
            process = subprocess.Popen(  # kept: a Popen that is collected reaps its child, and the exit code is lost
                command,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=self.locks,
                preexec_fn=_end_with_parent,  # noqa: PLW1509  (this process has one thread)
            )
        except OSError as error:
            print(f"supervise: {command[0]}: {error.strerror}", file=sys.stderr)
            return _NOT_FOUND
        self.child = process.pid
        while True:
            self._reap()
            left = descendants()
            if self.code is not None:
                if not left:
                    return self.code
                self.end(signal.SIGTERM)  # the command is over and left something running
            if self.signal is not None:
                self._tell(left)
            ready = _ready([woken] if self.signal else [woken, self.parent], self._pause())
            if woken in ready:
                os.read(woken, 4096)
            if self.parent in ready:  # closed: the supervisor is gone
                self.end(signal.SIGTERM)

    def end(self, number: int) -> None:
        """Begin to end the command with signal ``number``."""
        if self.signal is None:
            self.signal = number
            self.deadline = time.monotonic() + self.grace

    def _wake_on_signals(self) -> int:
        woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, lambda number, _frame: self.end(number))
        return woken

    def _pause(self) -> float:
        return 60.0 if self.signal is None else 0.1

    def _reap(self) -> None:
        """Collect every process that ended: the command and adopted orphans."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # none is left
                if self.code is None:
                    self.code = _LOST
                return
            if pid == 0:
                return
            if pid == self.child:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code

    def _tell(self, left: dict[int, int]) -> None:
        """Signal the command's group and the orphans, each once; past the deadline kill what is left."""
        late = time.monotonic() > self.deadline
        if not left and (late or self.child not in self.told):  # no /proc: the command's group is all that is known
            self.told.add(self.child)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.child, signal.SIGKILL if late else self.signal or signal.SIGTERM)
        for pid, parent in left.items():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if late:
                    os.kill(pid, signal.SIGKILL)
                elif pid not in self.told and (parent == os.getpid() or os.getpgid(pid) == self.child):
                    self.told.add(pid)
                    os.kill(pid, self.signal or signal.SIGTERM)


def descendants() -> dict[int, int]:
    """Every living process below this one, and its parent. Without /proc: none, and then only the command is known."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = entry.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state != "Z":
                parents.setdefault(int(parent), []).append(int(entry.parent.name))
    found: dict[int, int] = {}
    waiting = [os.getpid()]
    while waiting:
        parent_pid = waiting.pop()
        for pid in parents.get(parent_pid, []):
            found[pid] = parent_pid
            waiting.append(pid)
    return found


def _end_with_parent() -> None:
    """Should even the watcher be killed, the command at least does not outlive it."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _ready(descriptors: Sequence[int], seconds: float) -> list[int]:
    """Those that can be read, or are closed; by poll, as select takes no descriptor above 1023."""
    waiting = select.poll()
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    return [descriptor for descriptor, _ in waiting.poll(1000 * seconds)]


def prctl(option: int, value: int) -> None:
    """Linux's prctl with one argument; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    LOCKS = [int(lock) for lock in sys.argv[2].split(",")]
    sys.exit(Watcher(int(sys.argv[1]), LOCKS, float(sys.argv[3])).run(sys.argv[4:]))
