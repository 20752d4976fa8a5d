"""What a forward pass remembers of the tokens before its own, so that a row can be read piece by piece."""

from __future__ import annotations

import torch
from torch import Tensor

MIXED_BEFORE = 2  # tokens that reach into the next embedding: smearing reads one back, its bigram one more


class Past:
    """Keys and values of the earlier tokens of the same rows, for every attention of a pass, in the order they run.

    Give the same object to each forward pass over the next piece of B rows; each row holds one document, or the part
    of it that the rows of a stream may see. Gradients end here: what is remembered is a constant. Where the weights
    change between two pieces, the older keys and values stay what they were when their tokens were read.

    Args:
        limit: tokens that attention sees at most, the present piece among them.

    Attributes:
        start: position in its row of the first token of the present piece, or of the next.
        length: earlier tokens that the present piece sees.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.start, self.length, self._next = limit, 0, 0, 0
        self._tokens: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._made: list[tuple[Tensor, Tensor]] = []

    def begin(self, tokens: Tensor) -> Tensor:
        """The next piece (B, T), T at most ``limit`` -> (B, c + T): after the c tokens that its embedding mixes in."""
        count = tokens.shape[1]
        self.start = self._next
        self._next += count
        if self._made:
            keep = min(self._made[0][0].shape[1], self.limit - count)
            self._pairs = [(k[:, k.shape[1] - keep :], v[:, v.shape[1] - keep :]) for k, v in self._made]
            self.length, self._made = keep, []
        joined = tokens if self._tokens is None else torch.cat((self._tokens, tokens), dim=1)
        self._tokens = joined[:, -MIXED_BEFORE:]
        return joined

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the present piece (B, T, G, W) -> those that it attends to (B, length + T, G, W)."""
        if self._pairs:
            before_k, before_v = self._pairs[len(self._made)]
            k, v = torch.cat((before_k, k), dim=1), torch.cat((before_v, v), dim=1)
        self._made.append((k.detach(), v.detach()))
        return k, v

    def keep(self, rows: int) -> None:
        """Go on with the first ``rows`` rows alone."""
        self._made = [(k[:rows], v[:rows]) for k, v in self._made]
        self._tokens = None if self._tokens is None else self._tokens[:rows]
