"""Runs in MLflow's SQLite database, read by SQL alone.

MLflow's client makes an object of every parameter and metric, most of a minute for 2,000 runs, and takes seconds to
import; its tables hold the same in a second or two. Who calls this falls back to the client where the tables are not
those that are known here, so a newer MLflow costs time and no result.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BATCH = 500  # identifiers in a statement; SQLite takes 999 in its oldest versions


@dataclass
class LoggedRun:
    """A run as MLflow keeps it; times in Unix milliseconds, metrics at their last step."""

    run_id: str
    name: str
    start: int
    end: int
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)


def read_runs(file: Path, experiment: str) -> list[LoggedRun] | None:
    """The active runs of the experiment of that name; None where there is none, or the tables are not as expected."""
    try:
        with _reading(file) as database:
            chosen = "run_uuid IN (SELECT run_uuid FROM runs WHERE experiment_id = :id AND lifecycle_stage = 'active')"
            named = database.execute("SELECT experiment_id FROM experiments WHERE name = ?", (experiment,)).fetchone()
            if named is None:
                return None
            of = {"id": named[0]}
            found = {
                run_id: LoggedRun(run_id, name or "", start or 0, end or 0)
                for run_id, name, start, end in database.execute(
                    f"SELECT run_uuid, name, start_time, end_time FROM runs WHERE {chosen}", of
                )
            }
            for table in ("tags", "params"):
                for run_id, key, value in database.execute(
                    f"SELECT run_uuid, key, value FROM {table} WHERE {chosen}", of
                ):
                    getattr(found[run_id], table)[key] = value
            numbers = f"SELECT run_uuid, key, value, is_nan FROM latest_metrics WHERE {chosen}"
            for run_id, key, value, is_nan in database.execute(numbers, of):
                found[run_id].metrics[key] = math.nan if is_nan else value
    except (sqlite3.Error, KeyError):
        return None
    return list(found.values())


def read_histories(file: Path, run_ids: Sequence[str], key: str) -> dict[str, list[tuple[int, float]]] | None:
    """The metric ``key`` of the runs as (step, value), by step; None where the tables are not as expected."""
    found: dict[str, dict[int, float]] = {}
    try:
        with _reading(file) as database:
            for first in range(0, len(run_ids), BATCH):
                part = run_ids[first : first + BATCH]
                places = ", ".join("?" * len(part))
                rows: Any = database.execute(
                    f"SELECT run_uuid, step, value, is_nan FROM metrics WHERE key = ? AND run_uuid IN ({places}) "
                    "ORDER BY step, timestamp",
                    (key, *part),
                )
                for run_id, step, value, is_nan in rows:
                    found.setdefault(run_id, {})[step] = math.nan if is_nan else value
    except sqlite3.Error:
        return None
    return {run_id: list(points.items()) for run_id, points in found.items()}


@contextmanager
def _reading(file: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True)) as database:
        yield database
