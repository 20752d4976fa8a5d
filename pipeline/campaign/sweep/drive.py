"""The loop between plan and runs: what the plan says is done, what happens is written down before the next step."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol

from pipeline.campaign.sweep.candidates import Candidate
from pipeline.campaign.sweep.journal import Journal, Outcome, finish_record
from pipeline.campaign.sweep.plan import Judge, Plan, Start, Stop

POLL = 0.2  # seconds between looks at what runs
BEAT = 30.0  # seconds of a session that a kill can take from the count


class Runner(Protocol):
    """What runs experiments; :class:`pipeline.campaign.sweep.run.DvcRunner`, or a test's."""

    def kept(self, candidate: Candidate) -> Outcome | None:
        """The result of a run that ended without being written down."""

    def start(self, candidate: Candidate, slot: int) -> Any:
        """Begin a run on a free slot."""

    def poll(self, run: Any) -> Outcome | None:
        """How it ended; None while it runs."""

    def end(self, runs: list[Any]) -> None:
        """End these runs and wait until they are gone."""


def drive(
    plan: Plan,
    journal: Journal,
    runner: Runner,
    *,
    slots: int,
    price: float = 0.0,
    margin: Callable[[Plan, int], float | None] = lambda _plan, _rung: None,
    tell: Callable[[str], None] = lambda _: None,
    clock: Any = time,
) -> Stop:
    """Go on with the sweep until it is complete or must stop; whatever interrupts it ends the runs first."""
    journal.append("session", slots=slots, price=price)
    running: dict[str, tuple[Any, int]] = {}
    beat = journal.now
    try:
        while True:
            for name, (run, _) in list(running.items()):
                if (outcome := runner.poll(run)) is not None:
                    del running[name]
                    _finish(journal, replace(outcome, dollars=_share(outcome.seconds, price, slots)), tell)
            step = plan.next(journal.state, running, slots, price)
            if isinstance(step, Stop):
                return step
            if isinstance(step, Start):
                _start(step.candidate, journal, runner, running, slots, tell)
            elif isinstance(step, Judge):
                found = margin(plan, step.rung)
                journal.append("floor", rung=step.rung, margin=found)
                known = "not known: by rank alone" if found is None else f"{found:.5f} bpb"
                tell(f"rung {step.rung + 1} of {len(plan.rungs)} is complete; detectable: {known}")
            else:
                clock.sleep(POLL)
                if journal.now - beat > BEAT:
                    beat = journal.now
                    journal.append("beat")
    finally:
        runner.end([run for run, _ in running.values()])


def _start(
    candidate: Candidate, journal: Journal, runner: Runner, running: dict[str, tuple[Any, int]], slots: int,
    tell: Callable[[str], None],
) -> None:  # fmt: skip
    kept = runner.kept(candidate)
    if kept is not None:
        _finish(journal, replace(kept, found=True), tell)
        return
    slot = min(set(range(slots)) - {used for _, used in running.values()})
    journal.append("start", run=candidate.name, overrides=list(candidate.overrides), slot=slot)
    tell(f"{candidate.name}: begins: {' '.join(candidate.overrides) or 'as params.yaml is'}")
    running[candidate.name] = (runner.start(candidate, slot), slot)


def _finish(journal: Journal, outcome: Outcome, tell: Callable[[str], None]) -> None:
    content = finish_record(outcome)
    journal.append(content.pop("event"), **content)
    said = f"{outcome.mean:.5f} bpb" if outcome.done else f"failed: {outcome.why}"
    tell(f"{outcome.run}: {said}, {'kept from before' if outcome.found else f'{outcome.seconds:.0f} s'}")


def _share(seconds: float, price: float, slots: int) -> float | None:
    """Dollars of a run on one of ``slots``; None without a price."""
    return seconds * price / 3600 / slots if price else None
