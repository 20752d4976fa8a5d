"""Run the shipped program as its user will: in an empty directory, with a clean environment, without network.

What is scored is what ships, so a score may rest on nothing but the files named here. This keeps accidents out
(a stray checkpoint, a module of the repository, a download); it is no prison for hostile code.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from golf.runtime import isolate, torchrun
from golf.runtime.errors import Exit, FairwayError, MissingInput

# The machine's shape, not the run's content: where the GPUs and their libraries are.
PASSED = ("PATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TZ", "SYSTEMROOT")
PASSED_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_")
# torchrun gives its workers 30 s to end before it kills them itself.
GRACE_SECONDS = 10.0
TORCHRUN_GRACE_SECONDS = 40.0


class Outputs(dict[str, Path]):
    """The files that a program left, by the name they were asked for; ``network`` says what it could reach."""

    network: str = "unknown"


def run_program(
    program: Path,
    args: Sequence[str],
    *,
    files: Mapping[str, Path],
    out: Sequence[str],
    destination: Path,
    processes: int = 1,
    threads: int = 0,
    limit_seconds: float | None = None,
) -> Outputs:
    """Run ``python PROGRAM ARGS`` (by torchrun when ``processes`` > 1) in an empty temporary directory.

    Args:
        program: the bundle; it is copied under its own name.
        args: verb and options; paths are relative to the directory, as named in ``files`` and ``out``.
        files: name in the directory -> file or folder here; hard-linked where possible, else copied.
        out: names that the program writes there; each must exist when it ends. Folders above them are made.
        destination: existing folder that receives the outputs under their last name.
        processes: ranks.
        threads: CPU threads a rank; 0: torch's choice.
        limit_seconds: end the program after so long; None: never.

    Returns:
        ``out`` name -> path under ``destination``.

    Raises:
        MissingInput: ``program`` or one of ``files`` does not exist.
        FairwayError: the program failed (with its exit code, where that is one of ours), ran over the limit,
            or left an output out.
    """
    for path in (program, *files.values()):
        if not path.exists():
            raise MissingInput(f"{path}: no such file or folder", hint="dvc repro")
    verb = f"{program.name} {args[0]}" if args else program.name
    with tempfile.TemporaryDirectory(prefix="fairway-") as temporary:
        top = Path(temporary)
        work, status = top / "work", top / "network"
        work.mkdir()
        (top / "home").mkdir()
        shutil.copyfile(program, work / program.name)
        for name, path in files.items():
            _place(path.resolve(), work / name)
        for name in out:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-I", isolate.__file__, str(status), str(os.getpid()), sys.executable, "-I"]
        if processes > 1:
            command += [torchrun.__file__, "--standalone", "--local-addr=127.0.0.1"]
            command += [f"--nproc-per-node={processes}"]
        command += [program.name, *args]
        limits = (TORCHRUN_GRACE_SECONDS if processes > 1 else GRACE_SECONDS, limit_seconds)
        code = _supervise(command, work, _environment(top / "home", threads), limits, verb)
        if code != 0:
            raise _failure(verb, code)
        outputs = Outputs()
        outputs.network = status.read_text(encoding="utf-8") if status.is_file() else "unknown"
        for name in out:
            if not (work / name).exists():
                raise FairwayError(f"{verb}: ended well, but left no {name}")
        for name in out:
            outputs[name] = Path(shutil.move(work / name, destination / Path(name).name))
        return outputs


def _supervise(
    command: list[str], work: Path, environment: dict[str, str], limits: tuple[float, float | None], verb: str
) -> int:
    """Run ``command`` in its own session; its whole group ends with this call, whatever ends this call."""
    grace, limit = limits
    with terminable():
        process = subprocess.Popen(command, cwd=work, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            raise FairwayError(f"{verb}: still running after {limit:g} s; ended it", code=Exit.RETRY) from None
        finally:
            if process.poll() is None:
                _signal_group(process.pid, signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(grace)
            _signal_group(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception inside the block, so that programs are ended before we are."""
    if threading.current_thread() is not threading.main_thread():
        yield  # handlers belong to the main thread; the kernel still ends the program with us
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _signal_group(group: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _environment(home: Path, threads: int) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name in PASSED or name.startswith(PASSED_PREFIXES)}
    kept |= {"HOME": str(home), "TMPDIR": str(home), "LANG": "C.UTF-8"}
    # Idle OpenMP threads sleep: their spinning costs a factor of five where other processes want the cores.
    kept["OMP_WAIT_POLICY"] = "PASSIVE"
    if threads > 0:
        kept |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    return kept


def _place(source: Path, target: Path) -> None:
    """Hard-link ``source`` (a folder: file by file) to ``target``; copy across file systems."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_or_copy)
    else:
        _link_or_copy(str(source), str(target))


def _link_or_copy(source: str, target: str) -> None:
    file = Path(source).resolve()  # link(2) would link a symbolic link itself
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _failure(verb: str, code: int) -> FairwayError:
    if code < 0:
        name = signal.Signals(-code).name
        more = " (the kernel does that when memory runs out)" if -code == signal.SIGKILL else ""
        return FairwayError(f"{verb}: killed by {name}{more}", code=Exit.RETRY)
    known = Exit(code) if code in set(Exit) else Exit.FAILURE
    return FairwayError(f"{verb}: exit code {code}; its own message stands above", code=known)
