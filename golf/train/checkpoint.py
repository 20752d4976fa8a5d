"""Checkpoints to resume from: ``.checkpoints/KEY/step-00000120.safetensors``, beside the graph and not in it.

KEY is the hash of everything that determines the run (parameters, seed, data, code) and of nothing about the
machine, so a run resumes from its own past alone, on any hardware. A file is whole or absent, carries a checksum,
and the one before it is kept: whatever kills the run, and whenever, one of the two can be read. On a disk with too
little room for that, and for the weights at the end, the weights come first, then the newest file.
"""

from __future__ import annotations

import errno
import hashlib
import json
import shutil
import threading
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from golf.data.shards import list_shards
from golf.runtime.files import whole_file

FORMAT = 2  # 2: with the place in the data
KEPT = 2
WRITTEN = ("model/", "averages/")  # parts of a state that the run writes at its end
MARGIN = 1 << 20  # bytes of the disk beside their numbers: the heads of files, the reports
# The code that determines the weights, relative to the package.
SOURCES = ("model", "optim", "train", "data/loader.py", "data/packing.py", "data/shards.py", "quant/grid.py")
SAMPLE_BYTES = 1 << 20  # of a shard's start, middle and end: hashing 16 GB whole would cost a minute


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` steps; ``rows`` is the curve up to there.

    ``rank_seconds`` are the counted seconds times the ranks: what the budget is made of, whoever goes on.
    """

    step: int
    rank_seconds: float
    rows: list[list[float]]
    tensors: dict[str, Tensor]


class Store:
    """Writes checkpoints of one run in the background, at most one every ``every_seconds``, and finds the last.

    Used in a ``with`` block, whose end waits for the write in progress. A disk that refuses a checkpoint costs a
    warning, never the run.

    Args:
        folder: of this run's key.
        every_seconds: least time between two.
        say: takes a line for the log.
    """

    def __init__(self, folder: Path, every_seconds: float, say: Callable[[str], None]) -> None:
        self.folder, self._every, self._say = folder, every_seconds, say
        self._last = time.monotonic()
        self._thread: threading.Thread | None = None
        for left in folder.glob(".step-*"):  # half-written by a run that was killed
            left.unlink(missing_ok=True)

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint that can be read, or None; a damaged one is named and passed over."""
        for path in reversed(self._paths()):
            try:
                return read(path)
            except Exception as error:  # any damage: safetensors, JSON, a missing key, a wrong sum
                self._say(f"{path}: damaged ({' '.join(str(error).split())}); going back to the one before it")
        return None

    @property
    def last_step(self) -> int | None:
        """Steps of the newest checkpoint on disk."""
        self.wait()
        paths = self._paths()
        return _step(paths[-1]) if paths else None

    def due(self) -> bool:
        """Whether it is time for the next one, and the disk has finished the last."""
        busy = self._thread is not None and self._thread.is_alive()
        return not busy and time.monotonic() - self._last >= self._every

    def save(
        self, step: int, rank_seconds: float, rows: Sequence[Sequence[float]], tensors: Mapping[str, Tensor]
    ) -> None:
        """Copy ``tensors`` now, on their own device, and write them in the background: no wait for a GPU."""
        self.wait()
        self._last = time.monotonic()
        whole = torch.contiguous_format
        copied = {name: tensor.detach().clone(memory_format=whole) for name, tensor in tensors.items()}
        devices = {tensor.device for tensor in copied.values() if tensor.is_cuda}
        copies = [torch.cuda.current_stream(device).record_event() for device in devices]
        checkpoint = Checkpoint(step, rank_seconds, [list(row) for row in rows], copied)
        self._thread = threading.Thread(target=self._write, args=(checkpoint, copies), name="checkpoint")
        self._thread.start()

    def wait(self) -> None:
        """Until the write in progress has ended."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write(self, checkpoint: Checkpoint, copies: Sequence[torch.cuda.Event]) -> None:
        from safetensors import SafetensorError

        path = self.folder / f"step-{checkpoint.step:08d}.safetensors"
        for copy in copies:
            copy.synchronize()
        # On a stream of its own, or the transfer would stand in line behind the steps that are queued.
        with torch.cuda.stream(torch.cuda.Stream()) if copies else nullcontext():
            checkpoint = replace(checkpoint, tensors={name: value.cpu() for name, value in checkpoint.tensors.items()})
        bad = not_finite(checkpoint.tensors)
        if bad:  # the loss tells it a step later; the file before this one is then the last good one
            self._say(f"{path}: not written: {bad[0]} is not finite after step {checkpoint.step}")
            return
        try:
            self._make_room(checkpoint.tensors)
            write(path, checkpoint)
            past = [known for known in self._paths() if _step(known) <= checkpoint.step]
            for old in {*self._paths()} - {*past[-KEPT:]}:  # those of later steps could not be read
                old.unlink(missing_ok=True)
        except (OSError, SafetensorError) as error:
            self._say(f"{path}: not written ({' '.join(str(error).split())}); training goes on without it")

    def _make_room(self, tensors: Mapping[str, Tensor]) -> None:
        """Give up all checkpoints but the newest where the disk takes another one only then.

        Raises:
            OSError: it does not even then, beside the weights and averages that the run will write at its end.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        own = sum(value.nbytes for value in tensors.values())
        weights = sum(value.nbytes for name, value in tensors.items() if name.startswith(WRITTEN))
        free, needed, older = shutil.disk_usage(self.folder).free, own + weights + MARGIN, self._paths()[:-1]
        if free >= needed:
            return
        if free + sum(path.stat().st_size for path in older) < needed:
            raise OSError(errno.ENOSPC, f"{free:,} bytes free, needed {needed:,}: {weights:,} for the run's result")
        for path in older:
            path.unlink()

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step-*.safetensors"), key=_step)

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.wait()


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold a NaN or an infinity."""
    return [name for name, value in tensors.items() if value.is_floating_point() and not value.isfinite().all()]


def forget(folder: Path | None) -> None:
    """Remove a run's checkpoints: it has ended well."""
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)


def _step(path: Path) -> int:
    return int(path.stem.removeprefix("step-"))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Write ``checkpoint``, its numbers as JSON in the header of its tensors; whole or not at all."""
    from safetensors.torch import save_file

    numbers = {
        "format": FORMAT,
        "step": checkpoint.step,
        "rank_seconds": checkpoint.rank_seconds,
        "rows": checkpoint.rows,
        "crc32": checksum(checkpoint.tensors),
    }
    with whole_file(path) as temporary:
        save_file(checkpoint.tensors, temporary, metadata={"checkpoint": json.dumps(numbers)})


def read(path: Path) -> Checkpoint:
    """Read what :func:`write` wrote.

    Raises:
        ValueError: the content is not what was written.
        SafetensorError, OSError, KeyError: it is not such a file.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        numbers: dict[str, Any] = json.loads((file.metadata() or {})["checkpoint"])
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
    if numbers["format"] != FORMAT:
        raise ValueError(f"format {numbers['format']}, needed {FORMAT}")
    if numbers["crc32"] != checksum(tensors):
        raise ValueError("checksum differs")
    return Checkpoint(int(numbers["step"]), float(numbers["rank_seconds"]), numbers["rows"], tensors)


def checksum(tensors: Mapping[str, Tensor]) -> int:
    """CRC-32 over names and contents, in the order of the names."""
    total = 0
    for name in sorted(tensors):
        total = zlib.crc32(name.encode(), total)
        flat = tensors[name].contiguous().reshape(-1)
        if flat.numel():
            total = zlib.crc32(flat.view(torch.uint8).numpy().data, total)
    return total


def data_digest(shards: Path) -> str:
    """A hash of the training shards: of their sizes, and of samples of their content."""
    content = [[path.stat().st_size, _sample(path)] for path in list_shards(shards, "train")]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def run_key(determining: Mapping[str, Any], shards: Path) -> str:
    """The key of a run: a hash of its JSON-able parameters, of the training shards and of the training code."""
    content = {
        "format": FORMAT,
        "run": determining,
        "data": data_digest(shards),
        "code": source_digest(),
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def source_digest() -> str:
    """SHA-256 of the code that determines the weights; inside the shipped program, of the program."""
    package = Path(__file__).resolve().parents[1]
    if package.parent.is_file():
        return hashlib.sha256(package.parent.read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for source in SOURCES:
        place = package / source
        for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
            digest.update(f"{path.relative_to(package).as_posix()}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def _sample(path: Path) -> str:
    """Hash of a file's start, middle and end; of all of it up to three times SAMPLE_BYTES."""
    size, digest = path.stat().st_size, hashlib.sha256()
    with path.open("rb") as file:
        if size <= 3 * SAMPLE_BYTES:
            digest.update(file.read())
        else:
            for start in (0, (size - SAMPLE_BYTES) // 2, size - SAMPLE_BYTES):
                file.seek(start)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()
