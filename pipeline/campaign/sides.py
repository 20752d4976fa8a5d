"""The two sides of a comparison, wherever they are kept.

A name is, in this order: a records folder of the public challenge, a working tree of this pipeline, a baseline file or
the name of one in golf/stats/baselines; a run that MLflow knows (its id, name or key, or its DVC experiment); a DVC
experiment or Git revision that holds reports/.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import golf.stats.baseline
from golf.runtime.errors import DataError, FairwayError, MissingInput
from golf.stats.baseline import load_baseline
from pipeline.campaign.tracked import SCORE, TEXT, TOTAL, State, read_states
from pipeline.graph_state import SEED_STAGES, flatten

BASELINES = Path(golf.stats.baseline.__file__).parent / "baselines"
SHORTEST = 6  # characters of an id or key that name a run


@dataclass(frozen=True)
class Side:
    """One side. ``scores``: bits a byte by seed; ``total_bytes``: of the largest seed; ``seconds``: by stage, the mean
    over seeds; ``all_seconds``: of all stages and seeds; ``ran``: seeds run in truth, where more than are scored.
    """

    name: str
    kind: str
    scores: Mapping[int, float]
    val_bytes: float | None
    bytes_per_token: float | None
    params: Mapping[str, str] = field(default_factory=dict)
    total_bytes: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    all_seconds: float | None = None
    ran: int | None = None
    named_seeds: bool = True  # False: the seeds' numbers are unknown, and the keys of ``scores`` only count
    dataset: str = ""


def resolve(name: str, root: Path, states: Callable[[], list[State]] | None = None) -> Side:
    """The side of that name; ``states`` gives what MLflow knows, by default read when needed.

    Raises:
        MissingInput: nothing has this name.
        DataError: what has it can't be read.
    """
    path = Path(name)
    if path.is_dir():
        return _tree(name, lambda part: _bytes(path / part)) if (path / "reports").is_dir() else _record(path)
    if path.is_file() or (BASELINES / f"{name}.json").is_file():
        return _baseline(path if path.is_file() else BASELINES / f"{name}.json")
    told = "MLflow has none"
    try:
        found = _tracked(name, (states or (lambda: read_states(root)))())
    except FairwayError as error:
        found, told = None, f"MLflow: {error}"
    if found is not None:
        return found
    revision = _revision(name, root)
    if revision is None:
        raise MissingInput(
            f"{name}: no records folder, baseline, DVC experiment or Git revision of this name ({told})",
            hint="dvc exp list --all-commits",
        )
    return _tree(name, lambda part: kept_file(root, revision, part))


def kept_experiment(name: str, root: Path) -> Side | None:
    """The DVC experiment of that name, MLflow not asked; None if there is none.

    Raises:
        DataError: it holds no score.
    """
    revision = experiment_revision(name, root)
    return None if revision is None else _tree(name, lambda part: kept_file(root, revision, part))


def kept_file(root: Path, revision: str, path: str) -> bytes | None:
    """A file as Git has it in that revision; None if it has none there."""
    return _git(root, "show", f"{revision}:{path}")


def _record(path: Path) -> Side:
    from pipeline.campaign.published.findings import scored_text
    from pipeline.campaign.published.folder import read_folder

    entry = read_folder(path.resolve(), path.resolve().parent)
    texts = [scored_text(seed.score, seed.log) for seed in entry.seeds if seed.score and seed.log]
    text = next((text for text in texts if text is not None), None)
    seeds = [seed.seed for seed in entry.seeds if seed.seed is not None]
    named = 0 < len(set(seeds)) == len(entry.seeds)
    names = seeds if named else list(range(len(entry.values)))
    seconds = {}
    for stage in ("train", "evaluate"):
        found = [s for seed in entry.seeds if (s := seed.train_seconds if stage == "train" else seed.eval_seconds)]
        if found:
            seconds[stage] = sum(s.value for s in found) / len(found)
    size = entry.sizes.logged or entry.sizes.stated
    return Side(
        path.resolve().name, "published record", dict(zip(names, entry.values, strict=True)),
        text.bytes.value if text else None, text.bytes_per_token if text else None,
        params=entry.seeds[0].log.params if entry.seeds and entry.seeds[0].log else {},
        total_bytes=int(size.value) if size else None, seconds=seconds,
        ran=len(entry.ran) if len(entry.ran) > len(entry.seeds) else None, named_seeds=named, dataset="fineweb-val",
    )  # fmt: skip


def _baseline(path: Path) -> Side:
    found = load_baseline(path)
    return Side(found.name, "baseline", dict(enumerate(found.bpb)), found.val_bytes, found.bytes_per_token,
                named_seeds=False, dataset=found.dataset)  # fmt: skip


def _tracked(name: str, states: list[State]) -> Side | None:
    def named(state: State) -> bool:
        ids = (state.run_id, state.tags.get("fairway.key", ""))
        exact = name in (state.name, state.tags.get("dvc.exp_name"), *ids)
        return exact or (len(name) >= SHORTEST and any(value.startswith(name) for value in ids))

    found = [state for state in states if named(state) and state.seeds]
    if not found:
        return None
    state = found[-1]  # the newest of that name
    scores = {run.seed: run.metrics[SCORE] for run in state.seeds if SCORE in run.metrics}
    if not scores:
        raise DataError(f"{name}: its MLflow run has no {SCORE}", hint="dvc repro track")
    first = state.seeds[0].metrics
    seconds = [{key.removeprefix("seconds."): value for key, value in run.metrics.items() if key.startswith("seconds.")}
               for run in state.seeds]  # fmt: skip
    tokens = first.get("evaluate.tokens")
    return Side(
        state.name or state.run_id, "MLflow run", scores, first.get(TEXT),
        first[TEXT] / tokens if tokens and TEXT in first else None, params=state.params,
        total_bytes=max((int(run.metrics[TOTAL]) for run in state.seeds if TOTAL in run.metrics), default=None),
        seconds=_means(seconds), all_seconds=sum(sum(one.values()) for one in seconds) or None,
    )  # fmt: skip


def _tree(name: str, read: Callable[[str], bytes | None]) -> Side:
    """A working tree or a revision of one, from its reports."""
    import yaml

    raw = read("params.yaml")
    try:
        params = yaml.safe_load(raw) if raw is not None else None
    except yaml.YAMLError as error:
        raise DataError(f"{name}: params.yaml: not YAML: {' '.join(str(error).split())}") from None
    seeds = params.get("seeds") if isinstance(params, dict) else None
    if not isinstance(params, dict) or not isinstance(seeds, list) or not seeds:
        raise DataError(f"{name}: params.yaml: found no seeds, needed a revision of this pipeline", hint="dvc repro")
    reports = {seed: {stage: _report(name, f"reports/{stage}/{seed}.json", read) for stage in ("evaluate", "gate")}
               for seed in seeds}  # fmt: skip
    timings = [{stage: float(s) for stage in SEED_STAGES if isinstance(
        s := _report(name, f"reports/timing/{stage}/{seed}.json", read).get("seconds"), (int, float))}
        for seed in seeds]  # fmt: skip
    scores = {int(seed): float(report["evaluate"]["bpb"]) for seed, report in reports.items()
              if isinstance(report["evaluate"].get("bpb"), (int, float))}  # fmt: skip
    if not scores:
        raise DataError(f"{name}: reports/evaluate: no score of the seeds {seeds}", hint="dvc repro")
    first = next(report["evaluate"] for report in reports.values() if report["evaluate"])
    text, tokens = first.get("bytes"), first.get("tokens")
    return Side(
        name, "DVC", scores, text, text / tokens if text and tokens else None,
        params={key: str(value) for key, value in flatten(params)},
        total_bytes=max((int(r["gate"]["total_bytes"]) for r in reports.values() if "total_bytes" in r["gate"]),
                        default=None),
        seconds=_means(timings), all_seconds=sum(sum(one.values()) for one in timings) or None,
    )  # fmt: skip


def _report(name: str, part: str, read: Callable[[str], bytes | None]) -> dict[str, Any]:
    raw = read(part)
    if raw is None:
        return {}
    try:
        content = json.loads(raw)
    except ValueError as error:
        raise DataError(f"{name}: {part}: not JSON: {error}", hint="dvc repro") from None
    return content if isinstance(content, dict) else {}


def experiment_revision(name: str, root: Path) -> str | None:
    """The commit of a DVC experiment of that name, the newest if several bases have one."""
    listed = (
        _git(root, "for-each-ref", "--sort=-committerdate", "--format=%(objectname) %(refname)", "refs/exps") or b""
    )
    for line in listed.decode().splitlines():
        commit, _, ref = line.partition(" ")
        if ref.rpartition("/")[2] == name:
            return commit
    return None


def _revision(name: str, root: Path) -> str | None:
    """The commit of a DVC experiment of that name or of a Git revision."""
    if commit := experiment_revision(name, root):
        return commit
    found = _git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}")
    return found.decode().strip() if found else None


def _git(root: Path, *arguments: str) -> bytes | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _bytes(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _means(rows: list[dict[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: sum(row.get(name, 0.0) for row in rows) / sum(name in row for row in rows) for name in names}
