"""Scoring as CUDA graphs: a batch of windows, and what is done with a piece of documents that are learnt from.

With adapters a piece is some 3,400 launches to score it and learn from it: 60,000 tokens took an H100 21 s launched one
by one and 4 s recorded. Nothing in it depends on where in its documents it stands but a number on the device.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golf.model.attention import Documents, segments
from golf.model.linear import Adapters
from golf.model.past import FixedPast
from golf.model.transformer import document_ids
from golf.params.eval import Eval
from golf.runtime.graphs import record
from golf.scoring.lora import RowAdapters
from golf.scoring.windows import Forward, nll_of

EAGER = 2  # batches of a shape that are not worth recording it
ENTRIES = 256  # room for segments is a multiple of this: few shapes


Made = dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], Tensor]]
"""By what is recorded and the shapes of what is given: a graph, what it reads, what it writes."""


def replayed(made: Made, nll: Callable[..., Tensor], *given: Tensor, kind: Hashable = None) -> Tensor:
    """``nll(*given)`` fp32, of the shape of ``given[1]``, in memory that the next call overwrites.

    By the graph that was ``made`` of it and is of its ``kind``, or it is made now; they share their memory.
    """
    key = (kind, *(each.shape for each in given))
    if key in made:
        graph, own, found = made[key]
        torch._foreach_copy_(own, given)
        graph.replay()
    else:
        own, found = [each.clone() for each in given], torch.empty_like(given[1], dtype=torch.float32)
        made[key] = record(lambda: found.copy_(nll(*own)), made.values()), own, found
    return found


class Recorded:
    """Steps over pieces of up to ``rows`` documents, in memory of their own, used by one group after the other.

    Args:
        model: as for :class:`golf.scoring.document_scorer.DocumentScorer`; its weights may change, not move.
        config: the eval section.
        rows: the most documents.
    """

    def __init__(self, model: nn.Module, config: Eval, rows: int) -> None:
        self.model, self.rows, self.adapters = model, rows, RowAdapters(model, config, rows)
        self.past = FixedPast(config.seq_len, rows, self.adapters.drawn.device)
        self._made: Made = {}

    def begin(self, rows: int) -> RowAdapters:
        """The adapters of a new group of ``rows`` documents, of which nothing is known or remembered."""
        self.adapters.forget()
        self.past.forget()
        return self._of(rows)

    def _of(self, rows: int) -> RowAdapters:
        """The first ``rows`` rows of the adapters, in the same memory."""
        part = copy.copy(self.adapters)
        part.keep(rows)
        return part

    def nll(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        """(N, R, L) nats of ``wanted``, as it, given ``tokens`` (R, L), from before the adapters learn from the first.

        The first of the N are the targets, the second hints.
        """
        self.past.make_room(tokens.shape[1])
        return replayed(self._made, self._step, tokens, wanted)

    def _step(self, tokens: Tensor, wanted: Tensor) -> Tensor:
        adapters = self._of(len(tokens))
        nll = nll_of(self.model, tokens, wanted, adapters.adapters(), None, self.past)
        adapters.learn(nll[0])
        self.past.advance()
        return nll.detach()


def recordable(model: nn.Module) -> bool:
    """Whether a step of ``model`` can be: its attention must be told on the device how many keys there are.

    Without a BOS mask, the first token of a document is mixed with zeros, which a fixed past has none of.
    """
    graphs = getattr(model, "graphs", False) and getattr(model, "attention", "") == "fa3"
    return bool(graphs and getattr(model, "config").bos_mask)  # noqa: B009 - any module's


class RecordedForward:
    """``forward(tokens, targets)`` of a model with kernels, for many batches of one shape without gradients.

    Where documents are not given they are counted first, which waits for the device. Their number is part of the shape.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._seen: Counter[Hashable] = Counter()
        self._made: Made = {}

    def __call__(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        adapters: Adapters | None = None,
        documents: Documents | None = None,
    ) -> Tensor:
        """(B, L) int64 both -> (B, L) nats, in memory that the next call overwrites; otherwise as the model's."""
        if targets is None or adapters is not None or torch.is_grad_enabled():
            result: Tensor = self.model(tokens, targets, adapters, documents)
            return result
        if documents is None and self.model.config.document_mask:
            documents = segments(document_ids(tokens, self.model.bos_id))
        starts, *kind = documents or Documents(tokens.new_empty(0), 0)
        starts = F.pad(starts, (0, -starts.numel() % ENTRIES), value=tokens.numel())
        self._seen[key := (*kind, tokens.shape, starts.shape)] += 1
        nll = partial(self._nll, kind)
        if self._seen[key] <= EAGER:
            return nll(tokens, targets, starts)
        return replayed(self._made, nll, tokens, targets, starts, kind=(*kind,))

    def _nll(self, kind: Sequence[int], tokens: Tensor, targets: Tensor, starts: Tensor) -> Tensor:
        nll: Tensor = self.model(tokens, targets, documents=Documents(starts, *kind))
        return nll


def forward_of(model: nn.Module) -> Forward:
    """The model's forward pass, recorded where our kernels compute it."""
    if getattr(model, "graphs", False) and getattr(model, "kernels", False):
        return RecordedForward(model)
    return model
