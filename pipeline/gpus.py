"""One run a GPU, whoever starts it: a lock a device on the machine, held by the run and by all that it started.

Prefect's places leak when an engine dies, and know nothing of a second checkout, another server or ``make run``. These
locks are the kernel's (flock): free when the last process that holds one is gone, however it went, and not before.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from golf.params.hardware import Hardware
from golf.runtime.device import uses_gpu
from golf.runtime.errors import Exit, FairwayError
from pipeline.supervise import locked, patiently, shared_folder

PATIENCE = 7 * 86400.0  # seconds that a run waits for a device; who gives up would only be started again
LISTED = 300.0  # seconds that torch has to list them: a driver that hangs never does
NODE = Path("/tmp/fairway-gpus")  # one place for all users and checkouts of the machine
_LIST = """
import torch
for i in range(torch.cuda.device_count()):
    print(f"GPU-{torch.cuda.get_device_properties(i).uuid}")
"""


def visible() -> list[str]:
    """The GPUs that this process may use, by the names that CUDA_VISIBLE_DEVICES takes whatever it holds now.

    Asked for in a process of its own: the question takes memory on every device as long as who asked lives.

    Raises:
        FairwayError: torch can't list them, or does not answer.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", _LIST], capture_output=True, text=True, check=False, timeout=LISTED
        )
    except subprocess.TimeoutExpired:
        raise FairwayError(
            f"GPUs: no answer in {LISTED:.0f} s, needed a list from torch", hint="nvidia-smi", code=Exit.RETRY
        ) from None
    if done.returncode:
        said = " ".join(done.stderr.strip().splitlines()[-1:])
        raise FairwayError(f"GPUs: torch can't list them: {said}", hint="fairway doctor")
    return done.stdout.split()


def needed(hardware: Hardware) -> list[str]:
    """The devices that the graph's stages compute on: a rank each, so the first ``hardware.processes``, or all."""
    if not uses_gpu(hardware):
        return []
    return visible()[: hardware.processes or None]


@contextlib.contextmanager
def held(
    devices: Sequence[str], what: str, tell: Callable[[str], None], patience: float, folder: Path | None = None
) -> Iterator[list[int]]:
    """Hold the locks of ``devices``, waiting up to ``patience`` seconds; their descriptors, for children to hold too.

    ``what`` the run is, for those who wait for it; ``folder``: of the locks. All take them in one order, so that no
    two wait for each other.

    Raises:
        BusyError: one is still held by another run, which the message names.
    """
    if not devices:
        yield []
        return
    place, holder = shared_folder(NODE if folder is None else folder), f"{_user()} in {os.getcwd()}: {what}"
    with contextlib.ExitStack() as stack:

        def hold(device: str) -> int:
            return patiently(lambda: stack.enter_context(locked(device, place, holder, 0o666)), tell, patience)

        yield [hold(device) for device in sorted(devices)]


def _user() -> str:
    with contextlib.suppress(KeyError, OSError):  # a container's user may have no name
        return getpass.getuser()
    return f"user {os.getuid()}"
