"""Scoring as CUDA graphs: a batch of windows, and what is done with a piece of documents that are learnt from.

With adapters a piece is some 3,400 launches to score it and learn from it: 60,000 tokens took an H100 21 s launched one
by one and 4 s recorded. Nothing in it depends on where in its documents it stands but a number on the device.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.attention import Documents, segments
from golf.model.past import FixedPast, Past
from golf.model.transformer import document_ids
from golf.runtime.graphs import record
from golf.scoring.lora import RowAdapters
from golf.scoring.windows import Forward

EAGER = 2  # batches of a shape that are not worth recording it
ENTRIES = 256  # room for segments is a multiple of this: few shapes


class Step(NamedTuple):
    """A recorded step of some number of rows."""

    graph: torch.cuda.CUDAGraph
    tokens: Tensor  # (R, L + 1): what it reads
    nll: Tensor  # (R, L): what it writes


class Recorded:
    """Steps over pieces of up to ``rows`` documents, in memory of their own, used by one group after the other.

    Args:
        model: as for :class:`golf.scoring.document_scorer.DocumentScorer`; its weights may change, not move.
        adapters: of the most rows.
    """

    def __init__(self, model: nn.Module, adapters: RowAdapters) -> None:
        self.model, self.adapters = model, adapters
        self.past: FixedPast | None = None
        self._steps: dict[int, Step] = {}

    def begin(self, rows: int) -> RowAdapters:
        """The adapters of a new group of ``rows`` documents, which know nothing."""
        self.adapters.forget()
        return self._of(rows)

    def _of(self, rows: int) -> RowAdapters:
        """The first ``rows`` rows of the adapters, in the same memory."""
        part = copy.copy(self.adapters)
        part.keep(rows)
        return part

    def load(self, past: Past) -> None:
        """What the next pieces stand behind."""
        self.past = self.past or FixedPast(past, len(self.adapters.values[0]))
        self.past.load(past)

    def nll(self, tokens: Tensor) -> Tensor:
        """(R, L) nats of the targets in ``tokens`` (R, L + 1), from before the adapters learn from them."""
        if len(tokens) not in self._steps:
            self._steps[len(tokens)] = self._record(tokens)
        else:
            step = self._steps[len(tokens)]
            step.tokens.copy_(tokens)
            step.graph.replay()
        return self._steps[len(tokens)].nll

    def _record(self, tokens: Tensor) -> Step:
        """Take the step, and keep how."""
        tokens, nll = tokens.clone(), torch.empty(tokens.shape[0], tokens.shape[1] - 1, device=tokens.device)
        adapters = self._of(len(tokens))

        def step() -> None:
            assert self.past is not None
            found = self.model(tokens[:, :-1], tokens[:, 1:], adapters.adapters(), past=self.past)
            adapters.learn(found)
            self.past.advance()
            nll.copy_(found.detach())

        pool = next(iter(self._steps.values())).graph.pool() if self._steps else None
        return Step(record(step, pool), tokens, nll)


def recordable(model: nn.Module, device: torch.device) -> bool:
    """Whether a step of ``model`` can be: its attention must be told on the device how many keys there are."""
    return device.type == "cuda" and getattr(model, "attention", "") == "fa3"


class RecordedForward:
    """``forward(tokens, targets)`` of a model with kernels, for many batches of one shape without gradients.

    Documents are counted first, which waits for the device, and their number is part of the shape.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._seen: Counter[torch.Size] = Counter()
        self._passes: dict[torch.Size, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]] = {}

    def __call__(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
        """(B, L) int64 both -> (B, L) nats, in memory that the next call overwrites; otherwise as the model's."""
        if targets is None or torch.is_grad_enabled():
            result: Tensor = self.model(tokens, targets)
            return result
        starts = tokens.new_empty(0)
        if self.model.config.document_mask:
            starts = segments(document_ids(tokens, self.model.bos_id)).starts
            starts = F.pad(starts, (0, -starts.numel() % ENTRIES), value=tokens.numel())
        given, key = [tokens, targets, starts], tokens.shape + starts.shape
        self._seen[key] += 1
        if self._seen[key] <= EAGER:
            return self._nll(given)
        if key not in self._passes:
            self._passes[key] = self._record(given)
        else:
            graph, inputs, _ = self._passes[key]
            torch._foreach_copy_(inputs, given)
            graph.replay()
        return self._passes[key][2]

    def _nll(self, given: list[Tensor]) -> Tensor:
        tokens, targets, starts = given
        nll: Tensor = self.model(tokens, targets, documents=Documents(starts, tokens.shape[1]))
        return nll

    def _record(self, given: list[Tensor]) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]:
        own, nll = [each.clone() for each in given], torch.empty(given[0].shape, device=given[0].device)
        pool = next(iter(self._passes.values()))[0].pool() if self._passes else None
        return record(lambda: nll.copy_(self._nll(own)), pool), own, nll


def forward_of(model: nn.Module, compiled: bool) -> Forward:
    """The model's forward pass, through ``torch.compile`` if so wished, recorded where our kernels compute it."""
    if getattr(model, "kernels", False) and not compiled and next(model.parameters()).is_cuda:
        return RecordedForward(model)
    run: Any = torch.compile(model, dynamic=False) if compiled else model
    return run
