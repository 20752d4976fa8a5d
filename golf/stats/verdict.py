"""The seeds of a run against a baseline: both tests, what could have been seen, and one honest sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from golf.runtime.errors import DataError
from golf.stats.baseline import Baseline, convert_margin, text_relation
from golf.stats.power import minimum_detectable_difference
from golf.stats.significance import Moments, TTest, moments, one_sample, welch

POWER = 0.8  # probability with which the detectable difference is found


@dataclass(frozen=True)
class Comparison:
    """Everything in bits a byte. Tests are None where there is too little to test; ``flags`` says why."""

    ours: Moments
    theirs: Moments
    plain: TTest | None  # against a gain of zero
    with_margin: TTest | None  # against a gain of ``margin``
    margin: float
    detectable: float | None
    text: str  # "same", "export" or "different": what the baseline was scored on, next to ours
    flags: tuple[str, ...]
    verdict: str

    @property
    def comparable(self) -> bool:
        """Whether both sides were scored on the same text, so that the tests mean anything."""
        return self.text == "same"


def compare(
    values: Sequence[float],
    val_bytes: int,
    baseline: Baseline,
    *,
    alpha: float = 0.01,
    margin_nats: float = 0.005,
    flags: Sequence[str] = (),
) -> Comparison:
    """Test per-seed ``values`` (bits a byte on ``val_bytes`` bytes of text) against ``baseline``, one-sided.

    ``flags`` are what the caller already knows to weaken the result (resumed runs, a stretched clock):
    they stand in the result beside those found here.

    Raises:
        DataError: no value, or one that is not finite.
    """
    ours, theirs = moments(values), moments(baseline.bpb)
    margin = convert_margin(margin_nats, baseline)
    relation = text_relation(baseline, val_bytes)
    plain, gated, refused = _tests(values, baseline.bpb, margin)
    found = [*flags, *refused]
    if ours.n < 3:
        found.append(f"{ours.n} seed{'s' if ours.n > 1 else ''}: at least 3 are usual")
    if plain is not None and plain.kind == "one-sample":
        found.append(f"{baseline.name} is one run: its own spread is unknown and taken as zero")
    detectable = None
    if ours.n >= 2:
        spread = theirs.std if theirs.n > 1 else 0.0
        detectable = minimum_detectable_difference(
            ours.std, ours.n, baseline_std=spread, baseline_n=theirs.n, alpha=alpha, power=max(POWER, (1 + alpha) / 2)
        )
    parts = _Parts(
        ours, theirs, plain, gated, margin, margin_nats, detectable, alpha, relation, val_bytes, "; ".join(refused)
    )
    return Comparison(
        ours, theirs, plain, gated, margin, detectable, relation, tuple(found), _sentence(parts, baseline)
    )


def spread_convention(values: Sequence[float], stated: float, digits: int = 5) -> str:
    """Which standard deviation a record states: "sample" (n - 1), "population" (n), or "neither".

    ``digits``: decimals to which ``stated`` was rounded.

    Raises:
        DataError: fewer than two values.
    """
    found = moments(values)
    if found.n < 2:
        raise DataError(f"standard deviation: found {found.n} value, needed at least 2")
    tolerance = 0.5000001 * 10**-digits
    if abs(found.std - stated) <= tolerance:
        return "sample"
    if abs(found.std * math.sqrt((found.n - 1) / found.n) - stated) <= tolerance:
        return "population"
    return "neither"


@dataclass(frozen=True)
class _Parts:
    ours: Moments
    theirs: Moments
    plain: TTest | None
    gated: TTest | None
    margin: float
    margin_nats: float
    detectable: float | None
    alpha: float
    relation: str
    val_bytes: int
    refused: str  # why there is no test


def _tests(
    values: Sequence[float], theirs: Sequence[float], margin: float
) -> tuple[TTest | None, TTest | None, list[str]]:
    """The test without and with the margin, or the reason why there is none."""
    if len(values) > 1 and len(set(values)) == 1:
        return None, None, [f"all {len(values)} seeds have the same value: one run counted several times?"]
    try:
        if len(theirs) == 1:
            return one_sample(values, theirs[0]), one_sample(values, theirs[0], margin), []
        return welch(values, theirs), welch(values, theirs, margin), []
    except DataError as error:
        return None, None, [str(error)]


def _sentence(parts: _Parts, baseline: Baseline) -> str:
    ours = parts.ours
    spread = f" ± {ours.std:.4f}" if ours.n > 1 else ""
    head = f"{ours.mean:.4f}{spread} bpb over {ours.n} seed{'s' if ours.n > 1 else ''}"
    if parts.relation != "same":
        return f"{head}; no claim against {baseline.name}: {_other_text(parts, baseline)}"
    difference = ours.mean - parts.theirs.mean
    side = "below" if difference < 0 else "above"
    against = f"{abs(difference):.4f} {side} {baseline.name} ({parts.theirs.mean:.4f})"
    if parts.plain is None or parts.gated is None:
        return f"{head}, {against}; no test: {parts.refused}"
    zero, margin = _p(parts.plain.p), _p(parts.gated.p)
    needed = f"{parts.margin_nats:g} nats = {parts.margin:.4f} bpb"
    if parts.gated.p < parts.alpha:
        result = f"better by more than {needed} (p = {margin} < {parts.alpha:g})"
    elif parts.plain.p < parts.alpha:
        result = f"better (p = {zero}), but not shown to be so by {needed} (p = {margin}, needed < {parts.alpha:g})"
    elif difference < 0:
        result = f"not shown to be better (p = {zero}, needed < {parts.alpha:g}{_limit(parts)})"
    else:
        result = f"not better (p = {zero})"
    return f"{head}, {against}: {result}"


def _limit(parts: _Parts) -> str:
    if parts.detectable is None:
        return ""
    return f"; {parts.ours.n} seeds with this spread find a gain of {parts.detectable:.4f} in {POWER:.0%} of cases"


def _other_text(parts: _Parts, baseline: Baseline) -> str:
    if parts.relation == "export":
        return (
            f"it was scored on another export of the same split ({baseline.val_bytes:,} bytes, "
            f"these seeds on {parts.val_bytes:,}), comparable to about two decimals at best"
        )
    return (
        f"other text (it was scored on {baseline.val_bytes:,} bytes of {baseline.dataset}, "
        f"these seeds on {parts.val_bytes:,} bytes)"
    )


def _p(p: float) -> str:
    return f"{p:.2g}" if p >= 1e-4 else f"{p:.0e}"
