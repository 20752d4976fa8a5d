"""A scorer that takes a stream's documents by falling length instead of in their order.

It is what public records did: the first phase learns from the longest documents. When a document is scored then
depends on how long later ones are, so no such score is one of a stream read from left to right: ``eval.order: length``
is there to measure what that is worth, and the audit's ``document-order`` fails and names it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from golf.scoring.documents import split
from golf.scoring.protocol import Evaluator, Event


class ByLength:
    """``base`` on the stream with its documents by falling length; scores, distributions and trace by the real places.

    The last document stays the last: no BOS says where it ends.

    Args:
        base: scores the rearranged stream.
        bos_id: the token that begins a document.
    """

    def __init__(self, base: Evaluator, bos_id: int) -> None:
        self.base, self.bos_id = base, bos_id
        self._places = torch.empty(0, dtype=torch.int64)

    @property
    def trace(self) -> Sequence[Event]:
        """What the last :meth:`score` did, in the order in which it was done."""
        return [part for event in self.base.trace for part in self._parts(event)]

    @property
    def adapted(self) -> int:
        """Parts that the base learnt from."""
        return self.base.adapted

    @property
    def waited(self) -> float:
        """Seconds that the base waited for other ranks."""
        return self.base.waited

    def parts(self, tokens: Tensor) -> int:
        """How many parts the base has to learn from."""
        return self.base.parts(tokens)

    def score(self, tokens: Tensor) -> Tensor:
        """(T,) int64 -> (T-1,) float64 on the CPU: log-probability of tokens[1:].

        Raises:
            DataError: as the base's.
        """
        self._places = places = by_length(tokens, self.bos_id)
        scores = torch.empty(max(tokens.numel() - 1, 0), dtype=torch.float64)
        # A score belongs to the input that it follows: the target of a document's last is a BOS, whoever's.
        scores[places[:-1]] = self.base.score(tokens[places.to(tokens.device)])
        return scores

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        """(V,) float64: the base's for ``tokens[position]``."""
        places = by_length(tokens, self.bos_id)
        place = int((places == position - 1).nonzero())
        return self.base.distribution(tokens[places.to(tokens.device)], place + 1)

    def _parts(self, event: Event) -> list[Event]:
        """The event by real places: a part for each run of them."""
        places = self._places[event.start - 1 : event.stop - 1] + 1  # of the targets
        breaks = (places.diff() != 1).nonzero().flatten().tolist()
        edges = [0, *(place + 1 for place in breaks), len(places)]
        return [
            replace(event, start=int(places[begin]), stop=int(places[end - 1]) + 1) for begin, end in pairwise(edges)
        ]


def by_length(tokens: Tensor, bos_id: int) -> Tensor:
    """(T,) int64: where each token of the rearranged stream stands in ``tokens`` (T,)."""
    *documents, last = split(tokens.cpu(), bos_id)
    ordered = sorted(documents, key=lambda document: -document.length)
    ranges = [torch.arange(document.start, document.stop) for document in ordered]
    return torch.cat([*ranges, torch.arange(last.start, tokens.numel())])
