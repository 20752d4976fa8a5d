"""What a forward pass remembers of the tokens before its own, so that a row can be read piece by piece."""

from __future__ import annotations

import torch
from torch import Tensor

MIXED_BEFORE = 2  # tokens that reach into the next embedding: smearing reads one back, its bigram one more


class Past:
    """Keys and values of the earlier tokens of the same rows, for every attention of a pass, in the order they run.

    Give the same object to each forward pass over the next piece of B rows, each of one document. Gradients end here:
    what is remembered is a constant. Where the weights change between two pieces, the older keys and values stay what
    they were when their tokens were read. Nothing is ever
    dropped: where a row grows too long, begin a new one within it.

    Args:
        longest: tokens that a row holds at most.

    Attributes:
        length: earlier tokens, which the present piece sees.
    """

    def __init__(self, longest: int) -> None:
        self.longest, self.length, self.held = longest, 0, 0
        self._tokens: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._made: list[tuple[Tensor, Tensor]] = []

    def begin(self, tokens: Tensor) -> Tensor:
        """The next piece (B, T) -> (B, c + T): after the c tokens that its embedding mixes in."""
        self.length, self.held = self.held, self.held + tokens.shape[1]
        self._pairs, self._made = self._made, []
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
