"""The scorer under audit: its scores on the unchanged stream, and how much they vary without any change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from golf.runtime.errors import DataError, FairwayError, told
from golf.scoring.protocol import Event, Scorer
from golf.scoring.watch import watched

NOISE_FACTOR = 4.0  # a change counts when it exceeds the control run's noise so many times
FLOOR = 1e-6  # nats; below it, fp32 rounding
CEILING = 1e-2  # nats; noise must not hide more than that
RECOMPUTE = 1e-4  # nats; more is allowed between a score and the log of its entry in the distribution


@dataclass
class Subject:
    """A black box, run on the unchanged stream twice; ``measure`` fills what is not given.

    Attributes:
        make_scorer: gives a fresh scorer at each call.
        tokens: (T,) int64, the unchanged stream.
        vocab_size: V.
        bos_id: the token that begins a document.
        generator: source of all that is random.
        scores: (T-1,) float64 of the first run, as long as the scorer made it.
        trace: events of the first run.
        control_trace: events of the second.
        noise: nats, the largest difference between the two.
        fresh_noise: the same over the targets that were scored before anything was learnt.
        distributions: (V,) at each probed position, on the unchanged stream.
        others: (position, token, score) of tokens that stood at a probed position in a changed stream.
        loaded: a scorer needs no file to be made: it is watched from then on, else while it scores.
        read: files that scorers read.
    """

    make_scorer: Callable[[], Scorer]
    tokens: Tensor
    vocab_size: int
    bos_id: int
    generator: torch.Generator
    scores: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.float64))
    trace: Sequence[Event] = ()
    control_trace: Sequence[Event] = ()
    noise: float = 0.0
    fresh_noise: float = 0.0
    distributions: dict[int, Tensor] = field(default_factory=dict)
    others: list[tuple[int, int, float]] = field(default_factory=list)
    loaded: bool = False
    read: set[str] = field(default_factory=set)

    def measure(self) -> None:
        """Score the unchanged stream with two fresh scorers.

        Raises:
            DataError: the scorer raised.
        """
        try:
            self.scores, self.trace = self.run(self.tokens)
            control, self.control_trace = self.run(self.tokens)
        except FairwayError:
            raise
        except Exception as error:
            text = " ".join(str(error).split())[:200]
            refused = DataError(f"the scorer raised {type(error).__name__} on the real stream: {text}")
            raise told(error) or refused from error
        self.noise = gap(self.scores, control, 1, self.tokens.numel())
        learnt = [event for event in self.trace if event.kind == "update"]
        before = self.trace[: self.trace.index(learnt[0])] if learnt else self.trace
        self.fresh_noise = gap(self.scores, control, 1, max((event.stop for event in before), default=1))

    @property
    def tolerance(self) -> float:
        """Nats that two scores may lie apart when they must be equal."""
        return min(max(NOISE_FACTOR * self.noise, FLOOR), CEILING)

    def run(self, tokens: Tensor, make_scorer: Callable[[], Scorer] | None = None) -> tuple[Tensor, Sequence[Event]]:
        """Scores of ``tokens`` by a fresh scorer, be it of another maker, and its trace."""
        scorer = self._made(make_scorer or self.make_scorer)
        with watched(self.read):
            scores = torch.as_tensor(scorer.score(tokens.clone()))
        return scores.detach().to("cpu", torch.float64).flatten(), tuple(scorer.trace)

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """What a fresh scorer says that it scored ``tokens[position]`` with, float64, of whatever length it gives."""
        scorer = self._made(self.make_scorer)
        with watched(self.read):
            found = torch.as_tensor(scorer.distribution(tokens.clone(), position))
        return found.detach().to("cpu", torch.float64).flatten()

    def _made(self, make_scorer: Callable[[], Scorer]) -> Scorer:
        with watched(self.read if self.loaded else set()):
            return make_scorer()


def gap(one: Tensor, other: Tensor, start: int, stop: int) -> float:
    """Largest difference between two scorings of the targets [start, stop).

    A target that one of them lacks, or NaN, makes it infinite; what both lack is no difference.
    """
    a, b = one[start - 1 : stop - 1], other[start - 1 : stop - 1]
    if a.numel() != b.numel():
        return float("inf")
    difference = torch.where(a == b, 0.0, (a - b).abs())  # two equal infinities differ by nothing
    return float(torch.nan_to_num(difference, nan=float("inf")).max()) if a.numel() else 0.0
