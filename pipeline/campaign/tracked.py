"""The runs that ``track`` has logged to MLflow, read back: a state of the graph and its seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.params.base import load
from golf.params.tracking import Tracking
from golf.runtime.errors import MissingInput
from golf.runtime.place import top_folder
from golf.stats.noise import Observation
from pipeline.campaign import database
from pipeline.campaign.database import LoggedRun
from pipeline.mlflow_store import absolute_uri, database_file, open_store
from pipeline.track import COMPLETE, KEY, PARENT

SCORE, TEXT, TOTAL = "evaluate.bpb", "evaluate.bytes", "gate.total_bytes"
# What does not change a seed's score: where it is logged, what it is tested against, which other seeds ran.
_ASIDE = ("seed", "seeds", "tracking.", "hardware.", "stats.", "audit.")


@dataclass(frozen=True)
class SeedRun:
    """A seed of a state: ``metrics`` as ``track`` names them (``evaluate.bpb``, ``seconds.train``)."""

    seed: int
    metrics: Mapping[str, float]
    device: str
    ran_at: Mapping[str, str]  # stage to the time at which it really ran; a restored stage keeps its old one
    run_id: str = ""
    restored: frozenset[str] = frozenset()  # stages that an earlier state had run


@dataclass(frozen=True)
class State:
    """A whole state of the graph: parameters by dotted name, one run a seed."""

    run_id: str
    name: str
    tags: Mapping[str, str]
    params: Mapping[str, str]
    seeds: tuple[SeedRun, ...]
    ended_at: int = 0  # Unix milliseconds

    @property
    def configuration(self) -> tuple[str, ...]:
        """What two states must share for a difference of their scores to be noise: parameters and code."""
        kept = sorted(f"{key}={value}" for key, value in self.params.items() if not key.startswith(_ASIDE))
        return (self.tags.get("git.commit", ""), *kept)


@dataclass(frozen=True)
class Tracked:
    """What the experiment holds: ``states``, oldest first; names of runs that began and are not whole; how many runs
    ``track`` did not log."""

    states: tuple[State, ...]
    unfinished: tuple[str, ...] = ()
    foreign: int = 0


def read_states(root: Path) -> list[State]:
    """Every whole state in the experiment of params.yaml, oldest first; see :func:`read_tracked`."""
    return list(read_tracked(root).states)


def read_tracked(root: Path) -> Tracked:
    """Everything in the experiment of params.yaml.

    Raises:
        MissingInput: nothing was logged yet.
        FairwayError: MLflow isn't installed or can't be reached.
    """
    tracking = load(Tracking)
    uri = absolute_uri(tracking.uri, top_folder(root))
    file = database_file(uri)
    if file is not None and not file.is_file():
        raise MissingInput(f"tracking.uri: {file}: no such database, needed runs logged by track", hint="dvc repro")
    runs = database.read_runs(file, tracking.experiment) if file else None
    if runs is None:
        runs = _told_by_client(uri, tracking)
    children: dict[str, list[SeedRun]] = {}
    for run in runs:
        parent, seed = run.tags.get(PARENT), run.tags.get("seed", "")
        if parent and seed.lstrip("-").isdigit():
            children.setdefault(parent, []).append(_seed_run(int(seed), run))
    parents = [run for run in runs if run.tags.get(KEY)]
    states = tuple(
        State(run.run_id, run.name, run.tags, run.params,
              tuple(sorted(children.get(run.run_id, []), key=lambda child: child.seed)), run.end)
        for run in sorted(parents, key=lambda run: (run.start, run.run_id)) if run.tags.get(COMPLETE) == "true"
    )  # fmt: skip
    known, whole = {run.run_id for run in parents}, {state.run_id for state in states}
    return Tracked(
        states,
        unfinished=tuple(run.name or run.run_id for run in parents if run.run_id not in whole),
        foreign=sum(run.run_id not in known and run.tags.get(PARENT) not in known for run in runs),
    )


def read_histories(root: Path, run_ids: Sequence[str], key: str) -> dict[str, list[tuple[int, float]]]:
    """The metric ``key`` of each run as (step, value), by step; runs without it are left out.

    Raises:
        FairwayError: MLflow isn't installed or can't be reached.
    """
    uri = absolute_uri(load(Tracking).uri, top_folder(root))
    file = database_file(uri)
    found = database.read_histories(file, run_ids, key) if file else None
    if found is None:
        with open_store(uri) as client:
            points = {run_id: client.get_metric_history(run_id, key) for run_id in run_ids}
        found = {run_id: sorted({one.step: one.value for one in line}.items()) for run_id, line in points.items()}
    return {run_id: line for run_id, line in found.items() if line}


def observations(states: list[State], scored_bytes: int | None = None) -> list[Observation]:
    """Each run that really happened, once: a state with a changed test logs restored seeds again.

    ``scored_bytes``: only runs scored on that much text.
    """
    seen: set[tuple[Any, ...]] = set()
    found = []
    for state in states:
        for run in state.seeds:
            value, text = run.metrics.get(SCORE), run.metrics.get(TEXT)
            if value is None or (scored_bytes is not None and text != scored_bytes):
                continue
            configuration = (*state.configuration, text)
            # a training whose time nobody logged can't be told from itself, and counts once a value
            mark = (configuration, run.seed, run.ran_at.get("train", ""), value)
            if mark not in seen:
                seen.add(mark)
                found.append(Observation(configuration, run.seed, value, run.device))
    return found


def _seed_run(seed: int, run: LoggedRun) -> SeedRun:
    ran = {key.removeprefix("ran_at."): value for key, value in run.tags.items() if key.startswith("ran_at.")}
    restored = frozenset(filter(None, run.tags.get("cached.stages", "").split(", ")))
    return SeedRun(seed, run.metrics, run.tags.get("device", ""), ran, run.run_id, restored)


def _told_by_client(uri: str, tracking: Tracking) -> list[LoggedRun]:
    """The experiment's runs through MLflow."""
    with open_store(uri) as client:
        experiment = client.get_experiment_by_name(tracking.experiment)
        if experiment is None:
            raise MissingInput(
                f"tracking.experiment: MLflow at {tracking.uri} has none named {tracking.experiment!r}",
                hint="dvc repro track",
            )
        found, token = [], None
        while True:
            page = client.search_runs([experiment.experiment_id], max_results=1000, page_token=token)
            found += [
                LoggedRun(run.info.run_id, run.info.run_name or "", run.info.start_time or 0, run.info.end_time or 0,
                          run.data.tags, run.data.params, run.data.metrics)
                for run in page
            ]  # fmt: skip
            token = page.token
            if not token:
                return found
