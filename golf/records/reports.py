"""The reports of the seeds asked for: each read by name, refused by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from golf.runtime.errors import DataError
from golf.runtime.report import read_report, report_path, timing_path


def seed_report(stage: str, seed: int) -> dict[str, Any]:
    """The result that ``stage`` reported for ``seed``.

    Raises:
        MissingInput: it has not been made.
        DataError: it is not a JSON object, or another seed's.
    """
    return _read(report_path(stage, seed), stage, seed)


def seed_reports(stage: str, seeds: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The results of exactly ``seeds``; files of other seeds in the folder don't count."""
    return {seed: seed_report(stage, seed) for seed in seeds}


def seed_timing(stage: str, seed: int) -> dict[str, Any]:
    """When, where and how long ``stage`` ran for ``seed``."""
    return read_report(timing_path(stage, seed), f"{stage}@{seed}")


def whole_report(stage: str, seeds: Sequence[int]) -> dict[str, Any]:
    """The report of a stage over all of ``seeds``.

    Raises:
        MissingInput: it has not been made.
        DataError: it is of other seeds.
    """
    content = read_report(report_path(stage), stage)
    if content.get("seeds") != list(seeds):
        raise DataError(
            f"{report_path(stage)}: found seeds {content.get('seeds')}, needed {list(seeds)}", hint=f"dvc repro {stage}"
        )
    return content


def number(report: Mapping[str, Any], key: str, path: Path, *, hint: str = "") -> float:
    """A finite number of a report.

    Raises:
        DataError: the key is missing or holds something else.
    """
    value = report.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise DataError(f"{path}: {key}: found {value!r}, needed a finite number", hint=hint)
    return value


def seed_numbers(stage: str, seeds: Iterable[int], key: str) -> dict[int, float]:
    """The number ``key`` of ``stage``'s report, for each of ``seeds``."""
    return {
        seed: number(seed_report(stage, seed), key, report_path(stage, seed), hint=f"dvc repro -f -s {stage}@{seed}")
        for seed in seeds
    }


def _read(path: Path, stage: str, seed: int) -> dict[str, Any]:
    content = read_report(path, f"{stage}@{seed}")
    if content.get("seed") != seed:
        raise DataError(
            f"{path}: found the report of seed {content.get('seed')!r}, needed seed {seed}",
            hint=f"dvc repro -f -s {stage}@{seed}",
        )
    return content
