"""What a scorer is, and what an audit of it says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Event:
    """One thing that a scorer did, over the target positions [start, stop) of the stream.

    Attributes:
        kind: ``score``: these targets got their log-probability; ``update``: these targets were learnt from.
        start: first position in the stream, 1 or more: position 0 is never a target.
        stop: the position after the last.
        state: digest of everything that adapts: before the scoring, after the update.
    """

    kind: Literal["score", "update"]
    start: int
    stop: int
    state: str


class Scorer(Protocol):
    """Scores one token stream left to right, from the artifact's weights, adapting only to what it has scored."""

    def score(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) float64: natural-log probability of tokens[1:], each scored exactly once."""
        ...

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """(V,) float64: the whole distribution that scored tokens[position], given this stream up to there."""
        ...

    @property
    def trace(self) -> Sequence[Event]:
        """What the last :meth:`score` scored and learnt, in order."""
        ...


class Evaluator(Scorer, Protocol):
    """A :class:`Scorer` that tells what its last score took."""

    @property
    def adapted(self) -> int:
        """Parts of the stream that were learnt from."""
        ...

    @property
    def waited(self) -> float:
        """Seconds of standing idle until every rank was done."""
        ...

    def parts(self, tokens: Tensor) -> int:
        """How many parts there are to learn from."""
        ...


class HintedScorer(Evaluator, Protocol):
    """One that says what it thinks of other tokens than the targets, too.

    Attributes:
        deadline: moment of ``time.monotonic()`` by which all shall be scored.
    """

    deadline: float

    def score_beside(self, tokens: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`Scorer.score`, and (T-1,) float64: log-probability of hints[1:], given ``hints`` (T,) int64."""
        ...


class ByteCounter(Protocol):
    """Bytes of text that targets stand for: :class:`golf.data.bytecount.ByteTable`, or a sidecar's counts."""

    @property
    def vocab_size(self) -> int:
        """Number of token ids; 0: not known."""
        ...

    def count(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) int64: bytes of tokens[1:]."""
        ...


@dataclass(frozen=True)
class Finding:
    """The outcome of one check: ``evidence`` is one line, with the numbers that decided."""

    name: str
    passed: bool
    evidence: str


@dataclass(frozen=True)
class AuditReport:
    """One finding a check, in the order of :data:`golf.scoring.audit.CHECKS`."""

    findings: tuple[Finding, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(finding.passed for finding in self.findings)

    @property
    def failed(self) -> tuple[str, ...]:
        """Names of the checks that failed."""
        return tuple(finding.name for finding in self.findings if not finding.passed)

    def __getitem__(self, name: str) -> Finding:
        """The finding of the check ``name``."""
        for finding in self.findings:
            if finding.name == name:
                return finding
        raise KeyError(name)

    def to_dict(self) -> dict[str, Any]:
        """JSON: ``{passed, checks: {name: {passed, evidence}}}``."""
        checks = {item.name: {"passed": item.passed, "evidence": item.evidence} for item in self.findings}
        return {"passed": self.passed, "checks": checks}
