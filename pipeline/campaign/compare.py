"""``fairway compare A B``: what differs, seed by seed, and one sentence that knows the noise floor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.params.base import PARAMS_FILE, load, read_document
from golf.params.stats import Stats
from golf.runtime.errors import ConfigError, DataError, FairwayError
from golf.stats.baseline import SAME_TEXT, Baseline, convert_margin
from golf.stats.noise import (
    Component,
    NoiseFloor,
    difference_interval,
    noise_floor,
    paired_differences,
    pooled_spread,
)
from golf.stats.selection import SelectionTest, selected_test, selection_bias
from golf.stats.significance import TTest, moments, one_sample, welch
from pipeline.campaign.sides import Side, resolve
from pipeline.campaign.tracked import State, observations, read_states

ASIDE = ("seeds", "seed", "tracking.")


@dataclass(frozen=True)
class Result:
    """A against B, in bits a byte; below zero, A is better. ``interval``: of level 1 - 2 alpha; ``basis`` says from
    which spread. ``price``: dollars an hour of the machine, None if not known."""

    ours: Side
    theirs: Side
    differing: dict[str, tuple[str, str]]
    unpaired: TTest | None
    with_margin: TTest | None
    paired: TTest | None
    selection: SelectionTest | None
    difference: float
    interval: tuple[float, float] | None
    basis: str
    alpha: float
    price: float | None
    flags: tuple[str, ...]
    verdict: str


def compare_sides(first: str, second: str, root: Path, best: int | None = None, ran: int | None = None) -> Result:
    """Compare the two; ``best``: only A's so many best seeds, of ``ran`` that were run (by default all it has).

    Raises:
        MissingInput: there is nothing of that name.
        ConfigError: ``best`` and ``ran`` don't fit A's seeds.
    """
    cache: list[list[State]] = []

    def states() -> list[State]:
        if not cache:
            cache.append(read_states(root))
        return cache[0]

    ours, theirs = resolve(first, root, states), resolve(second, root, states)
    floor: NoiseFloor | None = None
    try:
        floor = noise_floor(observations(states(), None if ours.val_bytes is None else round(ours.val_bytes)))
        told = ""
    except FairwayError as error:
        told = str(error).partition(". Try")[0]
    return judge(ours, theirs, floor, load(Stats), best=best, ran=ran, price=_price(), no_floor=told)


def judge(
    ours: Side,
    theirs: Side,
    floor: NoiseFloor | None,
    stats: Stats,
    *,
    best: int | None = None,
    ran: int | None = None,
    price: float | None = None,
    no_floor: str = "",
) -> Result:
    """The comparison of two sides that were read, with the noise floor of runs on A's text, if there is one."""
    flags = [f"{side.name}: its seeds are the best {len(side.scores)} of {side.ran}"
             for side in (ours, theirs) if side.ran]  # fmt: skip
    chosen, selection_of = _chosen(ours, best, ran)
    values, others = list(chosen.values()), list(theirs.scores.values())
    unpaired = _test(lambda: _unpaired(values, others, 0.0), flags)
    gated = None
    if unpaired is not None and theirs.bytes_per_token is not None:
        baseline = Baseline(theirs.name, "bpb", tuple(others), theirs.bytes_per_token, 1, theirs.dataset, "")
        gated = _unpaired(values, others, convert_margin(stats.margin_nats, baseline))
    pairs = paired_differences(dict(chosen), dict(theirs.scores)) if ours.named_seeds and theirs.named_seeds else {}
    paired = _test(lambda: one_sample(list(pairs.values()), 0.0), flags) if len(pairs) > 1 else None
    selection = None
    if selection_of is not None:
        selection = _test(lambda: selected_test(values, selection_of, others), flags)
        bias = selection_bias(len(values), selection_of, floor.run.std if floor else moments(values).std)
        flags.append(
            f"{ours.name}: the best {len(values)} of {selection_of} look {bias:.5f} bpb too good by the choice alone"
        )
    difference = moments(values).mean - moments(others).mean
    interval, basis = _interval(chosen, theirs, pairs, floor, stats.alpha)
    if floor is None and no_floor:
        flags.append(f"no noise floor: {no_floor}")
    verdict = _verdict(ours, theirs, difference, interval, basis, floor, stats.alpha, selection, len(values))
    return Result(
        ours, theirs, differing(ours, theirs), unpaired, gated, paired, selection, difference, interval, basis,
        stats.alpha, price, tuple(dict.fromkeys(flags)), verdict,
    )  # fmt: skip


def differing(ours: Side, theirs: Side) -> dict[str, tuple[str, str]]:
    """Parameters with another value, or that one side lacks ("-"); nothing where one side has none at all."""
    if not ours.params or not theirs.params:
        return {}
    names = [*ours.params, *(name for name in theirs.params if name not in ours.params)]
    pairs = {name: (ours.params.get(name, "-"), theirs.params.get(name, "-")) for name in names}
    return {name: pair for name, pair in sorted(pairs.items()) if pair[0] != pair[1] and not name.startswith(ASIDE)}


def _chosen(ours: Side, best: int | None, ran: int | None) -> tuple[dict[int, float], int | None]:
    """A's seeds that count, and of how many run seeds they are the best; None if all count."""
    total = ran or ours.ran or len(ours.scores)
    if best is None:
        return dict(ours.scores), total if total > len(ours.scores) else None
    if not 1 <= best <= len(ours.scores) <= total:
        raise ConfigError(
            f"--best {best} of {total}: {ours.name} has {len(ours.scores)} seeds, needed best <= known <= run",
            hint="fairway compare A B --best 3 --of 5",
        )
    if total > len(ours.scores) > best:
        raise ConfigError(
            f"--best {best}: {ours.name} has {len(ours.scores)} of {total} seeds; the best {best} may be missing",
            hint=f"--best {len(ours.scores)}",
        )
    kept = sorted(ours.scores, key=lambda seed: ours.scores[seed])[:best]
    return {seed: ours.scores[seed] for seed in kept}, total if total > best else None


def _unpaired(ours: list[float], theirs: list[float], margin: float) -> TTest:
    return one_sample(ours, theirs[0], margin) if len(theirs) == 1 else welch(ours, theirs, margin)


def _test(make: Any, flags: list[str]) -> Any:
    try:
        return make()
    except DataError as error:
        flags.append(str(error))
        return None


def _interval(
    ours: dict[int, float], theirs: Side, pairs: dict[int, float], floor: NoiseFloor | None, alpha: float
) -> tuple[tuple[float, float] | None, str]:
    """The interval of the difference: of the pairs where all seeds are shared and the floor knows their spread."""
    values, others = list(ours.values()), list(theirs.scores.values())
    if floor is not None and floor.paired is not None and len(pairs) == len(ours) == len(theirs.scores):
        difference = math.fsum(pairs.values()) / len(pairs)
        error = floor.paired.std / math.sqrt(len(pairs))
        return difference_interval(difference, error, floor.paired.df, alpha), "noise floor, same seeds"
    spread: Component | None = floor.run if floor is not None else pooled_spread([values, others])
    if spread is None or spread.std == 0.0:
        return None, "no spread known"
    error = spread.std * math.sqrt(1 / len(values) + 1 / len(others))
    difference = moments(values).mean - moments(others).mean
    basis = "noise floor" if floor is not None else "spread of these seeds alone"
    return difference_interval(difference, error, spread.df, alpha), basis


def _verdict(
    ours: Side, theirs: Side, difference: float, interval: tuple[float, float] | None, basis: str,
    floor: NoiseFloor | None, alpha: float, selection: SelectionTest | None, seeds: int,
) -> str:  # fmt: skip
    head = f"{ours.name} against {theirs.name}"
    if other := _other_text(ours, theirs):
        return f"{head}: no claim: {other}"
    if interval is None:
        return f"{head}: {abs(difference):.5f} bpb {'below' if difference < 0 else 'above'}; no claim: {basis}"
    low, high = sorted((abs(interval[0]), abs(interval[1])))
    level = f"{1 - 2 * alpha:.0%} interval from the {basis}"
    if selection is not None and selection.p >= alpha and difference < 0:
        return (f"{head}: within noise: the best {selection.best} of {selection.ran} are {-difference:.5f} bpb lower, "
                f"p = {selection.p:.2g} knowing of the choice ({selection.naive.p:.2g} without)")  # fmt: skip
    if interval[0] <= 0.0 <= interval[1]:
        found = f"{head}: within noise: {difference:+.5f} bpb [{interval[0]:+.5f}, {interval[1]:+.5f}] ({level})"
        limit = floor.detectable(seeds, alpha=alpha) if floor is not None and seeds > 1 else None
        return found if limit is None else f"{found}; {seeds} seeds a side find {limit:.5f} in 80% of cases"
    word = "better" if difference < 0 else "worse"
    found = f"{head}: {word} by {abs(difference):.5f} bpb [{low:.5f}, {high:.5f}] ({level})"
    if selection is None:
        return found
    return (
        f"{found}; these are the best {selection.best} of {selection.ran}: p = {selection.p:.2g} knowing of the choice"
    )


def _other_text(ours: Side, theirs: Side) -> str:
    """Why a score of one side says nothing about one of the other; empty if both are of the same text."""
    if ours.val_bytes is None or theirs.val_bytes is None:
        return "it isn't known how much text one of them was scored on"
    if abs(ours.val_bytes / theirs.val_bytes - 1) > SAME_TEXT:
        return f"other text ({ours.val_bytes:,.0f} bytes against {theirs.val_bytes:,.0f})"
    return ""


def _price() -> float | None:
    """Dollars an hour of params.yaml; None where it has none, or zero."""
    section = read_document(PARAMS_FILE).get("hardware")
    found = section.get("dollars_per_hour") if isinstance(section, dict) else None
    return float(found) if isinstance(found, (int, float)) and found > 0 else None


def as_json(result: Result) -> dict[str, Any]:
    """The result without what can be read from it."""

    def test(found: TTest | None) -> dict[str, Any] | None:
        return None if found is None else {"kind": found.kind, "t": found.t, "df": found.df, "p": found.p}

    def side(found: Side) -> dict[str, Any]:
        return {
            "name": found.name,
            "kind": found.kind,
            "scores": {str(k): v for k, v in found.scores.items()},
            "total_bytes": found.total_bytes,
            "seconds": dict(found.seconds),
            "dollars": _dollars(found, result.price),
        }

    return {
        "a": side(result.ours), "b": side(result.theirs), "differing": result.differing,
        "difference": result.difference, "interval": result.interval, "basis": result.basis,
        "unpaired": test(result.unpaired), "with_margin": test(result.with_margin), "paired": test(result.paired),
        "selection": None if result.selection is None else {
            "best": result.selection.best, "of": result.selection.ran, "naive_p": result.selection.naive.p,
            "p": result.selection.p},
        "flags": list(result.flags), "verdict": result.verdict,
    }  # fmt: skip


def lines(result: Result) -> list[str]:
    """The comparison as text."""
    a, b = result.ours, result.theirs
    found = [f"A  {a.name} ({a.kind})", f"B  {b.name} ({b.kind})", ""]
    found += [f"  {name:<32} {left:>18} {right:>18}" for name, (left, right) in result.differing.items()]
    if not result.differing:
        found.append("  parameters: " + ("the same" if a.params and b.params else "not known of both sides"))
    found += ["", f"  {'seed':<32} {'A bpb':>18} {'B bpb':>18}"]
    for seed in dict.fromkeys([*a.scores, *b.scores]):
        found.append(f"  {seed if a.named_seeds and b.named_seeds else '-':<32} {_cell(a.scores.get(seed), '.6f')} "
                     f"{_cell(b.scores.get(seed), '.6f')}")  # fmt: skip
    found.append(f"  {'mean':<32} {_cell(moments(list(a.scores.values())).mean, '.6f')} "
                 f"{_cell(moments(list(b.scores.values())).mean, '.6f')}")  # fmt: skip
    found.append(f"  {'bytes, largest seed':<32} {_cell(a.total_bytes, ',')} {_cell(b.total_bytes, ',')}")
    for stage in dict.fromkeys([*a.seconds, *b.seconds]):
        found.append(
            f"  {stage + ' seconds':<32} {_cell(a.seconds.get(stage), ',.1f')} {_cell(b.seconds.get(stage), ',.1f')}"
        )
    if result.price is not None:
        money = [_dollars(side, result.price) for side in (a, b)]
        found.append(
            f"  {f'dollars at {result.price:g} an hour':<32} {_cell(money[0], ',.2f')} {_cell(money[1], ',.2f')}"
        )
    found.append("")
    for name, test in (("unpaired", result.unpaired), ("with margin", result.with_margin), ("paired", result.paired)):
        if test is not None:
            found.append(
                f"  {name:<12} {test.kind:<10} t = {test.t:.3f}, df = {test.df:.2f}, one-sided p = {test.p:.3g}"
            )
    if (chosen := result.selection) is not None:
        found.append(f"  best {chosen.best} of {chosen.ran}: naive p = {chosen.naive.p:.3g}, "
                     f"knowing of the choice p = {chosen.p:.3g} ± {chosen.standard_error:.1g}")  # fmt: skip
    found += [f"  note: {flag}" for flag in result.flags]
    return [*found, "", result.verdict]


def _cell(value: float | None, form: str) -> str:
    return f"{'-' if value is None else format(value, form):>18}"


def _dollars(side: Side, price: float | None) -> float | None:
    return None if price is None or side.all_seconds is None else price * side.all_seconds / 3600
