"""Runs of this pipeline, as MLflow keeps them, for the page: an entry a state, a run a seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from golf.stats.baseline import FINEWEB_VAL_BYTES, SAME_TEXT
from pipeline.campaign.tracked import SCORE, TEXT, TOTAL, SeedRun, State
from pipeline.graph_state import SEED_STAGES

if TYPE_CHECKING:
    from pipeline.report.content import Omissions

WHOLE_SPLIT = "FineWeb validation"
CAP = 16_000_000  # bytes; of runs whose gate logged no limit
NAME = 200  # characters of a name that a page can show


def entry(state: State) -> dict[str, Any]:
    """A state of the graph as a line of the leaderboard.

    ``legal``: the audit passed every seed; ``fits``: the largest seed is under the cap; None: not known.
    """
    scores = _numbers(state.seeds, SCORE)
    sizes, audits = _numbers(state.seeds, TOTAL), _numbers(state.seeds, "audit.passed")
    texts = _numbers(state.seeds, TEXT)
    limit = max(_numbers(state.seeds, "gate.limit"), default=CAP)
    known = len(audits) == len(state.seeds) > 0
    return {
        "origin": "own", "id": state.run_id, "name": state.name[:NAME] or state.run_id, "author": "",
        "time": _ended(state), "bpb": fmean(scores) if scores else None,
        "std": stdev(scores) if len(scores) > 1 else None, "seeds": len(scores),
        "bytes": max(sizes, default=None), "legal": all(audits) if known else None,
        "fits": max(sizes) <= limit if sizes else None, "text": text_name(texts[0] if texts else None),
        "note": state.tags.get("mlflow.note.content", ""), "code": state.tags.get("git.commit", "")[:12],
        "sweep": state.tags.get("sweep.name", ""), "experiment": state.tags.get("dvc.exp_name", ""),
    }  # fmt: skip


def text_name(scored_bytes: float | None) -> str:
    """The text that was scored, as far as its size tells: scores of two texts do not compare."""
    if not scored_bytes:
        return "unknown text"
    if abs(scored_bytes - FINEWEB_VAL_BYTES) <= SAME_TEXT * FINEWEB_VAL_BYTES:
        return WHOLE_SPLIT
    return f"text of {scored_bytes:,.0f} bytes"


def runs(states: Sequence[State], left_out: Omissions) -> list[dict[str, Any]]:
    """Every seed of every state: scores, bytes, ms a step, seconds and dollars really spent.

    ``entry`` is its state's place; runs of one ``configuration`` share parameters and code.
    """
    found: list[dict[str, Any]] = []
    configurations: dict[tuple[str, ...], int] = {}
    for place, state in enumerate(states):
        price = _price(state)
        configuration = configurations.setdefault(state.configuration, len(configurations))
        if not state.seeds:
            left_out.add(f"MLflow run {state.name or state.run_id}", "it has no seeds. Try: dvc repro track")
        for seed in state.seeds:
            numbers = {name: _number(seed, name) for name in _METRICS.values()}
            if _number(seed, SCORE) is None:
                left_out.add(f"score of {state.name or state.run_id}, seed {seed.seed}", f"no finite {SCORE} is logged")
            spent = sum(_spent(seed).values())
            pre, post = numbers["quantize.pre_bpb"], numbers["quantize.post_bpb"]
            found.append({
                "entry": place, "seed": seed.seed, "configuration": configuration,
                **{key: numbers[name] for key, name in _METRICS.items()},
                "gap": post - pre if pre is not None and post is not None else None,
                "seconds": spent, "dollars": spent * price / 3600 if price else None,
                "device": seed.device[:NAME] or "unknown", "time": _ran(seed) or _ended(state),
                "restored": len(seed.restored),
            })  # fmt: skip
    return found


_METRICS = {
    "bpb": SCORE, "pre": "quantize.pre_bpb", "post": "quantize.post_bpb", "bytes": TOTAL, "code": "gate.code_bytes",
    "slack": "gate.slack_bytes", "audit": "audit.passed", "bits": "quantize.bits", "ms": "speed.ms_per_step",
    "tokens": "speed.tokens_per_second", "steps": "train.steps",
}  # fmt: skip


def params(states: Sequence[State]) -> dict[str, dict[str, Any]]:
    """The parameters in which the states differ, each as its values and the index of every state's own (null: none)."""
    names = sorted({name for state in states for name in state.params})
    found = {}
    for name in names:
        of = [state.params.get(name) for state in states]
        known = {value: index for index, value in enumerate(dict.fromkeys(of))}
        if len(known) > 1:
            found[name] = {"values": [None if v is None else v[:NAME] for v in known], "of": [known[v] for v in of]}
    return found


def spend(states: Sequence[State]) -> list[dict[str, Any]]:
    """Seconds and dollars by stage and device, those really spent: a restored stage costs none."""
    totals: dict[tuple[str, str], list[float]] = {}
    for state in states:
        price = _price(state)
        for seed in state.seeds:
            for stage, seconds in _spent(seed).items():
                line = totals.setdefault((seed.device[:NAME] or "unknown", stage), [0.0, 0.0, 0])
                line[0] += seconds
                line[1] += seconds * price / 3600
                line[2] += 1
    return [
        {"device": device, "stage": stage, "seconds": round(seconds, 2), "dollars": round(dollars, 4), "runs": count}
        for (device, stage), (seconds, dollars, count) in totals.items()
    ]


def _spent(seed: SeedRun) -> dict[str, float]:
    known = {stage: _number(seed, f"seconds.{stage}") for stage in SEED_STAGES if stage not in seed.restored}
    return {stage: seconds for stage, seconds in known.items() if seconds is not None and seconds > 0}


def _price(state: State) -> float:
    """Dollars an hour of the machine; 0: not known."""
    try:
        price = float(state.params.get("hardware.dollars_per_hour", "0"))
    except ValueError:
        return 0.0
    return price if math.isfinite(price) and price > 0 else 0.0


def _number(seed: SeedRun, name: str) -> float | None:
    value = seed.metrics.get(name)
    return value if value is not None and math.isfinite(value) else None


def _numbers(seeds: Sequence[SeedRun], name: str) -> list[float]:
    return [value for seed in seeds if (value := _number(seed, name)) is not None]


def _ran(seed: SeedRun) -> int | None:
    """Unix milliseconds at which its evaluation began, or else its training."""
    for stage in ("evaluate", "train"):
        try:
            return round(datetime.fromisoformat(seed.ran_at[stage]).timestamp() * 1000)
        except (KeyError, ValueError, OverflowError, OSError):
            continue
    return None


def _ended(state: State) -> int | None:
    return max((time for seed in state.seeds if (time := _ran(seed))), default=None) or state.ended_at or None
