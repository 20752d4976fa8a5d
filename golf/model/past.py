"""What a forward pass remembers of the tokens before its own, so that a row can be read piece by piece."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

MIXED_BEFORE = 2  # tokens that reach into the next embedding: smearing reads one back, its bigram one more


class Past:
    """Keys and values of the earlier tokens of the same rows, for every attention of a pass, in the order they run.

    Give the same object to each forward pass over the next piece of B rows, each of one document, of any length: a
    query sees the last ``window`` keys, its own among them, and those before are forgotten. What they say of tokens
    before them stays, so a row is never read again. Gradients end here: what is remembered is a constant. Where the
    weights change between two pieces, the older keys and values stay what they were when their tokens were read.

    Args:
        window: keys that a query sees at most.

    Attributes:
        seen: tokens of a row before the present piece.
        kept: how many of them are remembered.
        held: keys that a row holds with those of the piece.
    """

    seen: int | Tensor
    kept: int | Tensor

    def __init__(self, window: int) -> None:
        self.window = window
        self.seen = self.kept = self.held = self._read = 0
        self._tokens: Tensor | None = None
        self._pairs: list[tuple[Tensor, Tensor]] = []
        self._made: list[tuple[Tensor, Tensor]] = []

    def begin(self, tokens: Tensor) -> Tensor:
        """The next piece (B, T) -> (B, c + T): after the c tokens that its embedding mixes in; -1: there is none."""
        self.seen, self._read = self._read, self._read + tokens.shape[1]
        self.kept = min(self.seen, self.window - 1)
        self.held = self.kept + tokens.shape[1]
        self._pairs, self._made = self._made, []
        joined = tokens if self._tokens is None else torch.cat((self._tokens, tokens), dim=1)
        self._tokens = joined[:, -MIXED_BEFORE:]
        return joined

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the present piece (B, T, G, W) -> those of which it sees some (B, held, G, W)."""
        if self._pairs:
            k, v = (
                torch.cat((before[:, before.shape[1] - self.held + x.shape[1] :], x), dim=1)
                for before, x in zip(self._pairs[len(self._made)], (k, v), strict=True)
            )
        self._made.append((k.detach(), v.detach()))
        return k, v

    def keep(self, rows: int) -> None:
        """Go on with the first ``rows`` rows alone."""
        self._made = [(k[:rows], v[:rows]) for k, v in self._made]
        self._tokens = None if self._tokens is None else self._tokens[:rows]


class FixedPast(Past):
    """A past that stays in the same memory, piece after piece of one size: a CUDA graph can hold what reads it.

    How many tokens there are is a number on the device; of the ``held`` places of a row, those behind hold zeros or
    what a piece left there. A piece may be of the first rows alone. Before each, :meth:`make_room`.

    Args:
        window: as for :class:`Past`.
        rows: the most that there will be.
        device: where they are.
    """

    seen: Tensor
    kept: Tensor

    def __init__(self, window: int, rows: int, device: torch.device) -> None:
        super().__init__(window)
        self.rows, self.held = rows, 2 * window
        self.seen, self.kept = torch.zeros(2, dtype=torch.int64, device=device)
        self._last = torch.full((rows, MIXED_BEFORE), -1, device=device)
        self._filled = 0  # what ``kept`` is, known without waiting for the device

    def forget(self) -> None:
        """Begin anew, with other documents."""
        self._filled = 0
        self._last.fill_(-1)
        # What is masked is multiplied by 0, which a NaN that another document left would outlive.
        torch._foreach_zero_([self.seen, self.kept, *(room for pair in self._pairs for room in pair)])

    def make_room(self, count: int) -> None:
        """For a piece of so many tokens, at most ``window``."""
        if self._filled + count > self.held:
            start, self._filled = self._filled - self.window + 1, self.window - 1
            for room in (room for pair in self._pairs for room in pair):
                room[:, : self._filled] = room[:, start : start + self._filled].clone()
            self.kept.fill_(self._filled)
        self._filled += count

    def begin(self, tokens: Tensor) -> Tensor:
        """See :meth:`Past.begin`."""
        rows, count = tokens.shape
        self._read, self._places = 0, self.kept + torch.arange(count, device=tokens.device)
        joined = torch.cat((self._last[:rows], tokens), dim=1)
        self._last[:rows] = joined[:, -MIXED_BEFORE:]
        return joined

    def extend(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Past.extend`; what stands behind the piece says nothing."""
        if self._read == len(self._pairs):  # the first pass of all
            self._pairs.append((self._room(k), self._room(v)))
        rooms, self._read = self._pairs[self._read], self._read + 1
        whole_k, whole_v = (_Put.apply(x, room[: len(x)], self._places) for room, x in zip(rooms, (k, v), strict=True))
        return whole_k, whole_v

    def _room(self, x: Tensor) -> Tensor:
        return x.new_zeros(self.rows, self.held, *x.shape[2:])

    def advance(self) -> None:
        """The piece is read: the next stands behind it."""
        self.seen += self._places.numel()
        self.kept += self._places.numel()


class _Put(torch.autograd.Function):
    """x (B, T, ...) put into its ``places`` (T,) of ``room`` (B, S, ...) -> the room; only x has a gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, room: Tensor, places: Tensor) -> Tensor:
        ctx.places = places
        return room.index_copy_(1, places, x).detach()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad.index_select(1, ctx.places), None, None
