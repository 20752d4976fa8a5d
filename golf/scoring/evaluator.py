"""The two scorers that ship, both through the model's one forward pass.

:class:`SlidingScorer` never adapts. :class:`TestTimeTrainer` scores a chunk, then trains on it, then scores the next
with what it learnt (score-first test-time training, the form that the public records settled on).

The learning rate is the same for every chunk. The records let it fall along a cosine over the number of chunks, but
then each score depends on how long the stream will turn out to be, which is information from the future: scoring a
prefix alone would give other numbers than scoring it as part of the whole.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from golf.params.eval import Eval
from golf.runtime.errors import DataError
from golf.runtime.progress import Progress
from golf.scoring.bpb import Total, total
from golf.scoring.protocol import ByteCounter, Event
from golf.scoring.state import digest
from golf.scoring.windows import Forward, Windows

OnScored = Callable[[int], None]
"""Called with the number of targets that were just scored."""


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
        compiled: run the forward pass through ``torch.compile``.
        on_scored: told of progress.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Eval,
        *,
        stride: int | None = None,
        compiled: bool = False,
        on_scored: OnScored | None = None,
    ) -> None:
        self.model, self.config, self.compiled, self.on_scored = model, config, compiled, on_scored
        self.windows = Windows(config.seq_len, config.stride if stride is None else stride, config.batch_windows)
        self._trace: list[Event] = []
        self.waited = 0.0  # seconds that the last score stood at a collective until every rank had come to it

    @property
    def trace(self) -> Sequence[Event]:
        """What the last :meth:`score` did: one event."""
        return self._trace

    def score(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) float64 on the CPU: log-probability of tokens[1:], split over the ranks.

        Raises:
            DataError: fewer than two tokens, a token outside the vocabulary, or a score that is not finite.
        """
        padded, scores = self._prepare(tokens)
        chunk = Chunk(0, self.windows.count(tokens.numel()), 1, tokens.numel())
        self._trace = [Event("score", 1, tokens.numel(), digest(self.model))]
        self._score_chunk(_forward(self.model, self.compiled), padded, chunk, scores)
        self.waited = _meet(scores.device)
        return _gather(scores)

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """(V,) float64: what scored ``tokens[position]``."""
        padded, _ = self._prepare(tokens, position)
        first = self.windows.holding(position) // self.windows.rows * self.windows.rows
        with torch.no_grad():
            return self.windows.distribution(_forward(self.model, self.compiled), padded, first, position)

    def _prepare(self, tokens: Tensor, position: int = 1) -> tuple[Tensor, Tensor]:
        """The padded stream and room for its scores, on the model's device."""
        count, vocab_size = tokens.numel(), int(getattr(self.model, "vocab_size"))  # noqa: B009 - any module's
        if tokens.dim() != 1 or count < 2:
            raise DataError(f"a stream of shape {tuple(tokens.shape)} has no target: needed two tokens or more")
        if not 0 <= int(tokens.min()) <= int(tokens.max()) < vocab_size:
            raise DataError(
                f"tokens of {int(tokens.min())} to {int(tokens.max())}, needed 0 to {vocab_size - 1}: "
                "these shards come from another tokenizer than the artifact",
                hint="dvc repro --force tokenize",
            )
        if not 1 <= position < count:
            raise DataError(f"position {position} is no target of a stream of {count} tokens")
        self.model.eval()
        device = next(self.model.parameters()).device
        padded = self.windows.pad(tokens.to(device, torch.int64))
        return padded, torch.full((count - 1,), 0.0, dtype=torch.float64, device=device)

    def _score_chunk(self, forward: Forward, padded: Tensor, chunk: Chunk, scores: Tensor) -> None:
        """Score every batch of ``chunk`` that falls to this rank, without gradients."""
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        with torch.no_grad():
            for number, (first, stop) in enumerate(chunk.batches(self.windows.rows)):
                if number % ranks == rank:
                    self.windows.score(forward, padded, first, stop, scores)
                if self.on_scored is not None:
                    end = min(self.windows.stop_target(stop - 1), chunk.end)
                    self.on_scored(end - self.windows.first_target(first))
        _refuse_infinite(scores[chunk.start - 1 : chunk.end - 1], chunk.start)


class TestTimeTrainer(SlidingScorer):
    """Score-first test-time training: SGD over all weights on chunks that have been scored.

    A window belongs to the chunk that holds the first target it scores. Once all windows of a chunk are scored, its
    targets, and no others, are trained on: ``ttt_epochs`` steps, each on the whole chunk cut into ``seq_len`` pieces.
    The last chunk is not trained on: nothing is left to score. Each call of :meth:`score` or :meth:`distribution`
    begins from the model's own weights; the model itself is never changed.

    Args:
        model: as for :class:`SlidingScorer`.
        config: the eval section.
        deadline: moment of ``time.monotonic()`` past which no chunk is trained on any more.
        compiled: run both passes through ``torch.compile``.
        on_scored: told of progress.
    """

    __test__ = False  # its name looks like a test to pytest

    def __init__(
        self,
        model: nn.Module,
        config: Eval,
        *,
        deadline: float = math.inf,
        compiled: bool = False,
        on_scored: OnScored | None = None,
    ) -> None:
        super().__init__(model, config, compiled=compiled, on_scored=on_scored)
        chunk_windows = math.ceil(config.ttt_chunk_tokens / config.stride)
        self.windows = Windows(config.seq_len, config.stride, min(config.batch_windows, chunk_windows))
        self.deadline = deadline
        self.adapted_chunks = 0

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
        learner = _Learner(self.model, self.config, self.compiled)
        self._trace, self.adapted_chunks, self.waited = [], 0, 0.0
        for chunk in self.chunks(tokens.numel()):
            self._trace.append(Event("score", chunk.start, chunk.end, learner.digest()))
            self._score_chunk(learner.forward, padded, chunk, scores)
            self.waited += _meet(padded.device)
            if chunk.learn_stop and self._has_time(padded.device):
                learner.learn(padded[chunk.learn_start - 1 : chunk.learn_stop])
                self.adapted_chunks += 1
                self._trace.append(Event("update", chunk.learn_start, chunk.learn_stop, learner.digest()))
        self.waited += learner.waited
        return _gather(scores)

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """(V,) float64: what scores ``tokens[position]``, after learning from the chunks before it and no more."""
        padded, _ = self._prepare(tokens, position)
        learner = _Learner(self.model, self.config, self.compiled)
        window = self.windows.holding(position)
        for chunk in self.chunks(tokens.numel()):
            if window < chunk.stop:
                first = chunk.first + (window - chunk.first) // self.windows.rows * self.windows.rows
                break
            learner.learn(padded[chunk.learn_start - 1 : chunk.learn_stop])
        with torch.no_grad():
            return self.windows.distribution(learner.forward, padded, first, position)

    def _has_time(self, device: torch.device) -> bool:
        """Whether the clock of rank 0 stands before the deadline: all ranks must decide the same."""
        if not dist.is_initialized():
            return time.monotonic() < self.deadline
        answer = torch.tensor([float(time.monotonic() < self.deadline)], device=device)
        dist.broadcast(answer, src=0)
        return bool(answer.item())


class _Learner:
    """A copy of the model, adapted by SGD with momentum: ``m = mu * m + g; w -= lr * m``.

    torch.optim would import torch's compiler to do that: 1.5 s of every start of the program.
    """

    def __init__(self, model: nn.Module, config: Eval, compiled: bool) -> None:
        self.config = config
        self.model = copy.deepcopy(model)
        self.parameters = [parameter.requires_grad_(True) for parameter in self.model.parameters()]
        self.momentum = [torch.zeros_like(parameter) for parameter in self.parameters]
        self.forward = _forward(self.model, compiled)
        self.waited = 0.0

    def learn(self, tokens: Tensor) -> None:
        """``ttt_epochs`` steps on the mean loss of tokens[1:], given tokens (C+1,); gradients summed over ranks."""
        rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        length, targets = self.config.seq_len, tokens.numel() - 1
        pieces = [(start, min(start + length, targets)) for start in range(0, targets, length)]
        whole = [start for start, stop in pieces if stop - start == length]
        rows = self.config.batch_windows
        groups = [whole[index : index + rows] for index in range(0, len(whole), rows)]
        for _ in range(self.config.ttt_epochs):
            for group in groups:
                mine = group[rank::ranks]
                if mine:
                    batch = torch.stack([tokens[start : start + length + 1] for start in mine])
                    (self.forward(batch[:, :-1], batch[:, 1:]).sum() / targets).backward()
            if len(whole) < len(pieces) and rank == ranks - 1:  # a shorter piece at the end of the chunk
                rest = tokens[None, pieces[-1][0] :]
                (self.forward(rest[:, :-1], rest[:, 1:]).sum() / targets).backward()
            self._step(ranks)

    @torch.no_grad()
    def _step(self, ranks: int) -> None:
        """Apply the gradients, summed over ranks, and forget them."""
        gradients = [  # a rank without a piece has none
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in self.parameters
        ]
        if ranks > 1:
            self.waited += _meet(gradients[0].device)
            for gradient in gradients:
                dist.all_reduce(gradient)
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
        torch._foreach_mul_(gradients, torch.clamp(self.config.ttt_grad_clip / (norm + 1e-6), max=1.0))
        torch._foreach_mul_(self.momentum, self.config.ttt_momentum)
        torch._foreach_add_(self.momentum, gradients)
        torch._foreach_add_(self.parameters, self.momentum, alpha=-self.config.ttt_lr)
        for parameter in self.parameters:
            parameter.grad = None

    def digest(self) -> str:
        """Digest of the weights and the momentum."""
        return digest(self.model, self.momentum)


def _forward(model: nn.Module, compiled: bool) -> Forward:
    run: Any = torch.compile(model, dynamic=False) if compiled else model
    return run


def _meet(device: torch.device) -> float:
    """Wait until every rank is here, its device done; seconds of standing idle."""
    if not dist.is_initialized():
        return 0.0
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    dist.barrier()
    return time.perf_counter() - start


def _gather(scores: Tensor) -> Tensor:
    """Sum over ranks, on the CPU: each target was scored by one rank and is zero on the others."""
    if dist.is_initialized():
        dist.all_reduce(scores)
    return scores.cpu()


def _refuse_infinite(scores: Tensor, start: int) -> None:
    bad = ~torch.isfinite(scores)
    if bool(bad.any()):
        first = start + int(bad.nonzero()[0])
        raise DataError(
            f"the model gives no finite score at position {first}: NaN weights, or adaptation diverged",
            hint="dvc exp run -S eval.ttt_lr=0.001",
        )


def evaluate(
    model: nn.Module,
    tokens: Tensor,
    byte_table: ByteCounter,
    config: Eval,
    *,
    deadline: float | None = None,
    compiled: bool = False,
) -> dict[str, Any]:
    """Score ``tokens`` (T,) three ways: the final score, the sliding one and the round trip.

    The round trip is scored in windows that do not overlap; it shows what the artifact's weights are worth before
    anything is gained from the evaluation. The final score is the test-time trained one, or with ``ttt: false`` the
    sliding one; it comes first, so that the other two don't use up its clock.

    Args:
        model: the artifact's model, on its device.
        tokens: the validation split, in the file's order.
        byte_table: bytes of each target.
        config: the eval section.
        deadline: moment of ``time.monotonic()`` past which no chunk is trained on; None: ``budget_seconds`` from now.
        compiled: run the forward pass through ``torch.compile``.

    Returns:
        ``final_bpb``, ``sliding_bpb``, ``roundtrip_bpb``; ``nats``, ``tokens``, ``bytes`` of the final score;
        ``chunks`` and ``adapted_chunks``; ``seconds`` by part, and those this rank ``waited`` for others in them; nats
        of every target, float64 (T-1,): ``nll`` of the final score, ``sliding``, ``roundtrip``.

    Raises:
        DataError: see :meth:`SlidingScorer.score` and :func:`golf.scoring.bpb.total`.
    """
    counts = byte_table.count(tokens.cpu())
    deadline = time.monotonic() + config.budget_seconds if deadline is None else deadline
    sliding_is_final, sliding_is_roundtrip = not config.ttt, config.stride == config.seq_len
    passes = 3 - sliding_is_final - sliding_is_roundtrip
    seconds: dict[str, float] = {}
    waited: dict[str, float] = {}
    totals: dict[str, Total] = {}
    nll: dict[str, Tensor] = {}
    with Progress("evaluate", total=float(passes * (tokens.numel() - 1))) as bar:

        def scored(scorer: SlidingScorer, name: str) -> None:
            start = time.perf_counter()
            nll[name] = -scorer.score(tokens)
            totals[name] = total(nll[name], counts)
            bar.advance(0.0, f"{name} {totals[name].bits_per_byte:.4f} bpb")
            seconds[name] = time.perf_counter() - start
            waited[name] = scorer.waited

        chunks = adapted = 0
        if config.ttt:
            trainer = TestTimeTrainer(model, config, deadline=deadline, compiled=compiled, on_scored=bar.advance)
            scored(trainer, "final")
            chunks, adapted = sum(1 for _ in trainer.chunks(tokens.numel())), trainer.adapted_chunks
        scored(SlidingScorer(model, config, compiled=compiled, on_scored=bar.advance), "sliding")
        if not sliding_is_roundtrip:
            whole = SlidingScorer(model, config, stride=config.seq_len, compiled=compiled, on_scored=bar.advance)
            scored(whole, "roundtrip")
    for name in ("final", "roundtrip"):  # where one is the sliding score too, there was no pass of its own
        totals.setdefault(name, totals["sliding"])
        nll.setdefault(name, nll["sliding"])
    return {
        **{f"{name}_bpb": totals[name].bits_per_byte for name in ("final", "sliding", "roundtrip")},
        **vars(totals["final"]),
        "chunks": chunks,
        "adapted_chunks": adapted,
        "seconds": seconds,
        "waited": waited,
        "nll": nll["final"].numpy(),
        **{name: nll[name].numpy() for name in ("sliding", "roundtrip")},
    }
