"""``fairway ablate``: one switch at a time against params.yaml as it is, and what each is worth."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from golf.params.base import load, parse_yaml
from golf.params.stats import Stats
from golf.runtime.errors import ConfigError, FairwayError, MissingInput
from golf.runtime.files import write_json
from golf.stats.noise import NoiseFloor
from pipeline.cache import cache_folder
from pipeline.campaign.compare import judge
from pipeline.campaign.noise import measure
from pipeline.campaign.sides import Side, experiment_revision, kept_experiment, kept_file
from pipeline.campaign.sweep import verb
from pipeline.campaign.sweep.spec import Sweep, from_options

FOLDER = Path("logs/ablate")  # each table, for the lab report


@dataclass(frozen=True)
class Effect:
    """A switch against the base, in bits a byte; below zero, it is better. ``before``: the difference of the means
    before quantisation, on held-out training text. None: not known."""

    switch: str
    run: str
    difference: float | None
    interval: tuple[float, float] | None
    basis: str
    before: float | None
    ms_per_step: float | None
    total_bytes: int | None
    verdict: str


def sweep_of(switches: Sequence[str], name: str, hours: float | None, dollars: float | None) -> Sweep:
    """The base and each switch alone; ``key=v1,v2`` are two switches.

    Raises:
        ConfigError: there is no switch, or one is not ``key=value``.
    """
    if not switches:
        raise ConfigError(
            "ablate: found no switch, needed one or more", hint="fairway ablate -S model.smear_gate=false"
        )
    found = [one for switch in switches for one in _each(switch)]
    limits = {"hours": hours or 0.0, "dollars": dollars or 0.0}
    return Sweep(name, "list", candidates=((), *((one,) for one in dict.fromkeys(found))), **limits)  # type: ignore[arg-type]


def run(sweep: Sweep, *, jobs: int, retry: bool, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run what has not run yet, and the table of what has ended, with the sweep's ledger.

    Raises:
        MissingInput: the base has no score, so that there is nothing to compare with.
    """
    ledger = verb.run(sweep, jobs=jobs, retry=retry, tell=tell)
    root = Path.cwd()
    names = {tuple(row["overrides"]): row["run"] for row in ledger["runs"] if row["bpb"] is not None}
    if () not in names:
        raise MissingInput(f"{sweep.name}: the base has no score: {ledger['stopped']}", hint="fairway ablate --retry")
    floor, told = None, ""
    try:
        floor = measure(root)
    except FairwayError as error:
        told = str(error)
    sides = {key: kept_experiment(name, root) for key, name in names.items()}
    base = sides[()]
    if base is None:
        raise MissingInput(f"{names[()]}: no such experiment any more", hint=f"mv {verb.FOLDER}/{sweep.name}.jsonl old")
    own = details(names[()], root, list(base.scores))
    effects = [
        effect(key[0], side, base, floor, (details(side.name, root, list(side.scores)), own))
        for key, side in sides.items() if key and side is not None
    ]  # fmt: skip
    effects.sort(key=lambda one: one.difference if one.difference is not None else float("inf"))
    found = {"effects": [asdict(one) for one in effects], "no_floor": told, "ledger": ledger}
    write_json(FOLDER / f"{sweep.name}.json", found)
    return found


def effect(
    switch: str, ours: Side, base: Side, floor: NoiseFloor | None,
    found: tuple[dict[str, float], dict[str, float]],
) -> Effect:  # fmt: skip
    """What ``switch`` changes; ``found``: the :func:`details` of both."""
    result = judge(ours, base, floor, load(Stats))
    changed = {key: value - found[1][key] for key, value in found[0].items() if key in found[1]}
    sizes = (ours.total_bytes, base.total_bytes)
    return Effect(
        switch, ours.name, result.difference, result.interval, result.basis,
        changed.get("before"), changed.get("ms_per_step"),
        None if sizes[0] is None or sizes[1] is None else sizes[0] - sizes[1],
        word(result.difference, result.interval, changed.get("before")),
    )  # fmt: skip


def word(difference: float, interval: tuple[float, float] | None, before: float | None) -> str:
    """The verdict: beyond noise only where the whole interval is on one side of zero.

    Harmful after quantisation: worse as it ships, and on average not worse before.
    """
    if interval is None:
        return "no claim: no spread known"
    if interval[0] <= 0.0 <= interval[1]:
        return "within noise"
    if difference < 0:
        return "helps"
    return "harmful after quantisation" if before is not None and before <= 0 else "harmful"


def details(name: str, root: Path, seeds: Sequence[int]) -> dict[str, float]:
    """Means over the seeds of an experiment: bits a byte ``before`` quantisation and ``ms_per_step`` of training.

    The latter is in a timing report, which DVC keeps in its cache by the hash in the experiment's dvc.lock.
    """
    revision = experiment_revision(name, root)
    if revision is None:
        return {}
    lock = parse_yaml((kept_file(root, revision, "dvc.lock") or b"{}").decode())
    before = [_json(kept_file(root, revision, f"reports/quantize/{seed}.json")).get("pre_bpb") for seed in seeds]
    steps = [_json(_cached(root, lock, f"reports/timing/train/{seed}.json")).get("ms_per_step") for seed in seeds]
    found = {}
    for key, values in (("before", before), ("ms_per_step", steps)):
        known = [float(value) for value in values if isinstance(value, (int, float))]
        if known and len(known) == len(values):
            found[key] = sum(known) / len(known)
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The table as text."""
    width = max([len(one["switch"]) for one in found["effects"]], default=6)
    text = [f"{'switch':<{width}} {'bpb':>9} {'interval':>22} {'before':>9} {'ms/step':>8} {'bytes':>9}  verdict"]
    for one in found["effects"]:
        ends = one["interval"]
        interval = "-" if ends is None else f"[{ends[0]:+.5f}, {ends[1]:+.5f}]"
        text.append(
            f"{one['switch']:<{width}} {_signed(one['difference'], '.5f'):>9} {interval:>22} "
            f"{_signed(one['before'], '.5f'):>9} {_signed(one['ms_per_step'], '.2f'):>8} "
            f"{_signed(one['total_bytes'], ','):>9}  {one['verdict']}"
        )
    bases = sorted({one["basis"] for one in found["effects"]})
    text.append(f"differences from params.yaml as it is; intervals from the {', '.join(bases) or 'noise floor'}")
    return [*text, f"no noise floor: {found['no_floor']}"] if found["no_floor"] else text


def _each(switch: str) -> list[str]:
    grid = from_options([switch])
    return [*grid.base, *(f"{key}={value}" for key, values in grid.parameters.items() for value in values)]  # type: ignore[union-attr]


def _signed(value: float | None, form: str) -> str:
    return "-" if value is None else f"{value:+{form}}"


def _cached(root: Path, lock: dict[str, Any], path: str) -> bytes | None:
    """An output that DVC keeps, by the MD5 in ``lock``, a dvc.lock; None if it isn't here."""
    for stage in lock.get("stages", {}).values():
        for out in stage.get("outs", []):
            if out.get("path") == path and out.get("md5"):
                file = cache_folder(root) / "files/md5" / out["md5"][:2] / out["md5"][2:]
                return file.read_bytes() if file.is_file() else None
    return None


def _json(raw: bytes | None) -> dict[str, Any]:
    try:
        found = json.loads(raw or b"{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
