"""One folder of the public challenge as an entry: names resolved, every number with its line.

submission.json has no schema: a score is ``val_bpb``, ``mean_val_bpb`` or ``mean_bpb``; the seeds are an object in
``seed_results`` or ``seeds``, two lists, or stand in the logs only. Seconds come in seconds or milliseconds.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from golf.runtime.errors import DataError
from pipeline.campaign.published.logs import Log, Score, read_log
from pipeline.campaign.published.sizes import Sizes, sizes
from pipeline.campaign.published.sourced import Document, Key, Sourced, read_document

BPB = ("val_bpb", "mean_val_bpb", "mean_bpb")
LOSS = ("val_loss", "mean_val_loss", "mean_val_loss_nats", "val_loss_nats")
STD = ("val_bpb_std", "std_bpb")
TOTAL = ("bytes_total", "artifact_bytes_max", "artifact_bytes", "artifact_size_bytes", "artifact_bytes_mean")
SEED_BPB = ("val_bpb", "post_ttt_val_bpb", "val_var_bpb", "sliding_val_bpb", "bpb")
SEED_LOSS = ("val_loss", "post_ttt_val_loss")
SEED_TOTAL = ("artifact_bytes", "bytes_total")
SEED_SECONDS = {"train": ("train_time",), "evaluate": ("eval_time", "ttt_eval_time", "ttt_time")}
NAME, AUTHOR = ("name", "run_name"), ("author", "github_id")
NO_LOG = re.compile(r"^requirements.*\.txt$", re.IGNORECASE)


@dataclass(frozen=True)
class SeedResult:
    """One seed; ``score`` and ``log``: the line that prints the same score, and its log.

    ``training``: the log of the run that made its model, another one where the score is of a later evaluation.
    """

    seed: int | None
    bpb: Sourced
    loss: Sourced | None = None
    total: Sourced | None = None
    train_seconds: Sourced | None = None
    eval_seconds: Sourced | None = None
    score: Score | None = None
    log: Log | None = None
    training: Log | None = None


@dataclass
class Entry:
    """A folder that could be read. ``bpb``: the stated score, or that of the logs where no JSON states one.

    ``ran``: how many seeds were run, where the JSON discloses that these are the best of more.
    """

    folder: str
    track: str
    name: str
    author: str
    date: str
    bpb: Sourced
    std: Sourced | None
    seeds: tuple[SeedResult, ...]
    total: Sourced | None
    sizes: Sizes
    document: Document | None
    logs: tuple[Log, ...]
    ran: tuple[Sourced, ...] = ()
    problems: list[str] = field(default_factory=list)

    @property
    def values(self) -> list[float]:
        """The scores of the seeds, bits a byte; the stated one where no seed's is known."""
        return [seed.bpb.value for seed in self.seeds] or [self.bpb.value]

    @property
    def mean(self) -> float:
        """Mean score of the seeds."""
        return sum(self.values) / len(self.values)

    @property
    def record(self) -> bool:
        """Whether it stands in the track of 10 minutes on 8 GPUs."""
        return "non" not in self.track and "10min" in self.track


def read_folder(folder: Path, top: Path) -> Entry:
    """Read one folder.

    Raises:
        DataError: neither its JSON nor a log holds a score; the message says what was found.
    """
    place = _relative(folder, top)
    problems: list[str] = []
    document = _document(folder, top, problems)
    logs = _logs(folder, top, problems)
    stated = document.first(*BPB) if document else None
    seeds = _stated_seeds(document, logs) if document else ()
    if not seeds:
        seeds = _logged_seeds(stated, logs)
    if stated is None and document is not None and not seeds:
        keys = ", ".join(list(document.content)[:8]) or "none"
        problems.append(f"{document.name}: no {' or '.join(BPB)} (its keys: {keys})")
    if stated is None and not seeds:
        raise DataError(f"{place}: no score: {'; '.join(problems) or 'neither submission.json nor a log'}")
    seeds = tuple(replace(seed, training=_training(seed.log, logs)) for seed in seeds)
    bpb = stated or _mean([seed.bpb for seed in seeds])
    total = document.first(*TOTAL) if document else None
    if total is None and document is not None:
        total = document.number("compliance", "artifact_bytes_max")
    return Entry(
        folder=place,
        track=(document.text("track") if document else "") or folder.parent.name,
        name=(document.text(*NAME) if document else "") or folder.name,
        author=document.text(*AUTHOR) if document else "",
        date=_date(folder, document),
        bpb=bpb,
        std=document.first(*STD) if document else None,
        seeds=seeds,
        total=total,
        sizes=sizes(folder, top, [(seed.training, seed.total) for seed in seeds], total, logs),
        document=document,
        logs=tuple(logs),
        ran=_disclosed(document) if document else (),
        problems=problems,
    )


def _document(folder: Path, top: Path, problems: list[str]) -> Document | None:
    files = sorted(folder.glob("submission*.json"), key=lambda path: (path.name != "submission.json", path.name))
    for path in files:
        try:
            return read_document(path, _relative(path, top))
        except DataError as error:
            problems.append(str(error))
    if not files:
        problems.append("no submission.json")
    return None


def _logs(folder: Path, top: Path, problems: list[str]) -> list[Log]:
    found = []
    for path in sorted(folder.rglob("*")):
        if path.suffix not in (".log", ".txt") or NO_LOG.match(path.name) or not path.is_file():
            continue
        try:
            found.append(read_log(path, _relative(path, top)))
        except DataError as error:
            problems.append(str(error))
    return found


def _stated_seeds(document: Document, logs: list[Log]) -> tuple[SeedResult, ...]:
    """The seeds that the JSON states a score for, each with the log line that prints the same."""
    content = document.content
    places: list[tuple[Key, str]] = []
    for key in ("seed_results", "seeds"):
        group = content.get(key)
        if isinstance(group, dict) and not places:
            places = [((key, name), name) for name in group if isinstance(group[name], dict)]
    found = []
    for place, name in places:
        if (bpb := document.first(*SEED_BPB, under=place)) is None:
            continue
        seed = _whole(name)
        score, log = _confirm(bpb, seed, logs)
        found.append(
            SeedResult(
                seed,
                bpb,
                loss=document.first(*SEED_LOSS, under=place) or (score.loss if score else None),
                total=document.first(*SEED_TOTAL, under=place),
                train_seconds=_seconds(document, place, log, "train"),
                eval_seconds=_seconds(document, place, log, "evaluate"),
                score=score,
                log=log,
            )
        )
    scores, names = content.get("seed_scores"), content.get("seeds")
    if not found and isinstance(scores, list) and isinstance(names, list) and len(scores) == len(names):
        for i, name in enumerate(names):
            if (bpb := document.number("seed_scores", i)) is not None:
                seed = _whole(name)
                score, log = _confirm(bpb, seed, logs)
                found.append(_from_log(seed, bpb, score, log))
    return tuple(found)


def _logged_seeds(stated: Sourced | None, logs: list[Log]) -> tuple[SeedResult, ...]:
    """The seeds as the logs have them: all runs of one kind that end in the label whose score is stated.

    A label is the stated one's if one run's score, or the mean over the runs of one kind, is the stated number.
    Without a stated number it is the last label of the largest kind. Of a kind are logs of the same text and clock;
    of several logs of one seed the one nearest to the stated number counts. Logs that name no seed may be of any
    configuration, so they stand for themselves alone.
    """
    kinds: dict[tuple[Any, ...], dict[str, list[tuple[Log, Score]]]] = defaultdict(lambda: defaultdict(list))
    for log in logs:
        for label, score in {score.label: score for score in log.scores}.items():
            kinds[log.value("val_tokens"), log.value("wallclock_cap"), log.dataset][label].append((log, score))
    options: list[tuple[tuple[int, ...], list[tuple[Log, Score]]]] = []
    for labels in kinds.values():
        for order, group in enumerate(labels.values()):
            runs = _one_a_seed(group, stated)
            if any(log.seed is None for log, _ in runs):
                same = [run for run in runs if stated is not None and run[1].bpb.agrees(stated)]
                runs = same or [run for run in runs if run[0].seed is not None] or runs[-1:]
            digits = min(score.bpb.digits for _, score in runs)
            shared = digits if stated is None else min(digits, stated.digits)  # a close match goes before a coarse one
            if stated is None:
                options.append(((len(runs), order), runs))
            elif _mean([score.bpb for _, score in runs]).agrees(stated):
                options.append(((shared, 2, digits, order), runs))
            elif any(score.bpb.agrees(stated) for _, score in runs):
                options.append(((shared, 1, digits, order), runs))
    if not options:
        alone = [log for log in logs if stated and log.progress and log.progress.bpb.agrees(stated)]
        return tuple(_from_log(log.seed, log.progress.bpb, log.progress, log) for log in alone if log.progress)
    _, runs = max(options, key=lambda option: option[0])
    return tuple(_from_log(log.seed, score.bpb, score, log) for log, score in runs)


def _one_a_seed(group: list[tuple[Log, Score]], stated: Sourced | None) -> list[tuple[Log, Score]]:
    kept: dict[int | str, tuple[Log, Score]] = {}
    for log, score in group:
        key: int | str = log.name if log.seed is None else log.seed
        other = kept.get(key)
        target = stated.value if stated else 0.0
        if other is None or abs(score.bpb.value - target) < abs(other[1].bpb.value - target):
            kept[key] = (log, score)
    return list(kept.values())


def _from_log(seed: int | None, bpb: Sourced, score: Score | None, log: Log | None) -> SeedResult:
    train, evaluate = (_log_seconds(log, stage, score) for stage in SEED_SECONDS)
    return SeedResult(seed, bpb, score.loss if score else None, None, train, evaluate, score, log)


def _confirm(bpb: Sourced, seed: int | None, logs: list[Log]) -> tuple[Score | None, Log | None]:
    """The line that prints ``bpb``, in a log of that seed or of none; if none does, just that seed's log.

    Most decimals go first, then the nearest; a final score goes before one printed during training.
    """
    own = [log for log in logs if seed is None or log.seed in (seed, None)]
    for scores in (lambda log: log.scores, lambda log: [log.progress] if log.progress else []):
        matches = [(score, log) for log in own for score in scores(log) if score.bpb.agrees(bpb)]
        if matches:
            return max(matches, key=lambda match: (match[0].bpb.digits, -abs(match[0].bpb.value - bpb.value)))
    named = [log for log in own if log.seed == seed and seed is not None]
    return None, named[0] if named else None


def _training(log: Log | None, logs: list[Log]) -> Log | None:
    if log is None or log.models or log.totals or log.seed is None:
        return log
    return next((other for other in logs if other.seed == log.seed and (other.models or other.totals)), log)


def _seconds(document: Document, key: Key, log: Log | None, stage: str) -> Sourced | None:
    for name in SEED_SECONDS[stage]:
        for ending, scale in (("_s", 1.0), ("_seconds", 1.0), ("_ms", 1e-3)):
            if (found := document.number(*key, name + ending, scale=scale)) is not None:
                return found
    return _log_seconds(log, stage, None)


def _log_seconds(log: Log | None, stage: str, score: Score | None) -> Sourced | None:
    if log is None:
        return None
    found = log.numbers.get("train_ms" if stage == "train" else "eval_s")
    if stage == "train":
        return Sourced(found.value / 1e3, found.source, 3) if found else None
    took = score.eval_ms if score else None
    return found or (Sourced(took.value / 1e3, took.source, 3) if took else None)


def _disclosed(document: Document) -> tuple[Sourced, ...]:
    """The scores of all seeds that were run, where the JSON says that more were run than are submitted."""
    for outer, group in document.content.items():
        if isinstance(group, dict):
            for inner, values in group.items():
                if re.fullmatch(r"all_\d+_(?:val_)?bpb", inner) and isinstance(values, dict):
                    numbers = [document.number(outer, inner, name) for name in values]
                    return tuple(number for number in numbers if number is not None)
    return ()


def _mean(values: list[Sourced]) -> Sourced:
    mean = sum(value.value for value in values) / len(values)
    return Sourced(mean, ", ".join(value.source for value in values), min(value.digits for value in values))


def _date(folder: Path, document: Document | None) -> str:
    """The folder's, by which the challenge orders records; else the JSON's."""
    found = re.match(r"\d{4}-\d{2}-\d{2}", folder.name) or re.match(
        r"\d{4}-\d{2}-\d{2}", document.text("date") if document else ""
    )
    return found.group() if found else ""


def _whole(name: Any) -> int | None:
    text = str(name)
    return int(text) if re.fullmatch(r"-?\d{1,18}", text) else None


def _relative(path: Path, top: Path) -> str:
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.as_posix()
