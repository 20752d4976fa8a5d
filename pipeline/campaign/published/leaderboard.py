"""``fairway records DIR``: a checkout of the public challenge as a leaderboard whose every number names its line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.params.stats import Stats
from golf.runtime.errors import DataError, MissingInput
from golf.stats.baseline import Baseline
from golf.stats.noise import pooled_spread
from golf.stats.power import minimum_detectable_difference
from golf.stats.selection import SelectionTest, selected_test
from golf.stats.significance import moments
from golf.stats.verdict import Comparison, compare
from pipeline.campaign.published.findings import ILLEGAL, Finding, Text, findings, scored_text
from pipeline.campaign.published.folder import Entry, read_folder
from pipeline.campaign.published.sourced import Sourced

COLUMNS = (
    "folder",
    "date",
    "bpb",
    "±",
    "seeds",
    "implied bytes",
    "stated",
    "logged",
    "shipped",
    "p",
    "p margin",
    "findings",
)


@dataclass(frozen=True)
class Row:
    """An entry with what was computed from it. ``text``: of its first confirmed seed.

    ``predecessor`` is the best legal entry before it in its track on the same text; ``significance`` tests against
    its seeds; ``selection`` is there if the entry's seeds are the best of more.
    """

    entry: Entry
    findings: tuple[Finding, ...]
    text: Text | None
    predecessor: Entry | None = None
    significance: Comparison | None = None
    selection: SelectionTest | None = None

    @property
    def legal(self) -> bool:
        """Whether nothing was found that rules it out."""
        return not any(finding.kind in ILLEGAL for finding in self.findings)


@dataclass(frozen=True)
class Leaderboard:
    """``rows`` by score; ``failed``: the folders without any score, with the reason."""

    rows: tuple[Row, ...]
    failed: dict[str, str]


def read_checkout(top: Path) -> Leaderboard:
    """Import every records folder under ``top``: a checkout, its records/, a track or one folder.

    Raises:
        MissingInput: there is no such directory, or no records folder in it.
    """
    if not top.is_dir():
        raise MissingInput(f"{top}: no such directory, needed a checkout of the challenge",
                           hint="git clone https://github.com/openai/parameter-golf")  # fmt: skip
    folders = record_folders(top)
    if not folders:
        raise MissingInput(f"{top}: no records folder in it, needed records/TRACK/FOLDER with JSON or logs",
                           hint="ls records")  # fmt: skip
    entries, failed = [], {}
    for folder in folders:
        try:
            entries.append(read_folder(folder, top))
        except (DataError, OSError) as error:
            failed[folder.relative_to(top).as_posix()] = str(error)
    rows = [Row(entry, tuple(findings(entry, top)), _first_text(entry)) for entry in entries]
    return Leaderboard(tuple(sorted(_tested(rows), key=lambda row: row.entry.mean)), failed)


def record_folders(top: Path) -> list[Path]:
    """The folders of every ``track_*`` directory, and whatever else holds a submission*.json."""
    tracks = [path for path in (top, *top.rglob("track_*")) if path.name.startswith("track_") and path.is_dir()]
    found = {folder for track in tracks for folder in track.iterdir() if folder.is_dir()}
    for file in top.rglob("submission*.json"):
        if not any(parent in found for parent in file.parents):
            found.add(file.parent)
    if not found and any(top.glob("*.log")):
        found.add(top)
    return sorted(found)


def _first_text(entry: Entry) -> Text | None:
    found = (scored_text(seed.score, seed.log) for seed in entry.seeds if seed.score and seed.log)
    return next((text for text in found if text is not None), None)


def _tested(rows: Sequence[Row]) -> list[Row]:
    """Each entry of the 10-minute track against the best before it, by date; of one day the worse came first."""
    ordered = sorted((row for row in rows if row.entry.record), key=lambda row: (row.entry.date, -row.entry.mean))
    best: Row | None = None
    tested = {}
    for row in ordered:
        tested[row.entry.folder] = row if best is None else _against(row, best)
        if (
            row.legal
            and row.text
            and row.text.relation == "whole"
            and (best is None or row.entry.mean < best.entry.mean)
        ):
            best = row
    return [tested.get(row.entry.folder, row) for row in rows]


def _against(row: Row, best: Row) -> Row:
    if row.text is None or best.text is None:
        return row
    before, stats = best.entry, Stats()
    baseline = Baseline(
        before.folder, "bpb", tuple(before.values), best.text.bytes_per_token, round(best.text.bytes.value),
        "fineweb-val", before.bpb.source,
    )  # fmt: skip
    result = compare(
        row.entry.values, round(row.text.bytes.value), baseline, alpha=stats.alpha, margin_nats=stats.margin_nats
    )
    selection = None
    if result.comparable and 1 < len(row.entry.seeds) < len(row.entry.ran):
        try:
            selection = selected_test(row.entry.values, len(row.entry.ran), before.values)
        except DataError:  # no spread: `result` says so
            selection = None
    return Row(row.entry, row.findings, row.text, before, result, selection)


def as_json(board: Leaderboard) -> dict[str, Any]:
    """Everything, each number as ``{"value": ..., "source": "file:line"}``."""
    return {
        "imported": len(board.rows),
        "failed": board.failed,
        "rows": [_row(row) for row in board.rows],
    }


def _row(row: Row) -> dict[str, Any]:
    entry, sizes, test = row.entry, row.entry.sizes, row.significance
    return {
        "folder": entry.folder, "name": entry.name, "author": entry.author, "date": entry.date, "track": entry.track,
        "legal": row.legal, "bpb": _number(entry.bpb), "std": _number(entry.std),
        "mean": entry.mean, "mean_source": [seed.bpb.source for seed in entry.seeds] or [entry.bpb.source],
        "seeds": [
            {"seed": seed.seed, "bpb": _number(seed.bpb), "loss": _number(seed.loss), "bytes": _number(seed.total),
             "train_seconds": _number(seed.train_seconds), "eval_seconds": _number(seed.eval_seconds),
             "label": seed.score.label if seed.score else None,
             "logged": _number(seed.score.bpb) if seed.score else None,
             "text": _text(scored_text(seed.score, seed.log) if seed.score and seed.log else None)}
            for seed in entry.seeds
        ],
        "sizes": {name: _number(getattr(sizes, name)) for name in ("stated", "logged", "shipped", "wrapped")},
        "text": _text(row.text),
        "significance": None if test is None or row.predecessor is None else {
            "against": row.predecessor.folder, "against_source": [s.bpb.source for s in row.predecessor.seeds]
            or [row.predecessor.bpb.source], "verdict": test.verdict, "comparable": test.comparable,
            "test": test.plain.kind if test.plain else None,
            "p": test.plain.p if test.plain else None,
            "p_with_margin": test.with_margin.p if test.with_margin else None,
            "stated_p": _number(entry.document.number("p_value")) if entry.document else None,
            "flags": list(test.flags),
        },
        "selection": None if row.selection is None else {
            "best": row.selection.best, "of": row.selection.ran, "naive_p": row.selection.naive.p,
            "p": row.selection.p, "standard_error": row.selection.standard_error,
        },
        "findings": [{"kind": f.kind, "text": f.text, "sources": list(f.sources)} for f in row.findings],
    }  # fmt: skip


def _number(found: Sourced | None) -> dict[str, Any] | None:
    return None if found is None else {"value": found.value, "source": found.source}


def _text(text: Text | None) -> dict[str, Any] | None:
    return None if text is None else {
        "bytes": _number(text.bytes), "error": text.error, "bytes_per_token": text.bytes_per_token,
        "relation": text.relation,
    }  # fmt: skip


def table(board: Leaderboard) -> list[tuple[str, ...]]:
    """A row of text an entry, in the order of ``COLUMNS``."""
    found = []
    for row in board.rows:
        entry, sizes, test = row.entry, row.entry.sizes, row.significance
        spread = moments(entry.values).std if len(entry.values) > 1 else None
        comparable = test is not None and test.comparable
        found.append((
            entry.folder.rpartition("/")[2][:40], entry.date, f"{entry.mean:.5f}",
            "-" if spread is None else f"{spread:.5f}", str(len(entry.seeds) or "-"),
            "-" if row.text is None else f"{row.text.bytes.value:,.0f}",
            *("-" if size is None else f"{size.value:,.0f}" for size in (sizes.stated, sizes.logged, sizes.shipped)),
            f"{test.plain.p:.2g}" if comparable and test and test.plain else "-",
            f"{test.with_margin.p:.2g}" if comparable and test and test.with_margin else "-",
            ", ".join(dict.fromkeys(finding.kind for finding in row.findings)),
        ))  # fmt: skip
    return found


def columns(board: Leaderboard) -> list[str]:
    """The table in columns, numbers to the right."""
    rows = [COLUMNS, *table(board)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    left = (0, len(COLUMNS) - 1)
    return [
        "  ".join(cell.ljust(width) if i in left else cell.rjust(width)
                  for i, (cell, width) in enumerate(zip(row, widths, strict=True))).rstrip()
        for row in rows
    ]  # fmt: skip


def summary(board: Leaderboard) -> list[str]:
    """How many were imported, which not and why, what was found how often."""
    counts = Counter(kind for row in board.rows for kind in {finding.kind for finding in row.findings})
    found = ", ".join(f"{kind} {count}" for kind, count in sorted(counts.items(), key=lambda item: (-item[1], item[0])))
    ruled_out = sum(not row.legal for row in board.rows)
    lines = [f"{len(board.rows)} of {len(board.rows) + len(board.failed)} folders imported, {ruled_out} ruled out"]
    lines += [f"not imported: {folder}: {reason}" for folder, reason in board.failed.items()]
    lines += [f"findings, by folders: {found}"] if found else []
    several = [row.entry.values for row in board.rows if row.entry.record and len(set(row.entry.values)) > 1]
    if (spread := pooled_spread(several)) is not None:
        low, high = spread.interval()
        limit = minimum_detectable_difference(spread.std, 3, baseline_std=spread.std, baseline_n=3, alpha=Stats().alpha)
        lines.append(
            f"seed sigma over the {len(several)} entries of the 10-minute track with several seeds: "
            f"{spread.std:.5f} bpb [{low:.5f}, {high:.5f}]; three seeds a side find {limit:.5f} in 80% of cases "
            f"at p < {Stats().alpha:g}"
        )
    return lines


def sources(board: Leaderboard) -> list[str]:
    """The lines behind the table: one for each number and finding."""
    found = []
    for row in board.rows:
        entry, sizes = row.entry, row.entry.sizes
        found.append(f"{entry.folder}")
        found.append(f"  bpb {entry.mean:.5f}: {', '.join(s.bpb.source for s in entry.seeds) or entry.bpb.source}")
        if row.text is not None:
            found.append(f"  implied {row.text.bytes.value:,.0f} bytes ({row.text.relation}): {row.text.bytes.source}")
        for name in ("stated", "logged", "shipped", "wrapped"):
            if (size := getattr(sizes, name)) is not None:
                found.append(f"  {name} {size.value:,.0f} bytes: {size.source}")
        if row.significance is not None:
            found.append(f"  {row.significance.verdict}")
        if row.selection is not None:
            found.append(f"  best {row.selection.best} of {row.selection.ran}: naive p = {row.selection.naive.p:.2g}, "
                         f"p knowing the choice = {row.selection.p:.2g}")  # fmt: skip
        found += [f"  {finding.kind}: {finding.text}  [{', '.join(finding.sources)}]" for finding in row.findings]
    return found
