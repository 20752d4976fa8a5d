"""One state of the graph, read from its files: what was asked for, what came out, and its key.

The key is the SHA-256 of the parameters and of every report of the seeds asked for. Reports carry no time, host
or path, so the same result has the same key wherever and whenever it was computed, and however often.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golf.runtime.errors import DataError
from golf.runtime.report import read_report

SEED_STAGES = ("train", "select", "quantize", "compress", "gate", "evaluate", "audit")
WHOLE_STAGES = ("aggregate", "verify", "tokenize", "bundle")  # MLflow plots the first number that it gets
PAPERS = ("submission.json", "README.md", "params.json")  # of the submission, that MLflow is given
SPEED = ("ms_per_step", "tokens_per_second", "peak_memory_bytes")  # of training, by which machines are compared


@dataclass(frozen=True)
class SeedState:
    """One seed: numbers by ``stage.key``, curves by name as (step, value), what ran when.

    Of the timings it has ``seconds.stage``, and ``speed.key`` of training.
    """

    seed: int
    metrics: dict[str, float]
    curves: dict[str, list[tuple[int, float]]]
    timings: dict[str, dict[str, Any]]
    files: list[Path]

    @property
    def started_at(self) -> dict[str, float]:
        """Unix time at which each stage started, on whichever machine."""
        times = {stage: timing.get("started_at") for stage, timing in self.timings.items()}
        return {stage: float(time) for stage, time in times.items() if isinstance(time, (int, float))}

    @property
    def spans(self) -> dict[str, tuple[float, float]]:
        """Unix seconds of each stage's start and end."""
        begun = self.started_at
        return {stage: (start, start + self.metrics.get(f"seconds.{stage}", 0.0)) for stage, start in begun.items()}

    @property
    def device(self) -> str:
        """The device that trained it, as its timing report names it."""
        return str(self.timings.get("train", {}).get("device", "unknown"))


@dataclass(frozen=True)
class GraphState:
    """The whole of it. ``span``: Unix seconds of the first start and the last end that the timings name."""

    key: str
    params: dict[str, str]
    metrics: dict[str, float]
    verdict: str
    comparable: bool
    seeds: list[SeedState]
    files: list[Path]
    span: tuple[float, float] = field(default=(0.0, 0.0))


def read_state(root: Path, seeds: list[int]) -> GraphState:
    """Read the reports, curves, timings and the submission's parameters under ``root``.

    Raises:
        MissingInput: a report that must be there is not; the stage that makes it is named.
        DataError: a file is not what it must be.
    """
    reports, folder = root / "reports", root / "build" / "submission"
    params = read_report(folder / "params.json", "submission")
    aggregate = read_report(reports / "aggregate.json", "aggregate")
    if aggregate.get("seeds") != seeds:
        raise DataError(
            f"{reports / 'aggregate.json'}: found seeds {aggregate.get('seeds')}, needed {seeds}",
            hint="dvc repro aggregate",
        )
    found = [seed_state(reports, seed) for seed in seeds]
    whole = [path for name in WHOLE_STAGES if (path := reports / f"{name}.json").is_file()]
    metrics: dict[str, float] = {}
    for path in whole:
        metrics |= dict(numbers(read_report(path, path.stem), path.stem))
    papers = [path for name in PAPERS if (path := folder / name).is_file()]
    counted = [folder / "params.json", *whole, *(path for seed in found for path in seed.files)]
    return GraphState(
        key=_key(root, counted),
        params={"seeds": json.dumps(seeds), **{key: str(value) for key, value in flatten(params) if key != "seeds"}},
        metrics=metrics,
        verdict=str(aggregate.get("verdict", "")),
        comparable=bool(aggregate.get("comparable")),
        seeds=found,
        files=[*whole, *papers],
        span=_span(found),
    )


def seed_state(reports: Path, seed: int) -> SeedState:
    """Everything reported about ``seed``."""
    metrics: dict[str, float] = {}
    timings: dict[str, dict[str, Any]] = {}
    files = []
    for stage in SEED_STAGES:
        path = reports / stage / f"{seed}.json"
        content = read_report(path, f"{stage}@{seed}")
        metrics |= {key: value for key, value in numbers(content, stage) if key != f"{stage}.seed"}
        files.append(path)
        timing = reports / "timing" / stage / f"{seed}.json"
        if timing.is_file():
            timings[stage] = read_report(timing, f"{stage}@{seed}")
    for stage, timing_content in timings.items():
        if isinstance(seconds := timing_content.get("seconds"), (int, float)):
            metrics[f"seconds.{stage}"] = float(seconds)
    for key in SPEED:
        if isinstance(value := timings.get("train", {}).get(key), (int, float)):
            metrics[f"speed.{key}"] = float(value)
    curve = reports / "curves" / f"{seed}.csv"
    curves = read_curves(curve) if curve.is_file() else {}
    return SeedState(seed, metrics, curves, timings, files)


def read_curves(path: Path) -> dict[str, list[tuple[int, float]]]:
    """Columns of a CSV with a ``step`` column, as (step, value) without the empty and non-finite cells."""
    curves: dict[str, list[tuple[int, float]]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                step = int(float(row["step"]))
                cells = {name: float(cell) for name, cell in row.items() if name and name != "step" and cell}
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(f"{path}: not a curve: {error}", hint=f"dvc repro -f -s train@{path.stem}") from None
            for name, value in cells.items():
                if math.isfinite(value):
                    curves.setdefault(name, []).append((step, value))
    return curves


def numbers(content: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    """The finite numbers and truth values of nested objects, by dotted name; lists are skipped."""
    for key, value in flatten(content, prefix):
        if isinstance(value, (bool, int, float)) and math.isfinite(value):
            yield key, float(value)


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested objects by dotted name; a list is one leaf."""
    for key, value in content.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping):
            yield from flatten(value, name)
        else:
            yield name, value


def lock_hashes(root: Path, seeds: list[int]) -> dict[str, str]:
    """SHA-256 of each stage's entry in dvc.lock, ``track`` and other seeds' stages left out; empty without a lock.

    dvc.lock is written stage by stage, so while ``track`` runs all the others already stand in it.
    """
    path = root / "dvc.lock"
    if not path.is_file():
        return {}
    import yaml

    entries = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("stages", {})
    asked = {str(seed) for seed in seeds}
    kept = {name: entry for name, entry in entries.items() if name != "track" and _asked(name, asked)}
    return {name: _sha256(json.dumps(entry, sort_keys=True).encode()) for name, entry in sorted(kept.items())}


def _asked(name: str, seeds: set[str]) -> bool:
    return "@" not in name or name.split("@")[1] in seeds


def _key(root: Path, files: list[Path]) -> str:
    lines = [f"{path.relative_to(root).as_posix()} {_sha256(path.read_bytes())}" for path in sorted(files)]
    return _sha256("\n".join(lines).encode())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _span(seeds: list[SeedState]) -> tuple[float, float]:
    starts, ends = [], []
    for seed in seeds:
        for stage, start in seed.started_at.items():
            starts.append(start)
            ends.append(start + seed.metrics.get(f"seconds.{stage}", 0.0))
    return (min(starts), max(ends)) if starts else (0.0, 0.0)
