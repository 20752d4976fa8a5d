"""A scorer whose distributions are tilted towards what the stream said after the same words before."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from golf.scoring import hints
from golf.scoring.protocol import Event, HintedScorer
from golf.scoring.tilt import Tilt, blocks, log_sum

TILT_SHARE = 0.5  # of the seconds of the hints that the tilt takes at most: 0.29 of 100,000 targets, 0.09 of 8 million


class TiltedScorer:
    """The scores of ``base``, tilted; what ``base`` learns knows nothing of it.

    The base scores the stream first, on all ranks, and says what it thought of each hint. The tilt then goes over the
    gathered scores from the first to the last, on every rank the same: a block is tilted by what the blocks before it
    taught, then learnt from. That this comes after the base's pass changes nothing: hints and blocks are functions of
    the tokens before them, and the base's scores are what they are without a tilt.

    The trace is that order: the base's events, with each of its score events cut where a block begins and an update by
    the block before put there. A state is that of the base and that of the tilt together.

    Args:
        base: a scorer that scores hints too.

    Attributes, of the last :meth:`score`:
        untilted: (T-1,) float64: what the base gave.
        trace: what was done, in the stream's order; empty where the base keeps no trace.
        adapted: parts that the base learnt from.
        waited: seconds that the base waited for other ranks.
    """

    untilted: Tensor
    trace: Sequence[Event] = ()
    adapted = 0
    waited = 0.0

    def __init__(self, base: HintedScorer) -> None:
        self.base = base

    def parts(self, tokens: Tensor) -> int:
        """How many parts the base has to learn from."""
        return self.base.parts(tokens)

    def score(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) float64 on the CPU: log-probability of tokens[1:] under the tilted distributions.

        Raises:
            DataError: as the base's.
        """
        scores, self.untilted, states, _ = self._score(tokens)
        self.trace = interleave(self.base.trace, states)
        self.adapted, self.waited = self.base.adapted, self.base.waited
        return scores

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """(V,) float64: the base's for ``tokens[position]``, tilted by what the blocks before it taught."""
        p = self.base.distribution(tokens, position).to(torch.float64)
        *_, (start, _) = blocks(position)
        tilt = self._score(tokens[: start + 1])[-1] if start else Tilt()
        found = hints.find(tokens[: position + 1].cpu().numpy())  # its own token is not read for its hint
        hint, kind = found.ids[position:], found.kinds[position:]
        if kind[0] < 0:
            return p
        log_q = p[hint].log().numpy()
        beta = tilt.beta_of(log_q, kind)
        p[hint] *= float(np.exp(beta[0]))
        return p / float(np.exp(log_sum(log_q, beta)[0]))

    def _score(self, tokens: Tensor) -> tuple[Tensor, Tensor, list[tuple[int, str]], Tilt]:
        """Scores, the base's, for each block its first target and the tilt's state then, the tilt after the last."""
        begun = time.monotonic()
        found = hints.find(tokens.cpu().numpy())
        deadline = self.base.deadline  # what comes behind the base's pass is left time
        self.base.deadline -= TILT_SHARE * (time.monotonic() - begun)
        untilted, log_of_hints = self.base.score_beside(tokens, torch.from_numpy(found.ids))
        self.base.deadline = deadline
        places = np.flatnonzero(found.kinds >= 0) - 1  # among the scores; position 0 has no hint
        log_q, kinds = log_of_hints.numpy()[places], found.kinds[places + 1]
        right = (found.ids == tokens.cpu().numpy())[places + 1]
        change, tilt, states = np.zeros(places.size), Tilt(), []
        for start, stop in blocks(tokens.numel() - 1):
            states.append((start + 1, tilt.digest()))
            block = slice(*np.searchsorted(places, (start, stop)))
            beta = tilt.beta_of(log_q[block], kinds[block])
            change[block] = beta * right[block] - log_sum(log_q[block], beta)
            tilt.learn(log_q[block], kinds[block], right[block])
        scores = untilted.clone()
        scores[places] += torch.from_numpy(change)
        return scores, untilted, states, tilt


def interleave(events: Sequence[Event], states: Sequence[tuple[int, str]]) -> list[Event]:
    """A scorer's ``events`` with the tilt's among them.

    Args:
        events: of the base.
        states: for each block its first target and the digest of the tilt that scores it.

    Returns:
        score events cut at the blocks' starts; before the first piece of a block, the update that the block before it
        taught. It carries the state that the base was left in, not the one it scores with: were they to differ, which
        would be a fault of the base, the trace still shows it.
    """
    merged: list[Event] = []
    block, left = 0, events[0].state if events else ""
    for event in events:
        start = event.start
        while event.kind == "score" and start < event.stop:
            while block + 1 < len(states) and states[block + 1][0] <= start:
                block += 1
                merged.append(Event("update", states[block - 1][0], states[block][0], _joint(left, states[block][1])))
            ends = states[block + 1][0] if block + 1 < len(states) else event.stop
            stop = min(event.stop, ends)
            merged.append(replace(event, start=start, stop=stop, state=_joint(event.state, states[block][1])))
            start = stop
        if event.kind == "update":
            merged.append(replace(event, state=_joint(event.state, states[block][1])))
        left = event.state
    return merged


def _joint(base: str, tilt: str) -> str:
    return hashlib.sha256((base + tilt).encode()).hexdigest()[:32]
