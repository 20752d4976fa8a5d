"""What the seeds reached, together: scores, sizes, and what weakens the result."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from golf.records.reports import seed_numbers, seed_reports
from golf.runtime.errors import DataError
from golf.runtime.report import report_path
from golf.stats.verdict import Comparison

HEADLINE = ("bpb_mean", "bpb_std", "artifact_bytes_max", "slack_bytes", "detectable_difference")


@dataclass(frozen=True)
class Results:
    """Per-seed results, in the order of ``seeds``. ``bpb``: the final score; ``losses``: the same as nats a token."""

    seeds: tuple[int, ...]
    bpb: dict[int, float]
    losses: dict[int, float]
    tokens: int
    bytes: int
    code_bytes: int
    total_bytes: dict[int, int]
    flags: tuple[str, ...]


def read_results(seeds: Sequence[int], limit: int) -> Results:
    """Read the reports of train, gate, evaluate and audit of exactly ``seeds``.

    Args:
        seeds: the seeds asked for; reports of others in the folders don't count.
        limit: cap in bytes, which the gate must have held each of them against.

    Raises:
        MissingInput: a report is missing; it is named with the command that makes it.
        DataError: a report is another seed's, the seeds were scored on different text, one failed its audit,
            or one is over the cap.
    """
    tokens, scored = seed_numbers("evaluate", seeds, "tokens"), seed_numbers("evaluate", seeds, "bytes")
    for name, found in (("tokens", tokens), ("bytes", scored)):
        if len(set(found.values())) > 1:
            shown = ", ".join(f"seed {seed}: {value:,.0f}" for seed, value in found.items())
            raise DataError(
                f"reports/evaluate: the seeds were scored on different text ({name}: {shown})", hint="dvc repro"
            )
    sizes = {seed: int(value) for seed, value in seed_numbers("gate", seeds, "total_bytes").items()}
    for seed, size in sizes.items():
        if size > limit:
            raise DataError(
                f"{report_path('gate', seed)}: found {size:,} bytes, needed {limit:,} at most (budget.artifact_bytes)",
                hint=f"dvc repro gate@{seed}",
            )
    codes = {int(value) for value in seed_numbers("gate", seeds, "code_bytes").values()}
    if len(codes) > 1:
        raise DataError(f"reports/gate: the seeds were gated with different programs ({sorted(codes)} bytes)",
                        hint="dvc repro")  # fmt: skip
    for seed, report in seed_reports("audit", seeds).items():
        if report.get("passed") is not True:
            raise DataError(f"{report_path('audit', seed)}: passed: found {report.get('passed')!r}, needed true",
                            hint=f"dvc repro audit@{seed}")  # fmt: skip
    return Results(
        seeds=tuple(seeds),
        bpb=seed_numbers("evaluate", seeds, "bpb"),
        losses=seed_numbers("evaluate", seeds, "nats_per_token"),
        tokens=int(next(iter(tokens.values()))),
        bytes=int(next(iter(scored.values()))),
        code_bytes=codes.pop(),
        total_bytes=sizes,
        flags=training_flags(seed_reports("train", seeds)),
    )


def training_flags(reports: dict[int, dict[str, Any]]) -> tuple[str, ...]:
    """What in the training of the seeds weakens the result: resumed, a stretched clock, unequal configurations."""
    flags = []
    for seed, report in reports.items():
        if report.get("resumed"):
            flags.append(f"seed {seed}: its training was resumed")
        clock = report.get("clock")
        if isinstance(clock, str) and clock.startswith("stretched"):
            flags.append(f"seed {seed}: clock {clock}")
    parameters = {report.get("parameters") for report in reports.values()}
    if len(parameters) > 1:
        flags.append(f"mixed configurations: {sorted(map(str, parameters))} parameters")
    return tuple(flags)


def aggregate(results: Results, comparison: Comparison, limit: int) -> dict[str, Any]:
    """The content of reports/aggregate.json: rounded, so that no machine's last digit reruns what follows."""
    largest = max(results.total_bytes.values())
    std = comparison.ours.std if comparison.ours.n > 1 else None
    plain, gated = comparison.plain, comparison.with_margin
    return {
        "seeds": list(results.seeds),
        "bpb_mean": _rounded(comparison.ours.mean),
        "bpb_std": _rounded(std),
        "loss_mean": _rounded(statistics.fmean(results.losses.values())),
        "test": None if plain is None else {
            "kind": plain.kind, "difference": _rounded(plain.difference), "t": _rounded(plain.t),
            "df": _rounded(plain.df), "p": _rounded(plain.p),
        },
        "test_with_margin": None if gated is None else {
            "margin": _rounded(gated.margin), "t": _rounded(gated.t), "p": _rounded(gated.p),
        },
        "detectable_difference": _rounded(comparison.detectable),
        "artifact_bytes_max": largest,
        "slack_bytes": limit - largest,
        "comparable": comparison.comparable,
        "flags": list(comparison.flags),
        "verdict": comparison.verdict,
    }  # fmt: skip


def headline(whole: Mapping[str, Any]) -> dict[str, Any]:
    """Of reports/aggregate.json the numbers alone, for DVC's tables, which are as wide as their longest text."""
    numbers = {key: whole[key] for key in HEADLINE}
    if whole["comparable"] and whole["test"]:
        numbers |= {"p": whole["test"]["p"], "p_with_margin": whole["test_with_margin"]["p"]}
    return {key: value for key, value in numbers.items() if value is not None}


def _rounded(value: float | None) -> float | None:
    """Eight significant digits."""
    return None if value is None else float(f"{value:.8g}")
