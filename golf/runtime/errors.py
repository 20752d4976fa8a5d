"""One error type, one line of text, one exit code.

Every message says what went wrong, where, the value found, the value needed and the next command:

    size gate: 16,012,334 bytes > 16,000,000 (seed 43: model 15,964,214 + code 48,120). Try: dvc exp run -S quant.bits=5
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path


class Exit(IntEnum):
    """Exit codes, as sysexits.h names them. A scheduler retries ``RETRY`` and nothing else."""

    FAILURE = 1
    DATA = 65  # the input, or the size of the result, is wrong: no retry can help
    NO_INPUT = 66  # a file that must exist does not
    IO = 74  # the disk is full or unwritable
    RETRY = 75  # the machine failed (GPU, NCCL, network): the same command may pass
    CONFIG = 78  # a parameter is unknown or has a bad value


_INTERRUPTED = 128 + 2  # as a shell says it of SIGINT
# By name, so that nothing is imported for it: of torch, and of a pool whose worker the kernel killed.
_MACHINE = {"AcceleratorError", "DistBackendError", "DistNetworkError", "DistStoreError", "BrokenProcessPool"}
_MEMORY = {"MemoryError", "OutOfMemoryError"}


class FairwayError(Exception):
    """An error meant for the user: one line, no traceback."""

    def __init__(self, message: str, *, hint: str = "", code: Exit = Exit.FAILURE) -> None:
        super().__init__(f"{message.rstrip('. ')}. Try: {hint}" if hint else message)
        self.code = code


class ConfigError(FairwayError):
    """A parameter is unknown, missing or out of range."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=Exit.CONFIG)


class DataError(FairwayError):
    """A file's content is not what it must be."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=Exit.DATA)


class MissingInput(FairwayError):
    """A file or directory that a stage reads does not exist."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint, code=Exit.NO_INPUT)


def told(error: Exception) -> FairwayError | None:
    """An error of a program that was built from this package, and so has classes of its own, as one of ours."""
    code = getattr(error, "code", None)
    if isinstance(error, FairwayError) or not isinstance(code, IntEnum):
        return None
    return FairwayError(str(error), code=Exit(code))


def run_main(name: str, main: Callable[[], None]) -> None:
    """Call ``main`` and leave the process: a :class:`FairwayError` or a disk error as one line on stderr.

    Programming errors keep their traceback: those are ours, not the user's. So does a failure of the machine's GPUs, of
    the connection between ranks or of a worker process, but its exit code says that the same command may pass. Memory
    that ran out keeps it too, since it shows what asked for so much.
    """
    try:
        main()
    except FairwayError as error:
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        sys.exit(error.code)
    except OSError as error:
        told = _disk_error(error)
        if told is None:
            raise
        print(f"{name}: {told}", file=sys.stderr, flush=True)
        sys.exit(told.code)
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr, flush=True)
        sys.exit(_INTERRUPTED)
    except (RuntimeError, MemoryError) as error:
        kind, text = type(error).__name__, " ".join(str(error).split())[:200]
        if kind not in _MACHINE | _MEMORY:
            raise
        traceback.print_exc()
        if kind in _MACHINE:
            print(f"{name}: the machine failed: {text}", file=sys.stderr, flush=True)
            sys.exit(Exit.RETRY)
        short = FairwayError(
            f"memory ran out: {text or 'of the process'}",
            hint="a smaller train.micro_batch_tokens or eval.batch_windows",
        )
        print(f"{name}: {short}", file=sys.stderr, flush=True)
        sys.exit(short.code)


def _disk_error(error: OSError) -> FairwayError | None:
    where = error.filename2 or error.filename or "the working directory"  # the second is what was written to
    near, look = _nearest(Path("." if where == "the working directory" else where)), "ls -ld"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return FairwayError(
            f"{where}: no space left on the device; nothing half-written was kept",
            hint="dvc gc --workspace --all-experiments"
            if near.resolve().is_relative_to(Path.cwd())
            else f"df -h {near}",
            code=Exit.IO,
        )
    homeless = error.errno == errno.ENOENT and not error.filename  # tempfile's words where no disk takes a file
    if error.errno in (errno.EIO, errno.EFBIG) or homeless:
        needed, look = "the disk must take the whole file", "df -h"
    elif error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        needed = "this user must be allowed to use the file" if near.is_file() else "the directory must be writable"
    elif error.errno in (errno.ENOTDIR, errno.EISDIR, errno.EEXIST):
        needed = "needed a folder where a file stands, or a file"
    else:
        return None
    return FairwayError(f"{where}: {error.strerror}; {needed}", hint=f"{look} {near}", code=Exit.IO)


def _nearest(path: Path) -> Path:
    """``path``, or the folder above it that exists: what a command can look at."""
    while not os.path.exists(path) and path != path.parent:  # Path.exists raises where it may not look
        path = path.parent
    return path
