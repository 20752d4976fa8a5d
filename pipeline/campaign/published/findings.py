"""What stands against a published entry, each finding with the lines that show it.

The text that was scored gives itself away: loss, bpb and the number of tokens imply its bytes. Against the totals of
the challenge's validation split, known to a few bytes, a part of the split, or bytes counted wrongly, stand out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from golf.records.record import CAP, CLOCK
from golf.runtime.errors import DataError
from golf.stats.baseline import FINEWEB_VAL_BYTES, SAME_TEXT
from golf.stats.significance import moments
from golf.stats.verdict import spread_convention
from pipeline.campaign.published.folder import Entry, SeedResult
from pipeline.campaign.published.logs import Log, Score, implied_bytes
from pipeline.campaign.published.sourced import Sourced, read_text

OLD_EXPORT_BYTES = 155_769_746  # the split as the naive baseline was scored on it
# Whole validation split by vocabulary: tokens in its logs, text bytes a token.
TEXTS = {
    "sp1024": (62_021_632, 2.43593), "sp4096": (45_508_608, 3.31968), "sp8192": (40_540_160, 3.72663),
    "case operators": (47_851_520, 3.15736), "byte260": (151_130_112, 0.99967),
}  # fmt: skip
SAME_TOKENS = 1.5e-3  # relative; the tail below one sequence is dropped, up to 32,768 tokens
SAME_TOKENIZER = 0.01  # relative difference of bytes a token between a part and the whole of the split
LEAK_SHARDS = 1499  # training shards of a local preparation that holds only 10,000 documents out
CLEAN_SHARDS = 80  # of the published copy with case operators
GRACE = 1.0  # seconds: the loop ends with the step during which the time ran out
ILLEGAL = ("partial-validation", "overlap", "byte-count", "over-cap")


@dataclass(frozen=True)
class Finding:
    """``kind`` is one of the names in docs/records.md; those of ``ILLEGAL`` rule an entry out."""

    kind: str
    text: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Text:
    """The text that one score was computed on: implied bytes, what rounding may add or take, and what text it is.

    ``relation``: "whole", "older export", "partial", "byte count" or "unknown".
    """

    bytes: Sourced
    error: float
    bytes_per_token: float
    relation: str


def scored_text(score: Score, log: Log) -> Text | None:
    """The text behind ``score``; None if its log doesn't say how many tokens were scored."""
    tokens = log.numbers.get("val_tokens")
    if tokens is None or not tokens.value:
        return None
    found, error = implied_bytes(score, tokens.value)
    source = f"{score.bpb.source}, {tokens.source}"
    relation = _relation(tokens.value, found, error)
    return Text(Sourced(found, source), error, found / tokens.value, relation)


def _relation(tokens: float, found: float, error: float) -> str:
    for total, name in ((FINEWEB_VAL_BYTES, "whole"), (OLD_EXPORT_BYTES, "older export")):
        if abs(found - total) <= SAME_TEXT * total + error:
            return name
    if found > FINEWEB_VAL_BYTES or any(abs(tokens / known - 1) <= SAME_TOKENS for known, _ in TEXTS.values()):
        return "byte count"  # more bytes than the split has, or all of its tokens and other bytes
    per_token = found / tokens
    if any(abs(per_token / known - 1) <= SAME_TOKENIZER + error / found for _, known in TEXTS.values()):
        return "partial"
    return "unknown"


def findings(entry: Entry, top: Path) -> list[Finding]:
    """Everything found, the worst first."""
    found = [
        *_text(entry), *_overlap(entry, top), *_size(entry), *_scores(entry), *_clock(entry), *_statistics(entry),
        *(Finding("no-json" if entry.document is None else "unreadable", problem, (entry.folder,))
          for problem in entry.problems),
    ]  # fmt: skip
    return sorted(found, key=lambda finding: finding.kind not in ILLEGAL)


def _text(entry: Entry) -> Iterator[Finding]:
    for seed in entry.seeds:
        text = scored_text(seed.score, seed.log) if seed.score and seed.log else None
        if text is None or text.relation == "whole":
            continue
        where = (text.bytes.source,)
        share, head = text.bytes.value / FINEWEB_VAL_BYTES, f"{_name(seed)}: implied {text.bytes.value:,.0f} bytes"
        whole = f"{FINEWEB_VAL_BYTES:,}"
        if text.relation == "partial":
            yield Finding("partial-validation", f"{head} of {whole}: {share:.1%} of the split was scored", where)
        elif text.relation == "byte count":
            true = seed.bpb.value * share
            yield Finding(
                "byte-count",
                f"{head}, the split has {whole} ({share - 1:+.2%}); with those its bpb is {true:.4f}",
                where,
            )
        elif text.relation == "older export":
            yield Finding("older-export", f"{head}: another export of the split, {share - 1:+.1%}", where)
        else:
            yield Finding("other-text", f"{head} at {text.bytes_per_token:.3f} a token: no known text", where)


def _overlap(entry: Entry, top: Path) -> Iterator[Finding]:
    """Case-operator data comes as a published copy (80 shards) or from the shipped preparation, whose default holds
    out 10,000 documents while all 50,000 are scored: 80 % of the validation text is then in training."""
    default = _held_out(top / entry.folder, top)
    seen = set()
    for log in entry.logs:
        shards, tokens = log.numbers.get("train_shards"), log.numbers.get("val_tokens")
        whole = tokens is not None and abs(tokens.value / TEXTS["case operators"][0] - 1) <= SAME_TOKENS
        if shards is None or tokens is None or not whole or shards.value in (CLEAN_SHARDS, 0):
            continue
        where = (shards.source, tokens.source)
        if shards.value == LEAK_SHARDS:
            yield Finding("overlap", f"{LEAK_SHARDS} training shards with the whole split scored: the preparation that "
                          "trains on validation documents 10,000 to 49,999", where)  # fmt: skip
        elif default is not None and shards.value not in seen:
            seen.add(shards.value)
            yield Finding("overlap-possible", f"{shards.value:.0f} training shards, neither the published copy's "
                          f"{CLEAN_SHARDS} nor the {LEAK_SHARDS} of a leak: prepared locally, and the shipped "
                          f"preparation holds {default.value:,.0f} documents out unless told otherwise",
                          (*where, default.source))  # fmt: skip


def _held_out(folder: Path, top: Path) -> Sourced | None:
    """The default of ``--val-docs`` in the folder's preparation script, if it is below the split's 50,000."""
    for path in sorted(folder.glob("prepare*.py")):
        try:
            lines = read_text(path).split("\n")
        except DataError:
            continue
        for number, line in enumerate(lines, 1):
            if found := re.search(r'"--val-docs".*default=([\d_]{1,12})', line):
                held = int(found.group(1).replace("_", "") or 0)
                return Sourced(held, f"{path.relative_to(top).as_posix()}:{number}") if held < 50_000 else None
    return None


def _size(entry: Entry) -> Iterator[Finding]:
    sizes = entry.sizes
    counted = [("submission.json", sizes.stated), ("the log", sizes.logged)]
    over = [(name, size) for name, size in counted if size is not None and size.value > CAP]
    for name, size in over:
        yield Finding("over-cap", f"{size.value:,.0f} bytes by {name}, {size.value - CAP:,.0f} over", (size.source,))
    if not over and sizes.shipped is not None and sizes.shipped.value > CAP:
        size = sizes.shipped
        fits = sizes.wrapped is not None and sizes.wrapped.value <= CAP
        tail = "; under it as a wrapper" if fits else "; over it as a plain wrapper too"
        yield Finding("shipped-over-cap", f"{size.value:,.0f} bytes with its code as shipped{tail}", (size.source,))
    if sizes.stated and sizes.logged and sizes.stated.value != sizes.logged.value:
        yield Finding("bytes-disagree", f"largest seed: {sizes.stated.value:,.0f} bytes stated, "
                      f"{sizes.logged.value:,.0f} logged", (sizes.stated.source, sizes.logged.source))  # fmt: skip
    if entry.total and sizes.stated and entry.total.value < sizes.stated.value:
        yield Finding("total-not-largest", f"bytes_total {entry.total.value:,.0f} is below the largest seed's "
                      f"{sizes.stated.value:,.0f}", (entry.total.source, sizes.stated.source))  # fmt: skip


def _scores(entry: Entry) -> Iterator[Finding]:
    if not entry.logs:
        yield Finding("no-log", "no log: the score can't be held against anything", (entry.bpb.source,))
    else:
        if not entry.seeds:
            yield Finding("score-not-logged", f"{entry.bpb.value:.5f} stands in no log", (entry.bpb.source,))
        for seed in entry.seeds:
            if seed.score is None:
                yield Finding("score-not-logged", f"{_name(seed)}: {seed.bpb.value:.5f} stands in no log of that seed",
                              (seed.bpb.source,))  # fmt: skip
    if entry.document and entry.seeds and not Sourced(entry.mean, "", entry.bpb.digits).agrees(entry.bpb):
        same = any(seed.bpb.agrees(entry.bpb) for seed in entry.seeds)
        yield Finding("best-seed-stated" if same else "mean-disagrees",
                      f"{entry.bpb.value:.5f} stated; the mean of its {len(entry.seeds)} seeds is {entry.mean:.5f}",
                      (entry.bpb.source, *(seed.bpb.source for seed in entry.seeds)))  # fmt: skip
    for seed in entry.seeds:
        if seed.score and seed.score.label == "during training":
            yield Finding("before-quantisation", f"{_name(seed)}: the stated score was printed while training, before "
                          "the artifact was made", (seed.score.bpb.source,))  # fmt: skip
        printed = seed.log.numbers.get("seed") if seed.log else None
        if printed and seed.seed is not None and printed.value != seed.seed:
            yield Finding("seed-mismatch", f"{_name(seed)}: its log prints seed {printed.value:.0f}", (printed.source,))
    for log in entry.logs:
        if not log.whole and (log.progress or "train_ms" in log.numbers):
            yield Finding("log-broke-off", "a training log without a final score", (log.name,))


def _clock(entry: Entry) -> Iterator[Finding]:
    if not entry.record:
        return
    for seed in entry.seeds:
        hessian = seed.training.numbers.get("hessian_s") if seed.training else None
        train = seed.train_seconds
        if train is not None and train.value + (hessian.value if hessian else 0.0) > CLOCK + GRACE:
            told = f" and {hessian.value:.1f} s of Hessians" if hessian else ""
            where = (train.source, hessian.source) if hessian else (train.source,)
            yield Finding("train-clock", f"{_name(seed)}: {train.value:.1f} s of training{told}", where)
        if seed.eval_seconds is not None and seed.eval_seconds.value > CLOCK:
            yield Finding("eval-clock", f"{_name(seed)}: {seed.eval_seconds.value:.1f} s of evaluation",
                          (seed.eval_seconds.source,))  # fmt: skip
        world = seed.training.numbers.get("world_size") if seed.training else None
        if world and world.value != 8:
            yield Finding("hardware", f"{_name(seed)}: {world.value:.0f} GPUs, needed 8", (world.source,))


def _statistics(entry: Entry) -> Iterator[Finding]:
    values = [seed.bpb.value for seed in entry.seeds]
    if len(values) < 3:
        yield Finding("few-seeds", f"{max(1, len(values))} known, 3 are usual", (entry.bpb.source,))
    if len(entry.ran) > len(values) > 0:
        yield Finding("selected-seeds", f"the best {len(values)} of {len(entry.ran)} seeds",
                      (entry.ran[0].source, entry.ran[-1].source))  # fmt: skip
    if entry.std is not None and len(values) > 1 and len(set(values)) > 1:
        stated, digits = entry.std.value, entry.std.digits
        kind = spread_convention(values, stated, digits)
        if kind != "sample":
            text = "divides by n" if kind == "population" else "is neither"
            yield Finding("std", f"{stated:g} stated {text}; the sample's (n - 1) is {moments(values).std:.{digits}f}",
                          (entry.std.source,))  # fmt: skip


def _name(seed: SeedResult) -> str:
    return "the run" if seed.seed is None else f"seed {seed.seed}"
