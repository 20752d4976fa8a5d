"""What is done with each piece of a group, scoring it and learning from it, as one CUDA graph.

With adapters a step is some 3,400 launches: Python needs 110 ms for them where an H200 needs a quarter of that for the
work. Nothing in a step depends on where in the documents the piece stands but a number on the device.
"""

from __future__ import annotations

import copy
from typing import NamedTuple

import torch
from torch import Tensor, nn

from golf.model.past import FixedPast, Past
from golf.runtime.graphs import record
from golf.scoring.lora import RowAdapters


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
        """What the next pieces stand behind; the first time of the most rows."""
        if self.past is None:
            self.past = FixedPast(past)
        else:
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
