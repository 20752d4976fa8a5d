"""The ranks' first meeting: NCCL's settings, and a time limit on the first exchange.

A wrong interface or a blocked port makes NCCL wait without end and without a word, inside a call that nothing can
interrupt. So a thread watches, and ends the process with a line that says what was tried.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import torch

from golf.params.hardware import Hardware
from golf.runtime.device import uses_gpu
from golf.runtime.errors import Exit, FairwayError
from golf.runtime.files import write_json
from golf.train.distributed import Ranks, join, world_size

# The machine's failures, in the words of CUDA, NCCL and gloo: the same command may pass the next time.
MACHINE = ("CUDA error", "NCCL", "ECC", "uncorrectable", "cuBLAS", "CUBLAS_STATUS", "cudnn", "CUDNN_STATUS",
           "Connection closed by peer", "Connection reset by peer", "Timed out waiting", "Socket Timeout")  # fmt: skip


@contextmanager
def connect(hardware: Hardware, failure: Path | None = None) -> Iterator[Ranks]:
    """The process group of :func:`golf.train.distributed.join`, once every rank has summed a number with the others.

    Args:
        hardware: ``nccl`` is set in this process's environment, where NCCL looks for it.
        failure: file that gets word of a hang, or of what ended the block; see :func:`golf.train.launch.launch`.

    Raises:
        ConfigError, FairwayError: see there; and the first sum was wrong. A hang ends the process, and the word that
            it leaves in ``failure`` has exit code 75.
    """
    os.environ.update(hardware.nccl or {})
    with ExitStack() as group:
        with _limited(hardware, failure):
            ranks = group.enter_context(join(hardware))
            first_exchange(ranks)
        with noted(failure):  # before the group ends: the others would take this rank's end for a lost network
            yield ranks


def first_exchange(ranks: Ranks) -> None:
    """Sum one number over all ranks, on their devices.

    Raises:
        FairwayError: another sum came back; exit code 75.
    """
    if ranks.count == 1:
        return
    import torch.distributed as dist

    total = torch.ones((), device=ranks.device)
    dist.all_reduce(total)
    if float(total) != ranks.count:
        raise FairwayError(
            f"rank {ranks.index}: the first sum over ranks is {float(total):g}, needed {ranks.count}", code=Exit.RETRY
        )


@contextmanager
def _limited(hardware: Hardware, failure: Path | None) -> Iterator[None]:
    """End this process when the block takes longer than ``hardware.nccl_timeout``; one rank waits for nobody."""
    if world_size() == 1:
        yield
        return
    over = "NCCL" if uses_gpu(hardware) else "gloo"
    settings = ", ".join(f"{name}={value}" for name, value in (hardware.nccl or {}).items()) or "none"
    message = (
        f"the machine failed: no first exchange between {world_size()} ranks over {over} within hardware.nccl_timeout "
        f"= {hardware.nccl_timeout:g} s, with hardware.nccl: {settings}. Try: the same with NCCL_DEBUG: INFO, which "
        "names the interface; NCCL_SOCKET_IFNAME, NCCL_IB_DISABLE and NCCL_P2P_DISABLE choose another"
    )

    def end() -> None:
        if failure is not None:
            note_failure(failure, Exit.RETRY, message)
        print(f"train: {message}", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)  # nothing gentler ends a call that never returns

    timer = threading.Timer(hardware.nccl_timeout, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def machine_failures() -> Iterator[None]:
    """Turn errors of GPUs and of the network between ranks into FairwayErrors with exit code 75.

    A GPU without memory left is no such failure: it names the parameter that helps.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        text = str(error).split(". ", maxsplit=1)[0]
        raise FairwayError(text, hint="dvc exp run -S train.micro_batch_tokens=... with half of its value") from error
    except RuntimeError as error:  # torch's CUDA and distributed errors are kinds of it
        text = " ".join(str(error).split())
        if not any(word in text for word in MACHINE):
            raise
        raise FairwayError(
            f"the machine failed: {text[:300]}", hint="the same command again", code=Exit.RETRY
        ) from error


@contextmanager
def noted(failure: Path | None) -> Iterator[None]:
    """Write what ends the block to the file ``failure`` and let it pass, the machine's as a FairwayError."""
    try:
        with machine_failures():
            yield
    except BaseException as error:
        if failure is not None and isinstance(error, FairwayError):
            note_failure(failure, error.code, str(error))
        elif failure is not None:
            code = Exit.IO if isinstance(error, OSError) else Exit.FAILURE
            note_failure(failure, code, f"rank failed: {type(error).__name__}: {error}")
        raise


def note_failure(failure: Path, code: int, message: str) -> None:
    """Write what ended this rank, unless another rank was first: that one is the cause."""
    if not failure.exists():
        with suppress(OSError):  # the parent has gone, and the folder with it
            write_json(failure, {"code": int(code), "message": " ".join(message.split())})
