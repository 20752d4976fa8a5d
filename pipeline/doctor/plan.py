"""The planned run: are its parameters and data sound, what will run, how long, for how much."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from golf.data.shards import list_shards, load_index, read_header
from golf.params.base import load, load_seeds, read_document
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.params.train import Train
from golf.runtime.device import process_count, uses_gpu
from golf.runtime.errors import DataError, FairwayError
from golf.runtime.files import read_json
from golf.runtime.report import timing_path
from pipeline.doctor.checks import Result, child, last_line
from pipeline.preflight import preflight

GRAPH = Path("dvc.yaml")
REPORT = Path("reports/verify.json")
SHARDS = Path("data/shards")
STATUS_SECONDS = 90.0  # a machine that has never seen the data hashes all of it, at half a gigabyte a second
NAMED = 4  # stages that a line names


def parameters() -> list[Result]:
    """What :mod:`pipeline.preflight` refuses."""
    preflight()
    return [Result("parameters", "ok", f"params.yaml is sound; seeds {', '.join(map(str, load_seeds()))}")]


def dataset() -> list[Result]:
    """``verify`` passed, and every shard still has the header and the length that it was written with."""
    if not SHARDS.is_dir():
        return [Result("dataset", "skipped", "no shards yet: tokenize makes them", "dvc repro tokenize")]
    if not REPORT.is_file():
        return [Result("dataset", "warn", f"{REPORT} is not there: nobody has verified the data", "dvc repro verify")]
    totals: dict[str, int] = {}
    index = load_index(SHARDS)["splits"]
    for split, entry in index.items():
        counts = [read_header(path) for path in list_shards(SHARDS, split)]
        totals[split] = sum(counts)
        needed = entry.get("tokens") if isinstance(entry, dict) else None
        if needed is not None and needed != totals[split]:
            raise DataError(
                f"{SHARDS}: {split}: found {totals[split]:,} tokens, needed {needed:,} as its index says",
                hint="dvc checkout data/shards, or dvc repro --force tokenize",
            )
    told = ", ".join(f"{count:,} {split}" for split, count in totals.items())
    return [Result("dataset", "ok", f"verified; tokens: {told}", "", {"tokens": totals})]


class Changes(NamedTuple):
    """Of the graph: stages whose inputs changed, and all that may run because of it, with the seed."""

    changed: list[str]
    following: list[str]


def planned() -> list[Result]:
    """What will be rerun, and what that takes."""
    done = child([sys.executable, "-m", "dvc", "status", "--json"], STATUS_SECONDS)
    if done.returncode:
        said = last_line(done.stderr).removeprefix("ERROR: ")
        busy = "is busy" in said
        todo = "wait for the run that holds it" if busy else "dvc status"
        return [Result("rerun", "warn" if busy else "fail", said, todo),
                Result("estimate", "skipped", "what will run is not known")]  # fmt: skip
    changes = follow(read_document(GRAPH)["stages"], json.loads(done.stdout or "{}"), load_seeds())
    if not changes.following:
        return [Result("rerun", "ok", "nothing: the graph is up to date"), Result("estimate", "ok", "0 minutes")]
    named = _named(changes.changed)
    told = f"{len(changes.following)} stages at most; changed: {named}"
    return [Result("rerun", "ok", told, "", changes._asdict()), estimate(changes.following)]


def _named(stages: Sequence[str]) -> str:
    """``train (3 seeds), gate@42``: seeds together, the first few by name."""
    names: dict[str, list[str]] = {}
    for stage in stages:
        name, _, seed = stage.partition("@")
        names.setdefault(name, []).append(seed)
    each = [
        f"{name} ({len(seeds)} seeds)" if len(seeds) > 1 else f"{name}@{seeds[0]}" if seeds[0] else name
        for name, seeds in names.items()
    ]
    return ", ".join(each[:NAMED]) + (f" and {len(each) - NAMED} more" if len(each) > NAMED else "")


def follow(graph: Mapping[str, Any], status: Mapping[str, Any], seeds: Sequence[int]) -> Changes:
    """The changed stages of ``dvc status --json``, and with them every stage that reads what they write.

    At most these: a stage whose outputs come out as before stops the chain, and the run-cache may have the rest.
    """
    instances = [
        (name, f"{name}@{seed}" if seed is not None else name, seed)
        for name, stage in graph.items()
        for seed in (seeds if "matrix" in stage else [None])
    ]
    changed = [full for _, full, _ in instances if full in status]
    written: list[str] = []
    following = []
    for name, full, seed in instances:  # dvc.yaml stands in the order of the data
        inputs = _paths(graph[name].get("deps"), seed)
        if full in status or any(_touches(path, out) for path in inputs for out in written):
            following.append(full)
            written += [path for kind in ("outs", "metrics", "plots") for path in _paths(graph[name].get(kind), seed)]
    return Changes(changed, following)


def _paths(entries: Iterable[Any] | None, seed: int | None) -> list[str]:
    names = (next(iter(entry)) if isinstance(entry, dict) else entry for entry in entries or ())
    return [str(name).replace("${item.seed}", str(seed)) for name in names]


def _touches(path: str, out: str) -> bool:
    return path == out or path.startswith(f"{out}/") or out.startswith(f"{path}/")


def estimate(stages: Sequence[str]) -> Result:
    """Minutes and money: earlier timings of the stages, else the clock of the parameters."""
    hardware = load(Hardware)
    clock = _clock(hardware)
    taken = {stage: _seconds(stage, clock) for stage in stages}
    unknown = [stage for stage, seconds in taken.items() if seconds is None]
    seconds = sum(filter(None, taken.values()))
    facts = {"seconds": seconds, "dollars": seconds / 3600 * hardware.dollars_per_hour, "unknown": unknown}
    if len(unknown) == len(stages):
        return Result("estimate", "skipped", "no timing of an earlier run here, and no clock: train.steps decides")
    told = f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} seconds"
    if unknown:
        told = f"at least {told}; not known: {_named(unknown)}"
    if hardware.dollars_per_hour:
        told += f"; ${facts['dollars']:.2f} at ${hardware.dollars_per_hour:g} an hour"
    elif uses_gpu(hardware):
        return Result("estimate", "warn", f"{told}; no price", "hardware.dollars_per_hour in params.yaml", facts)
    return Result("estimate", "ok", told, "", facts)


def _clock(hardware: Hardware) -> dict[str, float]:
    """Seconds of the stages that the parameters bound, where the clock decides and not the steps."""
    train = load(Train)
    if train.steps:
        return {}
    ranks, _ = process_count(hardware, divides=train.gpus)
    return {"train": train.seconds * train.gpus / ranks, "evaluate": load(Eval).budget_seconds}


def _seconds(stage: str, clock: Mapping[str, float]) -> float | None:
    """As the clock says of training, as the stage took the last time, or at most what the clock gives it."""
    name, _, seed = stage.partition("@")
    if name == "train" and name in clock:
        return clock[name]
    try:
        found = read_json(timing_path(name, int(seed) if seed else None)).get("seconds")
    except (OSError, ValueError, AttributeError, FairwayError):  # none, or half of one
        found = None
    return float(found) if isinstance(found, (int, float)) else clock.get(name)
