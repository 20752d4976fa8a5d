"""The two scorers that ship, both through the model's one forward pass.

:class:`SlidingScorer` never adapts. :class:`TestTimeTrainer` scores a chunk, then trains on it, then scores the next
with what it learnt (score-first test-time training, the form that the public records settled on).

The learning rate is the same for every chunk. The records let it fall along a cosine over the number of chunks, but
then each score depends on how long the stream will turn out to be, which is information from the future: scoring a
prefix alone would give other numbers than scoring it as part of the whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from golf.params.eval import Eval
from golf.runtime.progress import Progress
from golf.scoring.bpb import Total, total
from golf.scoring.document_scorer import DocumentScorer
from golf.scoring.learner import (
    Beside,
    Learner,
    OnScored,
    check_stream,
    gather,
    has_time,
    meet,
    ranks,
    refuse_infinite,
)
from golf.scoring.protocol import ByteCounter, Evaluator, Event
from golf.scoring.recorded import forward_of
from golf.scoring.state import digest
from golf.scoring.tilted import TiltedScorer
from golf.scoring.windows import Forward, Windows


@dataclass(frozen=True)
class Chunk:
    """Windows [first, stop) score the targets [start, end); then [learn_start, learn_stop) is trained on, if any."""

    first: int
    stop: int
    start: int
    end: int
    learn_start: int = 0
    learn_stop: int = 0

    def batches(self, rows: int) -> Iterator[tuple[int, int]]:
        """Windows [first, stop) in batches of at most ``rows``."""
        for first in range(self.first, self.stop, rows):
            yield first, min(first + rows, self.stop)


class SlidingScorer:
    """Sliding windows of ``config.seq_len``; with ``stride == seq_len`` they do not overlap.

    Args:
        model: ``forward(tokens, targets)`` as :class:`golf.model.transformer.Transformer`; it is left unchanged.
        config: the eval section; ``ttt*`` is not read.
        stride: targets a window scores; None: ``config.stride``.
        on_scored: told of progress.

    Attributes:
        trace: what the last :meth:`score` did, in order: one event.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Eval,
        *,
        stride: int | None = None,
        on_scored: OnScored | None = None,
    ) -> None:
        self.model, self.config, self.on_scored = model, config, on_scored
        self.windows = Windows(config.seq_len, config.stride if stride is None else stride, config.batch_windows)
        self._beside: Beside | None = None
        self.deadline = math.inf
        self.trace: list[Event] = []
        self.adapted = 0  # chunks that were learnt from
        self.waited = 0.0  # seconds that the last score stood at a collective until every rank had come to it

    def score(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) float64 on the CPU: log-probability of tokens[1:], split over the ranks.

        Raises:
            DataError: fewer than two tokens, a token outside the vocabulary, or a score that is not finite.
        """
        padded, scores = self._prepare(tokens)
        chunk = Chunk(0, self.windows.count(tokens.numel()), 1, tokens.numel())
        self.trace = [Event("score", 1, tokens.numel(), digest(self.model))]
        self._score_chunk(forward_of(self.model), padded, chunk, scores)
        self.waited = meet(scores.device)
        return gather(scores)

    def score_beside(self, tokens: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        """As :meth:`score`, and (T-1,) float64: log-probability of hints[1:], given ``hints`` (T,) int64."""
        self._beside = Beside(*self._prepare(hints))
        scores, beside, self._beside = self.score(tokens), self._beside.scores, None
        return scores, gather(beside)

    def parts(self, tokens: Tensor) -> int:
        """How many chunks there are to learn from, the last one among them."""
        return 0

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """(V,) float64: what scored ``tokens[position]``."""
        padded, _ = self._prepare(tokens, position)
        first = self.windows.holding(position) // self.windows.rows * self.windows.rows
        with torch.no_grad():
            return self.windows.distribution(forward_of(self.model), padded, first, position)

    def _prepare(self, tokens: Tensor, position: int = 1) -> tuple[Tensor, Tensor]:
        """The padded stream and room for its scores, on the model's device."""
        check_stream(self.model, tokens, position)
        self.model.eval()
        device = next(self.model.parameters()).device
        padded = self.windows.pad(tokens.to(device, torch.int64))
        return padded, torch.full((tokens.numel() - 1,), 0.0, dtype=torch.float64, device=device)

    def _score_chunk(self, forward: Forward, padded: Tensor, chunk: Chunk, scores: Tensor) -> None:
        """Score every batch of ``chunk`` that falls to this rank, without gradients."""
        rank, count = ranks()
        with torch.no_grad():
            for number, (first, stop) in enumerate(chunk.batches(self.windows.rows)):
                if self.config.tilt and self._beside is not None and number % count == rank:
                    into = (scores, self._beside.scores)
                    self.windows.score_beside(forward, padded, self._beside.hints, first, stop, into)
                elif number % count == rank:
                    self.windows.score(forward, padded, first, stop, scores)
                if self.on_scored is not None:
                    end = min(self.windows.stop_target(stop - 1), chunk.end)
                    self.on_scored(end - self.windows.first_target(first))
        refuse_infinite(scores[chunk.start - 1 : chunk.end - 1], chunk.start)


class TestTimeTrainer(SlidingScorer):
    """Score-first test-time training: SGD over all weights on chunks that have been scored.

    A window belongs to the chunk that holds the first target it scores. Once all windows of a chunk are scored, its
    targets, and no others, are trained on: ``ttt_epochs`` steps, each on the whole chunk cut into ``seq_len`` pieces.
    The last chunk is not trained on: nothing is left to score. Each call of :meth:`score` or :meth:`distribution`
    begins from the model's own weights; the model itself is never changed.

    Args:
        model: as for :class:`SlidingScorer`.
        config: the eval section.
        deadline: moment of ``time.monotonic()`` by which all shall be scored: training ends in time for that.
        on_scored: told of progress.
    """

    __test__ = False  # its name looks like a test to pytest

    def __init__(
        self,
        model: nn.Module,
        config: Eval,
        *,
        deadline: float = math.inf,
        on_scored: OnScored | None = None,
    ) -> None:
        super().__init__(model, config, on_scored=on_scored)
        chunk_windows = math.ceil(config.ttt_chunk_tokens / config.stride)
        self.windows = Windows(config.seq_len, config.stride, min(config.batch_windows, chunk_windows))
        self.deadline = deadline

    def parts(self, tokens: Tensor) -> int:
        """See :meth:`SlidingScorer.parts`."""
        return sum(1 for _ in self.chunks(tokens.numel()))

    def chunks(self, tokens: int) -> Iterator[Chunk]:
        """The chunks of a stream of that many tokens, in order."""
        size, last = self.config.ttt_chunk_tokens, self.windows.count(tokens)
        first = 0
        while first < last:
            number = (self.windows.first_target(first) - 1) // size
            learn_start, learn_stop = 1 + number * size, 1 + (number + 1) * size
            stop = min(self._first_window_from(learn_stop), last)
            start, end = self.windows.first_target(first), min(self.windows.stop_target(stop - 1), tokens)
            learns = (learn_start, learn_stop) if stop < last else (0, 0)
            yield Chunk(first, stop, start, end, *learns)
            first = stop

    def _first_window_from(self, position: int) -> int:
        """The first window whose first scored target is at ``position`` or behind it."""
        window = self.windows.holding(position)
        return window if self.windows.first_target(window) == position else window + 1

    def score(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) float64 on the CPU, each chunk scored before it is learnt from.

        Raises:
            DataError: as :meth:`SlidingScorer.score`.
        """
        padded, scores = self._prepare(tokens)
        learner = Learner(self.model, self.config)
        self.trace, self.adapted, self.waited = [], 0, 0.0
        scoring = learning = 0.0  # seconds: of all scoring so far, of the longest lesson
        for chunk in self.chunks(tokens.numel()):
            began = time.monotonic()
            self.trace.append(Event("score", chunk.start, chunk.end, learner.digest()))
            self._score_chunk(learner.forward, padded, chunk, scores)
            self.waited += meet(padded.device)
            scored = time.monotonic()
            scoring += scored - began
            lesson = learning or 3 * self.config.ttt_epochs * scoring  # at first: as long as three forward passes each
            needed = lesson + scoring * (tokens.numel() - chunk.end) / chunk.end
            if chunk.learn_stop and has_time(self.deadline - needed, padded.device):
                learner.learn(padded[chunk.learn_start - 1 : chunk.learn_stop])
                self.adapted += 1
                self.trace.append(Event("update", chunk.learn_start, chunk.learn_stop, learner.digest()))
                learning = max(learning, time.monotonic() - scored)
        self.waited += learner.waited
        return gather(scores)

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """(V,) float64: what scores ``tokens[position]``, after learning from the chunks before it and no more."""
        padded, _ = self._prepare(tokens, position)
        learner = Learner(self.model, self.config)
        window = self.windows.holding(position)
        for chunk in self.chunks(tokens.numel()):
            if window < chunk.stop:
                first = chunk.first + (window - chunk.first) // self.windows.rows * self.windows.rows
                break
            learner.learn(padded[chunk.learn_start - 1 : chunk.learn_stop])
        with torch.no_grad():
            return self.windows.distribution(learner.forward, padded, first, position)


def make_scorer(
    model: nn.Module,
    config: Eval,
    *,
    deadline: float = math.inf,
    traced: bool = False,
    on_scored: OnScored | None = None,
) -> Evaluator:
    """The scorer that ``config`` names; ``traced`` only matters where a trace would cost time."""
    scorer: SlidingScorer | DocumentScorer
    if config.ttt == "lora":
        scorer = DocumentScorer(model, config, deadline=deadline, traced=traced, on_scored=on_scored)
    elif config.ttt == "sgd":
        scorer = TestTimeTrainer(model, config, deadline=deadline, on_scored=on_scored)
    else:
        scorer = SlidingScorer(model, config, on_scored=on_scored)
    return TiltedScorer(scorer) if config.tilt else scorer


def evaluate(
    model: nn.Module,
    tokens: Tensor,
    byte_table: ByteCounter,
    config: Eval,
    *,
    deadline: float | None = None,
) -> dict[str, Any]:
    """Score ``tokens`` (T,) the final way, and in the ways that show what was gained.

    ``roundtrip`` is in windows that do not overlap: what the weights are worth before the evaluation gains anything.
    ``sliding`` is without adaptation, ``plain`` as the final score but without it: in sliding windows, or with ``ttt:
    lora`` document by document. The final score alone is tilted, and comes first: its clock is not used up by others.

    Args:
        model: the artifact's model, on its device.
        tokens: the validation split, in the file's order.
        byte_table: bytes of each target.
        config: the eval section.
        deadline: moment of ``time.monotonic()`` by which to end learning; None: ``budget_seconds`` from now.

    Returns:
        ``final_bpb``, ``plain_bpb``, ``sliding_bpb``, ``roundtrip_bpb``, and with ``tilt`` ``untilted_bpb``; ``nats``,
        ``tokens``, ``bytes`` of the final score; ``chunks`` (or documents), ``adapted_chunks``; ``seconds`` by part,
        those it ``waited`` for other ranks; nats of the targets, float64 (T-1,): ``nll``, ``sliding``, ``roundtrip``.

    Raises:
        DataError: see :meth:`SlidingScorer.score` and :func:`golf.scoring.bpb.total`.
    """
    counts = byte_table.count(tokens.cpu())
    deadline = time.monotonic() + config.budget_seconds if deadline is None else deadline
    seconds: dict[str, float] = {}
    waited: dict[str, float] = {}
    totals: dict[str, Total] = {}
    nll: dict[str, Tensor] = {}
    with Progress("evaluate", total=float(passes(config) * (tokens.numel() - 1))) as bar:

        def scored(name: str, scorer: Evaluator) -> None:
            start = time.perf_counter()
            nll[name] = -scorer.score(tokens)
            totals[name] = total(nll[name], counts)
            bar.advance(0.0, f"{name} {totals[name].bits_per_byte:.4f} bpb")
            seconds[name], waited[name] = time.perf_counter() - start, scorer.waited

        scorer = make_scorer(model, config, deadline=deadline, on_scored=bar.advance)
        scored("final", scorer)
        if config.tilt and isinstance(scorer, TiltedScorer):
            nll["untilted"], totals["untilted"] = -scorer.untilted, total(-scorer.untilted, counts)
        if config.ttt != "none":
            scored("sliding", SlidingScorer(model, config, on_scored=bar.advance))
        if config.ttt == "lora":
            scored("plain", DocumentScorer(model, config, adapts=False, on_scored=bar.advance))
        if config.stride < config.seq_len:
            scored("roundtrip", SlidingScorer(model, config, stride=config.seq_len, on_scored=bar.advance))
    same = {"sliding": "untilted" if config.tilt else "final", "plain": "sliding", "roundtrip": "sliding"}
    for name, other in same.items():
        nll.setdefault(name, nll[other])
        totals.setdefault(name, totals[other])
    return {
        **{f"{name}_bpb": found.bits_per_byte for name, found in totals.items()},
        **vars(totals["final"]),
        "chunks": scorer.parts(tokens),
        "adapted_chunks": scorer.adapted,
        "seconds": seconds,
        "waited": waited,
        "nll": nll["final"].numpy(),
        **{name: nll[name].numpy() for name in ("sliding", "roundtrip")},
    }


def passes(config: Eval) -> int:
    """How often :func:`evaluate` scores the stream."""
    return 1 + (config.ttt != "none") + (config.ttt == "lora") + (config.stride < config.seq_len)
