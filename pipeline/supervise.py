"""Run one command so that nothing of it is left behind, and never twice at once.

    python -m pipeline.supervise graph -- python -m dvc --wait-for-lock repro

DVC leaves its stage running when it is killed, and the next ``dvc repro`` starts a second one beside it, on the same
GPUs. So the command runs under a small process, :mod:`pipeline.watcher`, in a session of its own:

* ``.locks/NAME`` is held (flock) by the supervisor, the watcher and the command: it is free when the last is gone, and
  so is every other lock that is passed on (``held``: the machine's GPUs, :mod:`pipeline.gpus`);
* the watcher adopts every orphan below it (PR_SET_CHILD_SUBREAPER), so that workers with sessions of their own, as
  torchrun starts them, are still found;
* SIGTERM and SIGINT go to the command's group; what is left after ``grace`` seconds (45: torchrun gives its workers
  30) is killed;
* when the supervisor dies, even by SIGKILL, its end of a pipe closes, and the watcher ends everything.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, TypeVar

from golf.params.base import load
from golf.params.hardware import Hardware
from golf.runtime.errors import Exit, FairwayError, run_main

LOCKS = Path(".locks")
GRACE = 45.0  # seconds between SIGTERM and SIGKILL
POLL = 1.0  # seconds between looks at a lock that is waited for
_FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)
_WATCHER = Path(__file__).with_name("watcher.py")
T = TypeVar("T")


class BusyError(FairwayError):
    """Another process holds the lock: the same command may pass later. ``holder``: which lock, and who."""

    def __init__(self, message: str, *, hint: str = "", holder: str = "") -> None:
        super().__init__(message, hint=hint, code=Exit.RETRY)
        self.holder = holder or message


@contextlib.contextmanager
def locked(name: str, folder: Path = LOCKS, what: str = "", mode: int = 0o644) -> Iterator[int]:
    """Hold ``.locks/NAME``, or refuse at once; yields its descriptor, for a child to hold it too.

    ``what``: about the holder, for those who are refused; ``mode``: of the file, where this makes it.

    Raises:
        BusyError: another process holds it; the message says which and since when.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    descriptor = _opened(path, mode)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 1000).decode(errors="replace").strip() or "another process"
            raise BusyError(
                f"{path}: held by {holder}, or by what it started; needed: nobody",
                hint="wait until that run ends, or end it with Ctrl-C where it runs",
                holder=f"{path}: held by {holder}",
            ) from None
        os.ftruncate(descriptor, 0)
        since = f"process {os.getpid()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"
        os.write(descriptor, f"{since}{what and f' ({what})'}".encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _opened(path: Path, mode: int) -> int:
    """The lock's file; in a folder of all users Linux lets nobody "create" another's, so it is opened or new."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, os.O_RDWR | os.O_NOFOLLOW)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
            os.fchmod(descriptor, mode)  # whatever the umask
            return descriptor


def shared_folder(folder: Path) -> Path:
    """The folder, made if need be so that every user of the machine may lock in it."""
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(PermissionError):  # another user made it just now
            folder.chmod(0o1777)
    return folder


def patiently(attempt: Callable[[], T], tell: Callable[[str], None], patience: float) -> T:
    """``attempt()``, again for up to ``patience`` seconds while it finds a lock held; each holder is told of once.

    Raises:
        BusyError: the lock is still held then.
    """
    deadline, told = time.monotonic() + patience, ""
    while True:
        try:
            return attempt()
        except BusyError as error:
            if time.monotonic() >= deadline:
                raise
            if error.holder != told:
                tell(f"waiting: {error.holder}")
                told = error.holder
        time.sleep(POLL)


@contextlib.contextmanager
def started(
    command: Sequence[str],
    name: str,
    *,
    grace: float = GRACE,
    output: int | IO[str] | None = None,
    env: dict[str, str] | None = None,
    held: Sequence[int] = (),
) -> Iterator[subprocess.Popen[str]]:
    """Start ``command`` under the lock ``name``; yield its watcher, which has ended when the block has.

    The watcher exits as the command does, and ends it when sent SIGTERM or SIGINT. stdout and stderr go to ``output``.
    ``held``: descriptors of other locks, which stay held until the last of what the command started is gone.

    Raises:
        BusyError: the lock is held.
    """
    with locked(name) as lock:
        locks = (lock, *held)
        ours, alive = os.pipe()  # the watcher reads `ours`; it closes when `alive`, which no other process has, does
        try:
            watcher = subprocess.Popen(
                [sys.executable, "-I", str(_WATCHER), str(ours), ",".join(map(str, locks)), str(grace), *command],
                pass_fds=(ours, *locks),
                start_new_session=True,
                stdout=output,
                stderr=None if output is None else subprocess.STDOUT,
                text=True,
                errors="replace",
                env=with_this_python(env),
            )
            try:
                yield watcher
            finally:
                if watcher.poll() is None:
                    watcher.terminate()
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        watcher.wait(grace + 10)
        finally:
            os.close(ours)
            os.close(alive)


def run(
    command: Sequence[str],
    name: str,
    *,
    grace: float = GRACE,
    on_line: Callable[[str], None] | None = None,
    env: dict[str, str] | None = None,
    held: Sequence[int] = (),
) -> int:
    """Run ``command`` under the lock ``name`` and return its exit code (128 + n when signal n ended it).

    With ``on_line`` its output (stdout and stderr together) comes line by line; else it goes where ours goes.
    Whatever interrupts the wait, a signal or an exception, ends the command first.

    Raises:
        BusyError: the lock is held.
    """
    output = subprocess.PIPE if on_line else None
    with started(command, name, grace=grace, output=output, env=env, held=held) as watcher, _forwarding(watcher):
        if on_line and watcher.stdout:
            for line in watcher.stdout:
                on_line(line.rstrip("\n"))
        return watcher.wait()


def with_this_python(env: dict[str, str] | None = None) -> dict[str, str]:
    """A child's environment in which ``python``, as the graph's commands say, is this interpreter."""
    env = dict(os.environ if env is None else env)
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env.get("PATH", os.defpath)])
    return env


@contextlib.contextmanager
def _forwarding(watcher: subprocess.Popen[str]) -> Iterator[None]:
    """Pass signals on to the watcher; a handler that somebody else set stays, and so do other threads'."""

    def forward(number: int, _frame: FrameType | None) -> None:
        watcher.send_signal(number)

    previous = {}
    try:
        for number in _FORWARDED:
            handler = signal.getsignal(number)
            if handler in (signal.SIG_DFL, signal.default_int_handler):
                with contextlib.suppress(ValueError):  # not the main thread
                    signal.signal(number, forward)
                    previous[number] = handler
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def main() -> None:
    """``supervise NAME -- COMMAND``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of the lock: one command of that name runs at a time")
    parser.add_argument("--grace", type=float, default=GRACE, help="seconds between SIGTERM and SIGKILL")
    parser.add_argument("--gpus", action="store_true", help="hold the GPUs that params.yaml asks for; wait for them")
    parser.usage = "%(prog)s [--grace SECONDS] [--gpus] NAME -- COMMAND..."
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)  # argparse would eat a second `--`
    arguments, command = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    if not command:
        parser.error("a command is needed after --")
    with contextlib.ExitStack() as stack:
        locks: Sequence[int] = ()
        if arguments.gpus:
            from pipeline import gpus

            devices = gpus.needed(load(Hardware))
            locks = stack.enter_context(gpus.held(devices, " ".join(command), _say, gpus.PATIENCE))
        sys.exit(run(command, arguments.name, grace=arguments.grace, held=locks))


def _say(line: str) -> None:
    print(f"supervise: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main("supervise", main)
