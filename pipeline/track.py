"""Upsert the state of the graph into MLflow: one parent run a state, one child a seed.

Reads reports/ (with curves and timings) and build/submission/; writes reports/track.json. The parent is found
again by the key of the state (pipeline/graph_state.py), so running this twice changes nothing, and what an
interrupted run left half-logged is replaced.

    python -m pipeline.track
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from golf.params.base import load, load_seeds
from golf.params.tracking import Tracking
from golf.runtime.errors import Exit, FairwayError, run_main
from golf.runtime.files import write_json
from golf.runtime.place import top_folder
from pipeline.graph_state import GraphState, SeedState, lock_hashes, read_state
from pipeline.load import during
from pipeline.mlflow_store import absolute_uri, database_file, open_store
from pipeline.untracked import FOLDER, keep, kept

KEY, COMPLETE, PARENT = "fairway.key", "fairway.complete", "mlflow.parentRunId"
BATCH = 1000  # metrics a request, MLflow's limit; parameters and tags: 100
SMALL_BATCH = 100
TEXT = 5000  # characters of a parameter or tag, below MLflow's limits


def main() -> None:
    """Log the current state; see the module's docstring."""
    argparse.ArgumentParser(
        prog="python -m pipeline.track", description="Log the graph's state to MLflow."
    ).parse_args()
    tracking = load(Tracking)
    root = Path.cwd()
    state = read_state(root, load_seeds())
    top, tags = top_folder(root), describe(root, state)
    uri = absolute_uri(tracking.uri, top)
    try:
        with open_store(uri) as client:
            experiment = experiment_id(client, tracking.experiment, uri)
            new = upsert(client, experiment, state, tags)
        what = f"{1 + len(state.seeds)} runs" if new else "nothing new"
        _say(f"{what} in {tracking.experiment!r}: {state.verdict}")
        tell_kept(top, uri, tracking.experiment)
    except FairwayError as error:
        if "dvc.exp_name" not in tags or error.code != Exit.RETRY:
            raise
        _say(f"NOT TRACKED: {error}; kept in {keep(root, top, state, tags)} for the next track that reaches it")
    report = {"key": state.key, "experiment": tracking.experiment, "runs": 1 + len(state.seeds)}
    write_json(root / "reports" / "track.json", report)


def tell_kept(top: Path, uri: str, experiment: str) -> None:
    """Log the states that wait; one that is refused is named and goes on waiting, and so do those behind it."""
    if not any((top / FOLDER).glob("*")):
        return
    try:
        with open_store(uri) as client:
            number = experiment_id(client, experiment, uri)
            for state, tags in kept(top, _say):
                upsert(client, number, state, tags)
                _say(f"told of {tags.get('dvc.exp_name', state.key[:8])}, which waited")
    except FairwayError as error:
        _say(f"NOT TRACKED: {error}; the states in {FOLDER} wait for the next track")


def _say(line: str) -> None:
    print(f"track: {line}", flush=True)


def upsert(client: Any, experiment: str, state: GraphState, tags: Mapping[str, str]) -> bool:
    """Log ``state`` into the experiment of that id unless it stands there whole; True if anything was written."""
    for found in _search(client, experiment, {KEY: state.key}):
        family = _search(client, experiment, {PARENT: found.info.run_id})
        finished = all(run.info.status == "FINISHED" for run in [found, *family])
        if finished and found.data.tags.get(COMPLETE) == "true" and len(family) == len(state.seeds):
            return False
        for run in [*family, found]:  # what an interrupted run left
            client.delete_run(run.info.run_id)
    reused = {seed.seed: _reused(client, experiment, seed) for seed in state.seeds}
    begun = [t for seed in state.seeds for stage, t in seed.started_at.items() if stage not in reused[seed.seed]]
    span = (min(begun, default=state.span[1]), state.span[1])
    name = title(state, _latest(client, experiment), tags.get("dvc.exp_name", ""))
    note = {"mlflow.note.content": state.verdict, "comparable": str(state.comparable).lower(), KEY: state.key}
    parent = _start(client, experiment, name, {**tags, **note}, span[0])
    _log(client, parent, state.params, state.metrics, {}, span)
    for path in state.files:
        client.log_artifact(parent, str(path))
    for seed in state.seeds:
        _child(
            client, experiment, parent, state, seed, tags, reused[seed.seed], during(Path.cwd(), seed.seed, seed.spans)
        )
    client.set_tag(parent, COMPLETE, "true")
    client.set_terminated(parent, "FINISHED", end_time=_milliseconds(state.span[1]))
    return True


def title(state: GraphState, before: Mapping[str, str], experiment: str = "") -> str:
    """A run's name: its score, and what it is: the parameters that differ from those ``before``, up to two of them.

    Else the DVC experiment, or the beginning of the key.
    """
    score = state.metrics.get("aggregate.bpb_mean")
    changed = [f"{key}={value}" for key, value in state.params.items() if before and before.get(key) != value]
    what = " ".join(changed) if 0 < len(changed) <= 2 else experiment or state.key[:8]
    return what if score is None else f"{what} · {score:.4f} bpb"


def _latest(client: Any, experiment: str) -> Mapping[str, str]:
    """The parameters of the newest whole state; none of the first."""
    found = _search(client, experiment, {COMPLETE: "true"})
    return max(found, key=lambda run: run.info.start_time).data.params if found else {}


def describe(root: Path, state: GraphState) -> dict[str, str]:
    """Tags of the state: the code, the experiment, the lock, the device. The first log of a state keeps them."""
    hashes = lock_hashes(root, [seed.seed for seed in state.seeds])
    tags = {f"dvc.stage.{name.replace('@', '.')}": value for name, value in hashes.items()}
    if hashes:
        tags["dvc.lock.sha256"] = hashlib.sha256("\n".join(hashes.values()).encode()).hexdigest()
    tags["device"] = ", ".join(sorted({seed.device for seed in state.seeds}))
    # DVC tells a stage which experiment it runs in by these two, and by nothing else.
    for tag, variable in (("dvc.exp_name", "DVC_EXP_NAME"), ("dvc.baseline_rev", "DVC_EXP_BASELINE_REV")):
        if value := os.environ.get(variable):
            tags[tag] = value
    commit = _git(root, "rev-parse", "HEAD")
    if commit:
        # reports and dvc.lock change in every run: dirty means that code or parameters differ from the commit
        changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":!reports", ":!dvc.lock")
        tags |= {"git.commit": commit, "git.dirty": str(bool(changed)).lower()}
    return tags


def experiment_id(client: Any, name: str, uri: str) -> str:
    """The experiment's id; it is made if need be.

    Raises:
        FairwayError: it was deleted in MLflow.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        file = database_file(uri)
        place = None if file is None else (file.parent / "mlartifacts" / name).as_uri()
        return client.create_experiment(name, artifact_location=place)
    if found.lifecycle_stage != "active":
        raise FairwayError(
            f"tracking.experiment: {name!r} was deleted in MLflow",
            hint=f"mlflow experiments restore --experiment-id {found.experiment_id}",
        )
    return found.experiment_id


def _child(
    client: Any,
    experiment: str,
    parent: str,
    state: GraphState,
    seed: SeedState,
    tags: Mapping[str, str],
    reused: list[str],
    load_during: Sequence[Mapping[str, Any]] = (),
) -> None:
    own = {key: value for key, value in tags.items() if not key.startswith("dvc.stage.")}
    ends = f".{seed.seed}"
    own |= {key.removesuffix(ends): value for key, value in tags.items() if key.endswith(ends)}
    own |= {f"ran_at.{stage}": _iso(time) for stage, time in seed.started_at.items()}
    own |= {PARENT: parent, "seed": str(seed.seed), "device": seed.device}
    own |= {"cached": str("train" in reused).lower(), "cached.stages": ", ".join(reused)}
    starts = seed.started_at.values()
    span = (min(starts, default=state.span[0]), state.span[1])
    run = _start(client, experiment, f"seed {seed.seed}", own, span[0])
    _log(client, run, {**state.params, "seed": str(seed.seed)}, seed.metrics, seed.curves, span)
    _log_load(client, run, load_during)
    for path in seed.files:
        client.log_artifact(run, str(path), path.parent.name)
    client.set_terminated(run, "FINISHED", end_time=_milliseconds(span[1]))


def _reused(client: Any, experiment: str, seed: SeedState) -> list[str]:
    """Stages of ``seed`` that an earlier state already logged with the same start: restored, not run again."""
    earlier = _search(client, experiment, {"seed": str(seed.seed)})
    times = {stage: _iso(time) for stage, time in seed.started_at.items()}
    return [
        stage for stage, time in times.items() if any(run.data.tags.get(f"ran_at.{stage}") == time for run in earlier)
    ]


def _start(client: Any, experiment: str, name: str, tags: Mapping[str, str], start: float) -> str:
    texts = [(key, value[:TEXT]) for key, value in tags.items() if value]
    run = client.create_run(experiment, start_time=_milliseconds(start), tags=dict(texts), run_name=name)
    return run.info.run_id


def _log(
    client: Any,
    run: str,
    params: Mapping[str, str],
    metrics: Mapping[str, float],
    curves: Mapping[str, list[tuple[int, float]]],
    span: tuple[float, float],
) -> None:
    """Parameters, single numbers at step 0 and curves at their steps, in as few requests as MLflow allows."""
    from mlflow.entities import Metric, Param

    for batch in _batches((Param(key, value[:TEXT]) for key, value in params.items()), SMALL_BATCH):
        client.log_batch(run, params=batch)
    start, end = _milliseconds(span[0]), _milliseconds(span[1])
    points = [Metric(key, value, end, 0) for key, value in metrics.items()]
    for name, curve in curves.items():
        points += [Metric(f"curve.{name}", value, start, step) for step, value in curve]
    for batch in _batches(points, BATCH):
        client.log_batch(run, metrics=batch)


def _log_load(client: Any, run: str, lines: Sequence[Mapping[str, Any]]) -> None:
    """What the machine did, as MLflow logs it: its page draws what begins with ``system/``."""
    from mlflow.entities import Metric

    points = [
        Metric(f"system/{key}", value, _milliseconds(line["time"]), step)
        for step, line in enumerate(lines)
        for key, value in line.items()
        if key not in ("time", "stages")
    ]
    for batch in _batches(points, BATCH):
        client.log_batch(run, metrics=batch)


def _search(client: Any, experiment: str, tags: Mapping[str, str]) -> list[Any]:
    """All active runs of the experiment with these tags, however many pages they fill."""
    wanted = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
    found, token = [], None
    while True:
        page = client.search_runs([experiment], filter_string=wanted, page_token=token)
        found += list(page)
        token = page.token
        if not token:
            return found


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _iso(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


if __name__ == "__main__":
    run_main("track", main)
