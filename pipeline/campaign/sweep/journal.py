"""The journal of a sweep: one JSON object a line, on the disk before anything goes on, and what it adds up to.

    {"event": "sweep", ...}     what is swept, over which state of code and parameters
    {"event": "session", ...}   a process began: slots, price
    {"event": "retry"}          failed runs may run again
    {"event": "start", "run"}   an experiment began
    {"event": "finish", "run"}  it ended: scores by seed, or why it failed
    {"event": "floor", "rung"}  the margin by which a rung was judged
    {"event": "beat"}           the process still runs

Every line has ``time`` (the wall clock, to read) and ``at`` (seconds of the session by the monotonic clock). Budgets
count ``at`` alone: a clock that is set back or forward changes nothing. What a killed session ran after its last line
is lost to the count, which is why there are beats.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from golf.runtime.errors import DataError

Record = Mapping[str, Any]
KINDS = ("sweep", "session", "retry", "start", "finish", "floor", "beat")


@dataclass(frozen=True)
class Outcome:
    """How a run ended. ``scores``: bits a byte by seed, none if it failed; ``seconds``: of this machine's time, with
    ``stages``, those really run; ``why`` and ``code``: of a failure; ``found``: kept from before, nothing was run."""

    run: str
    scores: Mapping[int, float] = field(default_factory=dict)
    total_bytes: int | None = None
    seconds: float = 0.0
    stages: Mapping[str, float] = field(default_factory=dict)
    why: str = ""
    code: int = 0
    dollars: float | None = None
    found: bool = False

    @property
    def done(self) -> bool:
        """Whether there is a score."""
        return bool(self.scores)

    @property
    def mean(self) -> float:
        """Bits a byte over the seeds; of a failed run infinity."""
        return sum(self.scores.values()) / len(self.scores) if self.scores else float("inf")


@dataclass(frozen=True)
class Session:
    """One process: seconds until its last line, jobs at once, dollars an hour (0: not known)."""

    seconds: float
    slots: int
    price: float


@dataclass(frozen=True)
class State:
    """What a journal adds up to. ``streak``: failures since a run succeeded; ``margins``: of judged rungs, in bits a
    byte, None where nothing is known; ``begun``: runs that started and did not end."""

    header: Record | None = None
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    begun: frozenset[str] = frozenset()
    streak: int = 0
    last_failure: str = ""
    margins: Mapping[int, float | None] = field(default_factory=dict)
    sessions: tuple[Session, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all sessions."""
        return sum(session.seconds for session in self.sessions)

    @property
    def dollars(self) -> float:
        """Of all sessions, each at its price."""
        return sum(session.seconds * session.price / 3600 for session in self.sessions)


def fold(records: Iterable[Record]) -> State:
    """The state after these records."""
    header: Record | None = None
    outcomes: dict[str, Outcome] = {}
    begun: set[str] = set()
    margins: dict[int, float | None] = {}
    sessions: list[Session] = []
    streak, last = 0, ""
    for record in records:
        kind = record["event"]
        if kind == "sweep":
            header = record
        elif kind == "session":
            sessions.append(Session(0.0, record["slots"], record["price"]))
        elif kind == "start":
            begun.add(record["run"])
        elif kind == "floor":
            margins[record["rung"]] = record["margin"]
        elif kind == "retry":
            outcomes = {name: outcome for name, outcome in outcomes.items() if outcome.done}
            streak, last = 0, ""
        elif kind == "finish":
            outcome = _outcome(record)
            outcomes[outcome.run] = outcome
            begun.discard(outcome.run)
            streak = 0 if outcome.done else streak + 1
            last = last if outcome.done else f"{outcome.run}: {outcome.why}"
        if sessions:
            final = sessions[-1]
            sessions[-1] = Session(max(final.seconds, record["at"]), final.slots, final.price)
    return State(header, outcomes, frozenset(begun), streak, last, margins, tuple(sessions))


def _outcome(record: Record) -> Outcome:
    return Outcome(
        record["run"], {int(seed): value for seed, value in record["scores"].items()}, record["total_bytes"],
        record["seconds"], record["stages"], record["why"], record["code"], record["dollars"], record["found"],
    )  # fmt: skip


def finish_record(outcome: Outcome) -> dict[str, Any]:
    """The record of an outcome."""
    content = {"event": "finish", **vars(outcome)}
    return {**content, "scores": {str(seed): value for seed, value in outcome.scores.items()}}


def read(path: Path) -> list[Record]:
    """The whole lines of a journal; a last one that a kill cut off is left out. No file: none.

    Raises:
        DataError: a line that is not the last is no record.
    """
    raw = path.read_bytes() if path.is_file() else b""
    records: list[Record] = []
    for number, line in enumerate(raw.split(b"\n")[:-1], 1):  # what follows the last newline was never whole
        try:
            record = json.loads(line)
            if (
                not isinstance(record, dict)
                or not isinstance(record.get("at"), (int, float))
                or record["event"] not in KINDS
            ):
                raise ValueError("no record of a sweep")
            if record["event"] == "sweep" and not {"spec", "state", "branch"} <= record.keys():
                raise ValueError("the head of something else")
            fold([record])  # what it lacks, a foreign file lacks
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path}:{number}: {error}: damaged, needed one JSON object a line",
                hint=f"mv {path} {path}.damaged; finished experiments are found again by their names",
            ) from None
        records.append(record)
    return records


class Journal:
    """A journal open for this session; ``records`` are those on the disk."""

    def __init__(self, path: Path, clock: Any = time) -> None:
        self.path, self.clock, self.begin = path, clock, clock.monotonic()
        self.records = read(path)
        self._folded, self._session = (0, State()), False
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        whole = path.read_bytes().rfind(b"\n") + 1
        os.ftruncate(self._descriptor, whole)  # else the next record would continue the half-written one
        os.lseek(self._descriptor, 0, os.SEEK_END)

    @property
    def now(self) -> float:
        """Seconds of this session."""
        return float(self.clock.monotonic() - self.begin)

    @property
    def state(self) -> State:
        """What the records add up to, with this session's time up to now."""
        if self._folded[0] != len(self.records):
            self._folded = (len(self.records), fold(self.records))
        state = self._folded[1]
        if not self._session:
            return state
        *before, ours = state.sessions
        return replace(state, sessions=(*before, replace(ours, seconds=max(ours.seconds, self.now))))

    def append(self, event: str, **content: Any) -> None:
        """Write one record to the disk. A session begins with its own: what it waited for before spends no budget."""
        if event == "session":
            self.begin = self.clock.monotonic()
        stamp = {"time": round(self.clock.time(), 3), "at": round(self.now, 3)}
        record = {"event": event, **content, **stamp}
        rest = (json.dumps(record) + "\n").encode()
        try:
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]
            os.fsync(self._descriptor)
        except OSError as error:  # a full disk; what was half written is left out the next time
            raise OSError(error.errno, error.strerror, str(self.path)) from None
        self.records.append(record)
        self._session |= event == "session"

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)
