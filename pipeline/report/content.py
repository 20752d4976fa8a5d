"""What the page shows, as one JSON object, and what had to be left out of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from golf.params.base import load, load_seeds
from golf.params.stats import Stats
from golf.params.tracking import Tracking
from golf.runtime.errors import FairwayError
from golf.stats.noise import noise_floor
from golf.stats.verdict import POWER
from pipeline.campaign.tracked import State, Tracked, observations, read_histories, read_tracked
from pipeline.report import files, own, published

CURVES, CURVE_POINTS = 300, 80  # runs whose loss curve is shown, and points of each
Columns = dict[str, Any]


@dataclass
class Omissions:
    """What could not be shown, each with its reason: on the page, and on the terminal."""

    found: list[dict[str, str]] = field(default_factory=list)

    def add(self, what: str, why: object) -> None:
        """Leave ``what`` out, because of ``why``."""
        self.found.append({"what": what, "why": " ".join(str(why).split())[:400]})


def gather(root: Path, records: Path | None, created: str) -> dict[str, Any]:
    """Read every source under ``root``; ``records``: a checkout of the challenge, or the JSON of ``fairway records``;
    ``created``: the time to print.

    Raises:
        ConfigError: params.yaml is wrong.
        MissingInput, DataError: ``records`` was named and can't be read.
    """
    left_out = Omissions()
    tracking = load(Tracking)
    tracked = _tracked(root, left_out)
    board = published.read(root, records, left_out)
    entries = [*map(own.entry, tracked.states), *published.entries(board, left_out)]
    runs = own.runs(tracked.states, left_out)
    ledgers = files.ledgers(root, left_out)
    return {
        "created": created, "experiment": tracking.experiment, "root": root.resolve().name,
        "entries": columns(entries), "runs": columns(runs), "params": own.params(tracked.states),
        "curves": _curves(root, tracked.states, runs, left_out),
        "spend": own.spend(tracked.states), "priced": any(run["dollars"] is not None for run in runs),
        "noise": _noise(tracked.states, left_out),
        "effects": files.effects(root, left_out), "ledgers": ledgers, "machines": files.machines(root, left_out),
        "streams": files.streams(root, load_seeds(), left_out), "log": files.findings_log(root, left_out),
        "left_out": left_out.found,
    }  # fmt: skip


def columns(rows: Sequence[Mapping[str, Any]]) -> Columns:
    """The rows as columns: numbers as they are, texts as ``{"values": [...], "of": [index, ...]}``."""
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: _column([row.get(name) for row in rows]) for name in names}


def _column(values: list[Any]) -> Any:
    if not any(isinstance(value, str) for value in values):
        return [finite(value) for value in values]
    known = {value: index for index, value in enumerate(dict.fromkeys(values))}
    return {"values": list(known), "of": [known[value] for value in values]}


def finite(value: Any) -> Any:
    """``value``, or None where it is no number that JSON has; to nine significant digits."""
    if isinstance(value, float):
        return float(f"{value:.9g}") if math.isfinite(value) else None
    return value


def thin(points: Sequence[tuple[int, float]], most: int) -> list[tuple[int, float]]:
    """At most ``most`` points, the first and the last among them, evenly by their place; non-finite ones left out."""
    kept = [(step, value) for step, value in points if math.isfinite(value)]
    if len(kept) <= most:
        return kept
    return [kept[round(i * (len(kept) - 1) / (most - 1))] for i in range(most)]


def _tracked(root: Path, left_out: Omissions) -> Tracked:
    try:
        found = read_tracked(root)
    except FairwayError as error:
        left_out.add("runs of MLflow", error)
        return Tracked(())
    for name in found.unfinished:
        left_out.add(f"MLflow run {name}", "not whole: track was interrupted. Try: dvc repro track")
    if found.foreign:
        left_out.add(f"{found.foreign} MLflow runs", "not logged by track: nothing tells their seeds and stages")
    return found


def _curves(
    root: Path, states: Iterable[State], runs: Sequence[Mapping[str, Any]], left_out: Omissions
) -> list[dict[str, Any]]:
    """Training loss of the best and the newest runs, by the run's place in ``runs``."""
    places = {seed.run_id: place for place, seed in enumerate(seed for state in states for seed in state.seeds)}
    scored = [run_id for run_id, place in places.items() if runs[place]["bpb"] is not None]
    best = sorted(scored, key=lambda run_id: runs[places[run_id]]["bpb"])[: CURVES // 2]
    newest = sorted(places, key=lambda run_id: -(runs[places[run_id]]["time"] or 0))
    wanted = [*dict.fromkeys([*best, *newest])][:CURVES]
    if not wanted:
        return []
    try:
        found = read_histories(root, wanted, "curve.loss")
    except FairwayError as error:
        left_out.add("loss curves", error)
        return []
    thinned = {run_id: thin(points, CURVE_POINTS) for run_id, points in found.items()}
    return [
        {"run": places[run_id], "step": [step for step, _ in points], "loss": [finite(loss) for _, loss in points]}
        for run_id, points in thinned.items() if points
    ]  # fmt: skip


def _noise(states: Sequence[State], left_out: Omissions) -> dict[str, Any] | None:
    """Spread of a seed and what three seeds a side find, in bits a byte; None where nothing was run twice."""
    if not states:
        return None
    try:
        floor = noise_floor(observations(list(states)))
    except FairwayError as error:
        left_out.add("noise floor", error)
        return None
    alpha = load(Stats).alpha
    gain = floor.detectable(3, alpha=alpha, power=max(POWER, (1 + alpha) / 2))
    return {"std": finite(floor.run.std), "runs": floor.runs, "detectable": finite(gain), "alpha": alpha}
