"""A training log of the challenge: scores, sizes, seconds and the data it names, each with its line.

Most logs begin with the whole source of the program, whose lines hold the same words: a line counts only if it starts
with its label and digits stand where they must. Labels can't be trusted (``final_int8_zlib_roundtrip`` prints the
sliding-window score in a dozen records), so every score is kept and the submission's own number says which one it is.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.campaign.published.sourced import Sourced, read_text, sourced

LINE = 400  # characters; no result is longer, and patterns may take quadratic time
_N = r"([0-9]+(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)"
_STAMP = re.compile(r"^\d{9,11}(?:\.\d+)?\s+")  # some logs have the time in front of every line
_SCORE = re.compile(
    rf"^([A-Za-z][\w :/()+-]*?)\s+(?:stride:\d+\s+)?(sliding )?val_loss[:=]\s*{_N}\s+(?:sliding )?val_bpb[:=]\s*{_N}"
)
_PROGRESS = re.compile(rf"^(?:(?:step|s)[ :]?)?\d+/\d+\s+val_loss:\s*{_N}\s+val_bpb:\s*{_N}")
_COLD = re.compile(r"^(?:step|s|tt\w+|warmup\w*)[ :]?[ :]?\w?\d")  # the many lines of a running loop
_EVAL = re.compile(rf"\b(?:eval_time|time):\s*{_N}ms")
_FIRST = {  # one number, the first line that has it
    "seed": re.compile(rf"^(?:\s*seed[:=]\s*|.*\bparams:.* s:){_N}\s*$"),
    "world_size": re.compile(rf"^\s*world_size:\s*{_N}\b"),
    "vocab_size": re.compile(rf"^\s*vocab_size:\s*{_N}\s*$"),
    "val_tokens": re.compile(rf"^\s*(?:val_tokens:|val_loader:shards pattern=\S* tokens:)\s*{_N}\s*$"),
    "train_shards": re.compile(rf"^(?:train_loader:.*\s)?train_shards:\s*{_N}\s*$"),
    "wallclock_cap": re.compile(rf"^(?:\s*|.*\s)max_wallclock_seconds:\s*{_N}\s*$"),
}
_LAST = {  # one number, the last line that has it
    "train_ms": re.compile(rf"^stopping_early: wallclock_cap train_time:\s*{_N}ms"),
    "steps": re.compile(rf"^stopping_early: wallclock_cap train_time:\s*[0-9.]+ms step:\s*{_N}/"),
    "hessian_s": re.compile(rf"^GPTQ:collected \d+ Hessians in {_N}s"),
    "eval_s": re.compile(rf"^total_eval_time:\s*{_N}s"),
    "code_raw": re.compile(rf"^Code size(?: \(uncompressed\))?:\s*{_N} bytes"),
    "code_packed": re.compile(rf"^Code size \(compressed\):\s*{_N} bytes"),
}
_MODEL = re.compile(rf"^Serialized model ([\w+.-]+):\s*{_N} bytes")
_TOTAL = re.compile(rf"^Total submission size ([\w+.-]+):\s*{_N} bytes|^budget:\s*{_N}/\d+ ")
_FILE_SEED = re.compile(r"seed[_-]?(\d{1,12})|_log_(\d{1,12})\.")
_PARAM = re.compile(r"^  (\w+): (\S.{0,200})$")
_PATHS = re.compile(
    r"^\s*(?:datasets_dir|val_files|data_path|val_loader:shards pattern=|train_loader:dataset)[:=]?\s*(\S+)"
)
_VOCABULARY = re.compile(r"\b(sp\d+|byte260|bytes)(?=[_/])")


@dataclass(frozen=True)
class Score:
    """One printed score: nats a token and bits a byte."""

    label: str
    loss: Sourced
    bpb: Sourced
    eval_ms: Sourced | None


@dataclass
class Log:
    """What a log says. ``numbers`` by name as in this module's patterns; ``models`` and ``totals`` in bytes.

    ``progress``: the last score printed while training, so before quantisation.
    """

    name: str
    scores: list[Score] = field(default_factory=list)
    progress: Score | None = None
    numbers: dict[str, Sourced] = field(default_factory=dict)
    models: list[Sourced] = field(default_factory=list)
    totals: list[Sourced] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)  # "  name: value", as newer logs print them
    dataset: str = ""
    case_operators: bool = False

    @property
    def seed(self) -> int | None:
        """The seed of its file name, else the one that it prints."""
        named = self.named_seed
        found = self.numbers.get("seed")
        return named if named is not None or found is None else int(found.value)

    @property
    def named_seed(self) -> int | None:
        """The seed of its file name."""
        found = _FILE_SEED.search(self.name.rpartition("/")[2])
        return int(found.group(1) or found.group(2)) if found else None

    @property
    def whole(self) -> bool:
        """Whether the run came to a final score; a log that broke off has none."""
        return bool(self.scores)

    def value(self, name: str) -> float | None:
        """The number of that name."""
        found = self.numbers.get(name)
        return None if found is None else found.value


def read_log(path: Path, name: str) -> Log:
    """Read a log of any length and state; ``name`` is its path from the checkout's top folder.

    Raises:
        DataError: the file can't be read.
    """
    log = Log(name)
    for number, raw in enumerate(read_text(path).split("\n"), 1):
        line = _STAMP.sub("", raw.rstrip("\r"))
        if len(line) <= LINE and any(character.isdigit() for character in line):
            _read_line(log, line, f"{name}:{number}")
    return log


def _read_line(log: Log, line: str, source: str) -> None:
    if match := _PROGRESS.match(line):
        log.progress = _score("during training", match.group(1), match.group(2), line, source) or log.progress
        return
    if _COLD.match(line):
        return
    if "val_bpb" in line and (match := _SCORE.match(line)):
        label = (match.group(2) or "") + match.group(1).strip()
        final = _score(label, match.group(3), match.group(4), line, source)
        log.scores += [final] if final else []
        return
    if match := _PARAM.match(line):
        log.params.setdefault(match.group(1), match.group(2))
    for name, pattern in _FIRST.items():
        if name not in log.numbers and (match := pattern.match(line)):
            log.numbers[name] = sourced(match.group(1), source)
    for name, pattern in _LAST.items():
        if match := pattern.match(line):
            log.numbers[name] = sourced(match.group(1), source)
    if match := _MODEL.match(line):
        log.models.append(sourced(match.group(2), source))
    elif match := _TOTAL.match(line):
        log.totals.append(sourced(match.group(2) or match.group(3), source))
    elif match := _PATHS.match(line):
        found = _VOCABULARY.search(match.group(1) + "/")
        log.dataset = log.dataset or (found.group(1) if found else "")
        log.case_operators = log.case_operators or "caseops" in match.group(1)
    elif re.match(r"^\s*caseops_enabled: True|^val_bpb:byte_sidecar:enabled", line):
        log.case_operators = True


def _score(label: str, loss: str, bpb: str, line: str, source: str) -> Score | None:
    """A score, unless it is none (a run that diverged prints zeros)."""
    nats, bits, took = sourced(loss, source), sourced(bpb, source), _EVAL.search(line)
    if not (nats.value > 0 and bits.value > 0):
        return None
    return Score(label, nats, bits, sourced(took.group(1), source) if took else None)


def implied_bytes(score: Score, tokens: float) -> tuple[float, float]:
    """Bytes of text that a score was divided by, and how far rounding may have moved that.

    bpb = loss / ln 2 x tokens / bytes, so loss, bpb and the number of tokens give the bytes away.
    """
    found = score.loss.value / math.log(2.0) * tokens / score.bpb.value
    return found, found * (score.loss.half_unit / score.loss.value + score.bpb.half_unit / score.bpb.value)
