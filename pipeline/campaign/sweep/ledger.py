"""What a sweep cost and found: a table, JSON, and tags on its runs in MLflow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from golf.params.base import load
from golf.params.tracking import Tracking
from golf.runtime.errors import FairwayError
from golf.runtime.place import top_folder
from pipeline.campaign.sweep.candidates import Candidate
from pipeline.campaign.sweep.journal import Outcome, State
from pipeline.campaign.sweep.plan import Plan, Stop
from pipeline.mlflow_store import absolute_uri, database_file, open_store
from pipeline.track import COMPLETE, TEXT

TAGS = "sweep."


def content(plan: Plan, state: State, stop: Stop) -> dict[str, Any]:
    """Everything that is printed, as JSON. Seconds are this sweep's own; restored stages cost none.

    ``dollars``: price times the sessions' hours, None without a price. What no run that ended accounts for (runs that
    were interrupted, slots without work) is ``rest``.
    """
    stages: dict[str, float] = {}
    for outcome in state.outcomes.values():
        for stage, seconds in outcome.stages.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
        stages["other"] = stages.get("other", 0.0) + outcome.seconds - sum(outcome.stages.values())
    priced = any(session.price for session in state.sessions)
    runs = sum(outcome.dollars or 0.0 for outcome in state.outcomes.values())
    entered = [one for rung in range(len(plan.rungs)) for one in plan.entrants(rung, state)]
    return {
        "sweep": plan.sweep.name, "stopped": stop.reason, "complete": stop.complete,
        "seconds": state.seconds, "dollars": state.dollars if priced else None,
        "rest_dollars": max(0.0, state.dollars - runs) if priced else None,
        "stages": {stage: seconds for stage, seconds in stages.items() if seconds > 0},
        "not_run": sum(one.name not in state.outcomes for one in entered),
        "runs": [_row(one, state.outcomes[one.name]) for one in ranked(plan, state)],
    }  # fmt: skip


def ranked(plan: Plan, state: State) -> list[Candidate]:
    """Every run that ended: the last rung first, the best first, failed ones at the end of their rung."""
    ended = [one for rung in plan.rungs for one in rung if one.name in state.outcomes]
    return sorted(ended, key=lambda one: (-one.rung, state.outcomes[one.name].mean, one.index))


def _row(candidate: Candidate, outcome: Outcome) -> dict[str, Any]:
    return {
        "run": candidate.name, "overrides": list(candidate.overrides), "rung": candidate.rung + 1,
        "bpb": outcome.mean if outcome.done else None,
        "scores": {str(seed): value for seed, value in outcome.scores.items()},
        "total_bytes": outcome.total_bytes, "seconds": outcome.seconds, "dollars": outcome.dollars,
        "stages": dict(outcome.stages), "kept_from_before": outcome.found,
        "failed": None if outcome.done else outcome.why,
    }  # fmt: skip


def lines(found: dict[str, Any]) -> list[str]:
    """The table and the ledger as text."""
    width = max([len(row["run"]) for row in found["runs"]], default=3)
    text = [f"{'run':<{width}} {'rung':>4} {'bpb':>9} {'seeds':>5} {'bytes':>11} {'seconds':>8} {'$':>7}  overrides"]
    for row in found["runs"]:
        bpb = "failed" if row["bpb"] is None else f"{row['bpb']:.5f}"
        size = "-" if row["total_bytes"] is None else f"{row['total_bytes']:,}"
        text.append(
            f"{row['run']:<{width}} {row['rung']:>4} {bpb:>9} {len(row['scores']):>5} {size:>11} "
            f"{row['seconds']:>8.0f} {_money(row['dollars']):>7}  {' '.join(row['overrides'])}"
        )
    text += ["", "seconds by stage: " + (", ".join(f"{k} {v:.0f}" for k, v in found["stages"].items()) or "none")]
    hours = f"{found['seconds'] / 3600:.2f} hours"
    if found["dollars"] is None:
        text.append(f"{hours}; dollars: not known (hardware.dollars_per_hour is 0)")
    else:
        rest = f"{found['rest_dollars']:.2f} of them not in a run that ended"
        text.append(f"{hours}, {found['dollars']:.2f} dollars, {rest}")
    left = f"; {found['not_run']} runs not begun or not ended" if found["not_run"] else ""
    return [*text, f"{found['sweep']}: stopped: {found['stopped']}{left}"]


def log_tags(plan: Plan, state: State, root: Path) -> str:
    """Tag what ``track`` logged of the sweep's runs with its name, overrides, seconds and dollars; say how many.

    The same tags again change nothing. MLflow that is down costs nothing but the tags: the next call sets them.
    """
    tracking = load(Tracking)
    wanted = {one.name: one for one in ranked(plan, state) if state.outcomes[one.name].done}
    if not wanted:
        return "MLflow: no run to tag"
    try:
        uri = absolute_uri(tracking.uri, top_folder(root))
        file = database_file(uri)
        if file is not None and not file.is_file():
            return f"MLflow: no tags set: {file.name}: no such database"
        with open_store(uri) as client:
            experiment = client.get_experiment_by_name(tracking.experiment)
            tagged = 0
            for name, candidate in wanted.items() if experiment else ():
                query = f"tags.`dvc.exp_name` = '{name}' and tags.`{COMPLETE}` = 'true'"  # its seeds have no price
                for run in client.search_runs([experiment.experiment_id], filter_string=query):
                    tags = _tags(plan.sweep.name, candidate, state.outcomes[name])
                    for key, value in tags.items():
                        if run.data.tags.get(key) != value:
                            client.set_tag(run.info.run_id, key, value)
                    tagged += 1
    except FairwayError as error:
        return f"MLflow: no tags set: {error}"
    return f"MLflow: {tagged} runs carry tags.`{TAGS}name` = '{plan.sweep.name}'"


def _tags(sweep: str, candidate: Candidate, outcome: Outcome) -> dict[str, str]:
    tags = {"name": sweep, "rung": str(candidate.rung + 1), "overrides": " ".join(candidate.overrides)[:TEXT]}
    tags["seconds"] = f"{outcome.seconds:.1f}"
    if outcome.dollars is not None:
        tags["dollars"] = f"{outcome.dollars:.4f}"
    tags |= {f"seconds.{stage}": f"{seconds:.1f}" for stage, seconds in outcome.stages.items()}
    return {TAGS + key: value for key, value in tags.items()}


def _money(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
