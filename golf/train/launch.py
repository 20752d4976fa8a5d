"""Several ranks from one command: torchrun as a child, its end awaited, its failure told in one line.

torchrun itself says only that a rank failed. So every rank writes what ended it to a file that the parent names, and
the first such file is the cause: what follows in other ranks is mostly the loss of that one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from golf.runtime.errors import Exit, FairwayError
from golf.runtime.files import read_json
from golf.runtime.isolate import die_with
from golf.train.connect import noted

GRACE_SECONDS = 40.0  # torchrun gives its ranks 30 s to end before it kills them
# torchrun, ended by the kernel with the process that started it. Of ranks that fail it has logged the exit codes, and
# what ended them is told here: its own traceback says nothing more.
TORCHRUN = """
import sys
from golf.runtime.isolate import die_with
die_with(int(sys.argv.pop(1)))
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main
try:
    main()
except ChildFailedError as error:
    sys.exit(137 if any(rank.exitcode == -9 for rank in error.failures.values()) else 1)
except SignalException:
    sys.exit(1)
"""
KILLED = 137  # what that says of a rank that the kernel killed, in a shell's words
LOST = "by peer"  # in the words of gloo, of a rank whose peer has gone


def launch(module: str, arguments: Sequence[str], processes: int, threads: int) -> None:
    """Run ``python -m module ARGUMENTS --failure FILE`` as ``processes`` ranks of torchrun on this machine.

    SIGTERM and SIGINT end the ranks first. The ranks die with this process, however it dies.

    Args:
        module: its main calls :func:`reported`.
        arguments: its command line.
        processes: ranks.
        threads: CPU threads of each; 0: an equal share of the cores.

    Raises:
        FairwayError: a rank failed; the exit code is the rank's, 75 when the machine failed.
    """
    share = threads or max(1, (os.cpu_count() or 1) // processes)
    with tempfile.TemporaryDirectory(prefix="fairway-") as folder:
        command = [sys.executable, "-c", TORCHRUN, str(os.getpid()), "--standalone", "--local-addr=127.0.0.1"]
        command += [f"--nproc-per-node={processes}", "-m", module, *arguments, "--failure", f"{folder}/failure.json"]
        # Idle threads sleep: spinning makes a rank many times slower where others want the cores.
        threads_of_ranks = {"OMP_NUM_THREADS": str(share), "OMP_WAIT_POLICY": "PASSIVE"}
        process = subprocess.Popen(command, env={**os.environ, **threads_of_ranks})
        with _forwarded(process) as received:
            code = _wait(process)
        if received:
            name = signal.Signals(received[0]).name
            raise FairwayError(f"ended by {name}; run it again to go on from the last checkpoint", code=Exit.RETRY)
        if code != 0:
            raise _cause(Path(folder) / "failure.json", code)


def reported(work: Callable[[], None], failure: Path | None) -> int:
    """Do ``work`` as one rank; what ends it goes to the file ``failure``, and the exit code is returned.

    Without a file (one process) the failure is raised, the machine's as a :class:`FairwayError` with exit code 75.
    """
    if failure is not None:
        die_with(os.getppid())
    try:
        with noted(failure):
            work()
    except FairwayError as error:
        if failure is None:
            raise
        return error.code
    return 0


def _cause(failure: Path, code: int) -> FairwayError:
    cause = read_json(failure) if failure.is_file() else None
    if cause is None or (code == KILLED and LOST in cause["message"]):
        return FairwayError(
            f"torchrun: exit code {code}, and no rank could say why: one was killed, as the kernel does when memory "
            "runs out",
            hint="the same command again, or train.micro_batch_tokens with half of its value",
            code=Exit.RETRY,
        )
    known = Exit(cause["code"]) if cause["code"] in set(Exit) else Exit.FAILURE
    return FairwayError(str(cause["message"]), code=known)


@contextmanager
def _forwarded(process: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass SIGTERM and SIGINT on to ``process``; yields the list of those received."""
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        timer = threading.Timer(GRACE_SECONDS, process.kill)
        timer.daemon = True
        timer.start()

    if threading.current_thread() is not threading.main_thread():
        yield received  # handlers belong to the main thread
        return
    before = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait(process: subprocess.Popen[bytes]) -> int:
    try:
        return process.wait()
    finally:
        if process.poll() is None:  # an exception ended the wait
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(GRACE_SECONDS)
            process.kill()
