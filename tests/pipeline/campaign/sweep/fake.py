"""A sweep's world without processes: a clock that only sleep moves, and a runner whose runs take its time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.campaign.sweep.candidates import Candidate, at_rung, configurations
from pipeline.campaign.sweep.journal import Outcome, State
from pipeline.campaign.sweep.plan import Plan, Shares
from pipeline.campaign.sweep.spec import Sweep


class Killed(BaseException):
    """What SIGKILL is to a process."""


@dataclass
class Clock:
    now: float = 1000.0
    wall: float = 1.7e9

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.wall + self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


@dataclass
class Runner:
    """Runs for ``seconds``; ``score`` gives a run's seeds, or its failure as text. ``store`` is what DVC would keep."""

    clock: Clock
    score: Callable[[Candidate], dict[int, float] | str]
    seconds: float = 10.0
    store: dict[str, Outcome] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    ended: list[str] = field(default_factory=list)
    most: int = 0
    alive: set[str] = field(default_factory=set)
    slots: list[int] = field(default_factory=list)

    def kept(self, candidate: Candidate) -> Outcome | None:
        return self.store.get(candidate.name)

    def start(self, candidate: Candidate, slot: int) -> Any:
        assert candidate.name not in self.store  # what is finished never runs again
        self.started.append(candidate.name)
        self.slots.append(slot)
        self.alive.add(candidate.name)
        self.most = max(self.most, len(self.alive))
        return candidate, self.clock.now

    def poll(self, run: Any) -> Outcome | None:
        candidate, begin = run
        if self.clock.now < begin + self.seconds:
            return None
        self.alive.discard(candidate.name)
        found = self.score(candidate)
        if isinstance(found, str):
            return Outcome(candidate.name, seconds=self.seconds, why=found, code=1)
        outcome = Outcome(candidate.name, found, 15_000_000, self.seconds, {"train": self.seconds - 1})
        self.store[candidate.name] = outcome
        return outcome

    def end(self, runs: list[Any]) -> None:
        self.ended += [candidate.name for candidate, _ in runs]
        self.alive -= {candidate.name for candidate, _ in runs}


def plan(sweep: Sweep, shares: Shares = lambda _: frozenset()) -> Plan:
    every = configurations(sweep)
    return Plan(sweep, [at_rung(sweep, "s", every, rung) for rung in range(max(1, len(sweep.rungs)))], shares)


def table(state: State) -> dict[str, tuple[dict[int, float], str]]:
    """What must be the same however often a sweep was killed."""
    return {name: (dict(one.scores), one.why) for name, one in sorted(state.outcomes.items())}
