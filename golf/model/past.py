"""What a forward pass remembers of the tokens before its own, so that a row can be read piece by piece."""

from __future__ import annotations

import torch
from torch import Tensor

MIXED_BEFORE = 2  # tokens that reach into the next embedding: smearing reads one back, its bigram one more


class Past:
    """Keys and values of the earlier tokens of the same rows, for every attention of a pass, in the order they run.

    Give the same object to each forward pass over the next piece of B rows, each of one document. Gradients end here:
    what is remembered is a constant. Where the weights change between two pieces, the older keys and values stay what
    they were when their tokens were read. Nothing is ever dropped: where a row grows too long, begin a new one in it.

    Args:
        longest: tokens that a row holds at most.

    Attributes:
        length: earlier tokens, which the present piece sees.
        held: how many a row holds with its own.
    """

    length: int | Tensor

    def __init__(self, longest: int) -> None:
        self.longest, self.held = longest, 0
        self.length = 0
        self._tokens: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._made: list[tuple[Tensor, Tensor]] = []

    @property
    def tokens(self) -> Tensor:
        """(B, 2) or fewer: the last ones."""
        assert self._tokens is not None
        return self._tokens

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


class FixedPast(Past):
    """A past that stays in the same memory, piece after piece of one size: a CUDA graph can hold what reads it.

    How many tokens there are is a number on the device; of the ``longest`` places of a row, those behind hold zeros or
    what a piece left there. A piece may be of the first rows alone. First of all, :meth:`load` something.

    Args:
        past: of such a model and length.
        rows: the most that there will be.
    """

    length: Tensor

    def __init__(self, past: Past, rows: int) -> None:
        super().__init__(past.longest)
        self.held = past.longest
        self._tokens = past.tokens.new_empty(rows, MIXED_BEFORE)
        self.length = self._tokens.new_empty(())
        self._pairs = [(self._room(k, rows), self._room(v, rows)) for k, v in past._made]

    def _room(self, x: Tensor, rows: int) -> Tensor:
        return x.new_empty(rows, self.longest, *x.shape[2:])

    def load(self, past: Past) -> None:
        """Begin anew with what ``past`` holds, of so many rows or fewer, and of two tokens or more."""
        rows = len(past.tokens)
        for own, made in zip(self._pairs, past._made, strict=True):
            for room, x in zip(own, made, strict=True):
                room.zero_()  # what is masked is multiplied by 0, which a NaN that another document left would outlive
                room[:rows, : past.held] = x
        self.tokens[:rows] = past.tokens
        self.length.fill_(past.held)

    def begin(self, tokens: Tensor) -> Tensor:
        """See :meth:`Past.begin`."""
        rows, count = tokens.shape
        self._read, self._places = 0, self.length + torch.arange(count, device=tokens.device)
        joined = torch.cat((self.tokens[:rows], tokens), dim=1)
        self.tokens[:rows] = joined[:, -MIXED_BEFORE:]
        return joined

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Past.extend`; (B, longest, G, W), of which those behind the piece say nothing."""
        rooms, self._read = self._pairs[self._read], self._read + 1
        whole_k, whole_v = (self._put(room[: k.shape[0]], x) for room, x in zip(rooms, (k, v), strict=True))
        return whole_k, whole_v

    def _put(self, room: Tensor, x: Tensor) -> Tensor:
        whole = room.index_copy(1, self._places, x)
        room.index_copy_(1, self._places, x.detach())
        return whole

    def advance(self) -> None:
        """The piece is read: the next stands behind it."""
        self.length += self._places.numel()
