"""What a sweep does next, given its journal: nothing here runs, reads a clock or a file.

A plain grid, list or draw has no order among its candidates, and a score tells nothing about another's: nothing sound
can be said about a candidate that has not run, so every one of them runs. Successive halving (Jamieson and Talwalkar,
2016) is where candidates can be shown beaten: all run on a small resource, the best share goes on to the next, larger
one. It takes the order at one rung for the order at the next, and the noise floor says which part of an order is
certain: who is behind the best of a finished rung by more than the smallest difference that the runs' seeds detect is
dropped whatever its rank. Once that leaves the best alone, the remaining rungs have nothing to decide, and the sweep
ends. With one seed a candidate, or without a measured floor, the rank alone decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from pipeline.campaign.sweep.candidates import Candidate
from pipeline.campaign.sweep.journal import State
from pipeline.campaign.sweep.spec import Sweep

Shares = Callable[[Candidate], frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Start:
    """Run this candidate now."""

    candidate: Candidate


@dataclass(frozen=True)
class Judge:
    """Measure the noise floor: this rung is complete."""

    rung: int


@dataclass(frozen=True)
class Wait:
    """Until a run ends."""


@dataclass(frozen=True)
class Stop:
    """Nothing more is to do (``complete``), or nothing more may be done; what still runs is ended."""

    reason: str
    complete: bool = False


Step = Start | Judge | Wait | Stop


@dataclass(frozen=True)
class Plan:
    """A sweep with its candidates by rung; ``shares``: the stages of a candidate, each with what decides its result."""

    sweep: Sweep
    rungs: Sequence[Sequence[Candidate]]
    shares: Shares = lambda _: frozenset()

    def next(self, state: State, running: Collection[str], slots: int, price: float) -> Step:
        """The next step; ``state`` counts this session's time up to now, ``price`` is dollars an hour."""
        left, budget = self._left(state, price)
        if left <= 0:
            return Stop(f"the {budget} is spent")
        if state.streak >= self.sweep.failures:
            # what runs beside the failed ones may still break the streak
            return Wait() if running else Stop(
                f"{state.streak} failures in a row; the last: {state.last_failure}"
            )  # fmt: skip
        for rung in range(len(self.rungs)):
            step = self._at(rung, state, running, slots)
            if step is not None:
                return self._affordable(step, state, running, left, budget)
        finished = sum(outcome.done for outcome in state.outcomes.values())
        return Stop(f"complete: {finished} of {len(state.outcomes)} runs have a score", complete=True)

    def entrants(self, rung: int, state: State) -> list[Candidate]:
        """Who runs at ``rung``, as far as the earlier ones are judged."""
        if rung == 0:
            return list(self.rungs[0])
        if rung - 1 not in state.margins:
            return []
        kept = {candidate.index for candidate in self._kept(rung - 1, state)}
        return [candidate for candidate in self.rungs[rung] if candidate.index in kept]

    def _at(self, rung: int, state: State, running: Collection[str], slots: int) -> Step | None:
        """The step that ``rung`` asks for; None once it is over."""
        entrants = self.entrants(rung, state)
        pending = [one for one in entrants if one.name not in state.outcomes and one.name not in running]
        if pending and len(running) < slots:
            ready = next((one for one in pending if self._alone(one, entrants, state, running)), None)
            return Wait() if ready is None else Start(ready)
        if pending or running:
            return Wait()
        return self._ended(rung, entrants, state)

    def _ended(self, rung: int, entrants: Sequence[Candidate], state: State) -> Step | None:
        """What follows from a complete rung; None: the next one, or the end."""
        if rung == len(self.rungs) - 1:
            return None
        if rung not in state.margins:
            return Judge(rung)
        scored, kept = self._scored(rung, state), self._kept(rung, state)
        place = f"rung {rung + 1} of {len(self.rungs)}"
        if not kept:
            return Stop(f"no candidate of {place} has a score")
        if len(kept) == 1 < min(self._quota(len(entrants)), len(scored)):
            gap = state.outcomes[scored[1].name].mean - state.outcomes[scored[0].name].mean
            return Stop(
                f"the remaining candidates cannot beat {scored[0].name} within the noise floor: at {place} the next "
                f"is {gap:.5f} bpb behind, and {state.margins[rung]:.5f} is detectable",
                complete=True,
            )
        return None

    def _scored(self, rung: int, state: State) -> list[Candidate]:
        """Those with a score at ``rung``, the best first; of equals the earlier."""
        scored = [one for one in self.entrants(rung, state) if one.name in state.outcomes
                  and state.outcomes[one.name].done]  # fmt: skip
        return sorted(scored, key=lambda one: (state.outcomes[one.name].mean, one.index))

    def _kept(self, rung: int, state: State) -> list[Candidate]:
        scored = self._scored(rung, state)
        best = scored[: self._quota(len(self.entrants(rung, state)))]
        margin = state.margins[rung]
        if margin is None or not best:
            return best
        limit = state.outcomes[best[0].name].mean + margin
        return [one for one in best if state.outcomes[one.name].mean <= limit]

    def _quota(self, entrants: int) -> int:
        return max(1, math.ceil(entrants * self.sweep.keep - 1e-9))

    def _alone(
        self, candidate: Candidate, entrants: Sequence[Candidate], state: State, running: Collection[str]
    ) -> bool:
        """Whether no stage of the candidate is being computed by another one, as far as it is known to be kept.

        Beside each other both would compute it; one after another, DVC's run-cache restores it.
        """
        if not running:
            return True
        mine = self.shares(candidate)
        kept: set[tuple[str, str]] = set()
        for rung in self.rungs:
            for one in rung:
                if one.name in state.outcomes and state.outcomes[one.name].done:
                    kept |= self.shares(one)
        busy = {share for one in entrants if one.name in running for share in self.shares(one)}
        return not (mine & busy) - kept

    def _left(self, state: State, price: float) -> tuple[float, str]:
        """Seconds that the tighter budget leaves, and its name."""
        found = [(math.inf, "")]
        if self.sweep.hours:
            found.append((self.sweep.hours * 3600 - state.seconds, f"budget of {self.sweep.hours:g} hours"))
        if self.sweep.dollars and price:
            left = (self.sweep.dollars - state.dollars) / price * 3600
            found.append((left, f"budget of {self.sweep.dollars:g} dollars"))
        return min(found)

    def _affordable(self, step: Step, state: State, running: Collection[str], left: float, budget: str) -> Step:
        """Not to begin what not even the shortest run of its rung would have ended in time."""
        if not isinstance(step, Start):
            return step
        known = [state.outcomes[one.name] for one in self.rungs[step.candidate.rung] if one.name in state.outcomes]
        shortest = min((one.seconds for one in known if one.done and not one.found), default=0.0)
        if shortest <= left:
            return step
        if running:
            return Wait()
        return Stop(f"the {budget} has {left:.0f} seconds left, and the shortest run took {shortest:.0f}")
