"""The checks of an audit, one function each: (passed, one line of evidence).

docs/rules.md says which rule each one holds. What a scorer says of itself (its trace, its distributions) is only ever
used to look closer: every claim is held against scores of other streams.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor

from golf.scoring import probes
from golf.scoring.probes import Probes
from golf.scoring.protocol import Event, Scorer
from golf.scoring.subject import CEILING, FLOOR, NOISE_FACTOR, RECOMPUTE, Subject, gap

FRESH_NOISE = 1e-4  # nats; two fresh scorers agree so far before they have learnt anything
WORTH = 1e-3  # nats a token that rounding may be worth, a fifth of what a record must win by
ROUNDS = 0.05  # nats that it may move a score, on average

Outcome = tuple[bool, str]
Trial = tuple[str, Callable[[], float]]
"""What was changed, and a function that gives the difference it made, in nats."""


def _try(trials: Sequence[Trial], tolerance: float) -> Outcome:
    """Pass when no trial makes a difference above ``tolerance``; a scorer that raises on a changed stream fails."""
    worst = 0.0
    for label, difference in trials:
        try:
            found = difference()
        except Exception as error:
            return False, f"{label}: the scorer raised {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        if not found <= tolerance:
            return False, f"{label}: {found:.3g} nats apart, tolerance {tolerance:.2g}"
        worst = max(worst, found)
    return True, f"{len(trials)} trials, at most {worst:.2g} nats apart, tolerance {tolerance:.2g}"


def normalised(subject: Subject, probe: Probes) -> Outcome:
    """Each distribution covers the vocabulary, sums to 1, and its entry is the score; fills ``distributions``."""
    for position in probe.targets:
        try:
            found = subject.distribution(subject.tokens, position)
        except Exception as error:
            return False, f"position {position}: {type(error).__name__}: {' '.join(str(error).split())[:120]}"
        subject.distributions[position] = found
        defect = _defect(subject, position, found)
        if defect:
            return False, f"position {position}: {defect}"
    if bool((subject.scores > FLOOR).any()):
        return False, f"a log-probability of {float(subject.scores.max()):.4f}: above 0"
    worst = max(abs(float(found.sum()) - 1.0) for found in subject.distributions.values())
    return True, f"{len(probe.targets)} distributions, sums within {worst:.1g} of 1, entries as scored"


def _defect(subject: Subject, position: int, found: Tensor) -> str:
    """What is wrong with a distribution; empty: nothing."""
    if found.numel() != subject.vocab_size:
        return f"{found.numel()} entries, vocabulary {subject.vocab_size}"
    if not bool(torch.isfinite(found).all()) or float(found.min()) < 0:
        return "entries that are negative or not finite"
    if not abs(float(found.sum()) - 1.0) <= RECOMPUTE:
        return f"sums to {float(found.sum()):.6g}"
    entry = found[subject.tokens[position]].log().reshape(1)
    scored = subject.scores[position - 1 : position]
    if not gap(entry, scored, 1, 2) <= subject.tolerance + RECOMPUTE:
        return f"scored {scored.tolist()}, the distribution says {entry.tolist()}"
    return ""


def target(subject: Subject, probe: Probes) -> Outcome:
    """A distribution must not know the token it is asked about, and must be what any other there scores with."""

    def vector(position: int) -> float:
        stream = probes.replace_one(subject.tokens, position, subject.vocab_size, subject.generator)
        before, after = subject.distributions.get(position), subject.distribution(stream, position)
        if before is None or before.numel() != after.numel():
            return float("inf")
        return gap(before.clamp_min(1e-12).log(), after.clamp_min(1e-12).log(), 1, before.numel() + 1)

    def other_token(position: int, token: int, scored: float) -> float:
        known = subject.distributions.get(position)
        if known is None or known.numel() != subject.vocab_size:
            return float("inf")
        difference = abs(float(known[token].log()) - scored)
        return float("inf") if math.isnan(difference) else max(difference - RECOMPUTE, 0.0)

    trials: list[Trial] = [
        (f"distribution at {position}, its token replaced", partial(vector, position)) for position in probe.targets
    ]
    trials += [
        (f"score of token {token} at {position}, against its entry", partial(other_token, position, token, scored))
        for position, token, scored in subject.others
    ]
    return _try(trials, subject.tolerance)


def future(subject: Subject, probe: Probes) -> Outcome:
    """Random tokens from a position on change no score before it; fills ``others``."""

    def difference(cut: int) -> float:
        stream = probes.replace_from(subject.tokens, cut, subject.vocab_size, subject.generator)
        scores, _ = subject.run(stream)
        if cut in subject.distributions and scores.numel() >= cut:
            subject.others.append((cut, int(stream[cut]), float(scores[cut - 1])))
        return gap(subject.scores, scores, 1, cut)

    trials: list[Trial] = [(f"scores before {cut}, random from there", partial(difference, cut)) for cut in probe.cuts]
    return _try(trials, subject.tolerance)


def truncation(subject: Subject, probe: Probes) -> Outcome:
    """A stream that ends early scores as its part of the whole."""

    def difference(length: int) -> float:
        scores, _ = subject.run(subject.tokens[:length])
        return gap(subject.scores[: length - 1], scores, 1, max(length, scores.numel() + 1))

    trials: list[Trial] = [
        (f"the first {length} tokens alone", partial(difference, length)) for length in probe.lengths
    ]
    return _try(trials, subject.tolerance)


def document_order(subject: Subject, probe: Probes, independent: bool, order: str) -> Outcome:
    """Later documents in another order change no earlier score; where claimed, no document changes another's.

    An ``order`` that is not the file's fails by its name, whatever the sample shows.
    """
    tokens, start, count = subject.tokens, probe.document, subject.tokens.numel()

    def reordered() -> float:
        stream = probes.reorder(tokens, start, subject.bos_id, subject.generator)
        return gap(subject.scores, subject.run(stream)[0], 1, start)

    def isolated() -> float:
        stream = probes.replace_before(tokens, start, subject.bos_id, subject.vocab_size, subject.generator)
        return gap(subject.scores, subject.run(stream)[0], start + 1, count)

    trials: list[Trial] = [(f"scores before the document at {start}, later ones reordered", reordered)]
    if independent and int(tokens[start]) == subject.bos_id:
        trials.append((f"scores from the document at {start}, earlier ones replaced", isolated))
    passed, evidence = _try(trials, subject.tolerance)
    if order != "file":
        return False, f"eval.order={order}, documents are not scored in the file's order; {evidence}"
    return passed, evidence


def score_first(subject: Subject) -> Outcome:
    """By the trace, nothing is learnt before it is scored; by two fresh scorers, nothing was learnt before the run.

    Nor is anything read from a file.
    """
    if subject.read:
        more = f" and {len(subject.read) - 1} more" if len(subject.read) > 1 else ""
        return False, f"the scorer read {min(subject.read)}{more}: needed the artifact and the stream alone"
    if subject.fresh_noise > FRESH_NOISE or NOISE_FACTOR * subject.noise > CEILING:
        return False, f"two fresh scorers are {subject.noise:.3g} nats apart on the same stream: state carried over"
    if not subject.trace or not subject.control_trace:
        return False, "the trace is empty"
    if subject.trace[0].state != subject.control_trace[0].state:
        return False, "two fresh scorers begin in different states"
    early = _learnt_early(subject.trace, subject.tokens.numel())
    if early:
        return False, early
    updates = sum(event.kind == "update" for event in subject.trace)
    return True, f"{updates} updates, each after its scores; control runs {subject.noise:.2g} nats apart"


def _learnt_early(trace: Sequence[Event], tokens: int) -> str:
    """What a trace shows to be learnt before it is scored, or learnt without a word; empty: nothing."""
    scored = torch.zeros(tokens + 1, dtype=torch.bool)
    state = trace[0].state
    for event in trace:
        if event.kind == "score":
            if event.state != state:
                return f"targets from {event.start} were scored in a state that no update left"
            scored[event.start : event.stop] = True
        elif not bool(scored[event.start : event.stop].all()):
            first = event.start + int((~scored[event.start : event.stop]).nonzero()[0])
            return f"position {first} was learnt before it was scored"
        state = event.state
    return ""


def once(subject: Subject) -> Outcome:
    """No target is scored twice, and scoring goes left to right."""
    wanted = subject.tokens.numel() - 1
    if subject.scores.numel() > wanted:
        return False, f"{subject.scores.numel()} scores for {wanted} targets"
    events = [event for event in subject.trace if event.kind == "score"]
    times = _times_scored(events, subject.tokens)
    if bool((times > 1).any()):
        first = int((times > 1).nonzero()[0])
        return False, f"{int((times > 1).sum())} targets scored more than once, the first at {first}"
    for before, after in pairwise(events):
        if after.start < before.start:
            return False, f"targets from {after.start} were scored after those from {before.start}"
    return True, f"{len(events)} score events, left to right, none overlaps"


def coverage(subject: Subject) -> Outcome:
    """Every target has a finite score, and the trace says when it got it."""
    wanted = subject.tokens.numel() - 1
    if subject.scores.numel() < wanted:
        return False, f"{subject.scores.numel()} scores for {wanted} targets"
    if not bool(torch.isfinite(subject.scores).all()):
        first = int((~torch.isfinite(subject.scores)).nonzero()[0]) + 1
        return False, f"position {first} has no finite score"
    outside = [event for event in subject.trace if not 1 <= event.start < event.stop <= wanted + 1]
    if outside:
        return False, f"event over [{outside[0].start}, {outside[0].stop}), targets are [1, {wanted + 1})"
    times = _times_scored([event for event in subject.trace if event.kind == "score"], subject.tokens)
    missing = (times[1:] == 0).nonzero()
    if missing.numel():
        return False, f"{missing.numel()} of {wanted} targets were never scored, the first at {int(missing[0]) + 1}"
    return True, f"{wanted} targets, all scored"


def _times_scored(events: Sequence[Event], tokens: Tensor) -> Tensor:
    """(T,) int64: score events over each position."""
    times = torch.zeros(tokens.numel(), dtype=torch.int64)
    for event in events:
        times[max(event.start, 0) : max(event.stop, 0)] += 1
    return times


def byte_counts(tokens: Tensor, counted: Tensor | None, recount: Tensor | None) -> Outcome:
    """The evaluation's bytes of each target are those of an independent count."""
    if counted is None:
        return True, "no byte counts were given: nothing to check"
    counted = counted.to("cpu", torch.int64)
    if counted.numel() != tokens.numel() - 1 or int(counted.min()) < 0 or int(counted.sum()) <= 0:
        return False, f"{counted.numel()} byte counts, in all {int(counted.sum())}, for {tokens.numel() - 1} targets"
    if recount is None:
        return True, f"{int(counted.sum())} bytes; no independent count was given"
    recount = recount.to("cpu", torch.int64)
    if counted.shape != recount.shape:
        return False, f"{counted.numel()} byte counts, recounted {recount.numel()}"
    wrong = (counted != recount).nonzero()
    if wrong.numel():
        first = int(wrong[0])
        return False, (
            f"{int(counted.sum())} bytes, recounted {int(recount.sum())}; the first of {wrong.numel()} differences at "
            f"{first + 1}: {int(counted[first])} for {int(recount[first])}"
        )
    return True, f"{int(counted.sum())} bytes, recounted the same"


def as_run(subject: Subject, make_scorer: Callable[[], Scorer] | None) -> Outcome:
    """Rounding apart, what makes the score scores as what was audited: on average neither better nor worse.

    The mean difference may exceed :data:`WORTH` by three standard errors: a sample is finite, rounding has no sign.
    """
    if make_scorer is None:
        return True, "what makes the score is what was audited"
    try:
        scores, _ = subject.run(subject.tokens, make_scorer)
    except Exception as error:
        return False, f"the scorer raised {type(error).__name__}: {' '.join(str(error).split())[:120]}"
    if scores.shape != subject.scores.shape:
        return False, f"{scores.numel()} scores, audited {subject.scores.numel()}"
    better = scores - subject.scores
    mean, moved = float(better.mean()), float(better.abs().mean())
    allowed = WORTH + 3.0 * float(better.std(correction=0)) / math.sqrt(better.numel())
    evidence = f"{mean:+.2g} nats a token better than audited, tolerance {allowed:.2g}; moved by {moved:.2g} on average"
    return abs(mean) <= allowed and moved <= ROUNDS, evidence
