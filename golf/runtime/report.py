"""The two files a stage reports in: its result, and what the result must not depend on.

``reports/STAGE.json`` or ``reports/STAGE/SEED.json`` holds at most a dozen numbers and no time, host or path,
so that an unchanged result stops the graph there. ``reports/timing/STAGE.json`` or
``reports/timing/STAGE/SEED.json`` holds the rest; only ``submission`` and ``track`` read it.
"""

from __future__ import annotations

import os
import platform
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from golf.runtime.errors import DataError, MissingInput
from golf.runtime.files import read_json, write_json

REPORTS = Path("reports")


def report_path(stage: str, seed: int | None = None) -> Path:
    """Where the result of ``stage`` (for ``seed``) is reported."""
    return _place(REPORTS, stage, seed)


def timing_path(stage: str, seed: int | None = None) -> Path:
    """Where the seconds and the machine of ``stage`` (for ``seed``) are reported."""
    return _place(REPORTS / "timing", stage, seed)


def _place(folder: Path, stage: str, seed: int | None) -> Path:
    return folder / f"{stage}.json" if seed is None else folder / stage / f"{seed}.json"


def read_report(path: Path, target: str) -> dict[str, Any]:
    """The JSON object in ``path``, which ``dvc repro TARGET`` makes.

    Raises:
        MissingInput: there is no such file.
        DataError: it holds something else.
    """
    if not path.is_file():
        raise MissingInput(f"{path}: no such report, needed for the seeds asked for", hint=f"dvc repro {target}")
    try:
        content = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}", hint=f"dvc repro -f -s {target}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: found {type(content).__name__}, needed an object", hint=f"dvc repro -f -s {target}")
    return content


class Stopwatch:
    """Seconds by part: ``with watch.part("hessians"): ...``; parts of one name add up."""

    def __init__(self) -> None:
        self.started_at = time.time()
        self._start = time.perf_counter()
        self.parts: dict[str, float] = {}

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the part ``name``."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.parts[name] = self.parts.get(name, 0.0) + time.perf_counter() - start

    @property
    def seconds(self) -> float:
        """Seconds since the stopwatch was made."""
        return time.perf_counter() - self._start


def write_report(stage: str, numbers: Mapping[str, Any], *, seed: int | None = None) -> None:
    """Write the stage's result; a seed's report names its seed."""
    write_json(report_path(stage, seed), dict(numbers) if seed is None else {"seed": seed, **numbers})


def write_timing(stage: str, watch: Stopwatch, *, seed: int | None = None, **extra: Any) -> None:
    """Write when, where and how long the stage ran; ``extra`` may name a device, a clock or versions."""
    content = {
        "started_at": round(watch.started_at, 3),
        "seconds": round(watch.seconds, 3),
        "parts": {name: round(seconds, 3) for name, seconds in watch.parts.items()},
        "host": socket.gethostname(),
        "cpus": os.cpu_count(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        **extra,
    }
    write_json(timing_path(stage, seed), content)
