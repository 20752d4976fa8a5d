"""A group of documents, read side by side and piece by piece, with what is learnt of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from golf.model.linear import Adapters
from golf.model.past import Past
from golf.params.eval import Eval
from golf.scoring.documents import Document, Stream, pieces
from golf.scoring.lora import RowAdapters
from golf.scoring.recorded import Recorded
from golf.scoring.windows import nll_of

REPAYS = 16  # pieces behind which it has paid to record a step of fewer rows


class Piece(NamedTuple):
    """The same stretch of R documents, those of a group that reach so far."""

    start: int  # in each document
    tokens: Tensor  # (R, C)
    places: Tensor  # (R, C): the position of each one's target, less 1; T - 1 behind a document's end
    going: int  # the first so many rows are read on behind this piece


class Reader:
    """Reads the documents of a group, longest first, of one stream.

    Args:
        model: as for :class:`golf.scoring.document_scorer.DocumentScorer`.
        config: the eval section.
        members: the documents.
        stream: what they are of.
        learns: with adapters that learn.
        recorded: whose adapters learn, in steps that are recorded; for pieces of one size.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Eval,
        members: Sequence[Document],
        stream: Stream,
        *,
        learns: bool,
        recorded: Recorded | None = None,
    ) -> None:
        self.model, self.config, self.members, self.stream = model, config, members, stream
        self.recorded, self.rows = recorded, len(members)
        self.past = Past(config.seq_len)
        self.adapters: RowAdapters | None = None
        if recorded is not None:
            self.rows = recorded.rows if self._is_short(0) else self.rows
            self.adapters = recorded.begin(self.rows)
        elif learns:
            self.adapters = RowAdapters(model, config, self.rows)

    def _is_short(self, start: int) -> bool:
        """Whether what is left of the group is read before a step of its own number of rows would have paid."""
        return self.members[0].length < start + REPAYS * self.config.lora_chunk_tokens

    def __iter__(self) -> Iterator[Piece]:
        """The pieces in order; between one and the next, :meth:`finish` must be called."""
        tokens, rows = self.stream.tokens, self.rows
        last, device = tokens.numel() - 1, tokens.device
        none = [Document(last, last)] * (rows - len(self.members))
        starts, stops = torch.tensor([*self.members, *none], device=device).T[..., None]
        for start, end in pieces(self.config, self.adapters is not None)(self.members[0].length):
            stop = end if self.adapters is not None else min(end, self.members[0].length)
            places = starts[:rows] + torch.arange(start, stop, device=device)
            going = sum(document.length > stop for document in self.members)
            if self.recorded is not None and (2 * going > rows or self._is_short(stop)):
                going = rows * (going > 0)  # a step of fewer rows would have to be recorded
            yield Piece(
                start=start,
                tokens=tokens[places.clamp(max=last)],
                places=torch.where(places < stops[:rows], places, last),
                going=going,
            )
            rows = going

    def nll(self, piece: Piece) -> Tensor:
        """(N, R, C) nats of what follows the piece's tokens; with a graph back to adapters that will learn from it."""
        wanted = self.stream.following[:, piece.places]
        if self.recorded is not None:
            return self.recorded.nll(piece.tokens, wanted)
        with torch.set_grad_enabled(self.adapters is not None and piece.going > 0):
            return nll_of(self.model, piece.tokens, wanted, self._adapters(), None, self.past)

    def logits(self, piece: Piece) -> Tensor:
        """(R, C, V) instead."""
        with torch.no_grad():
            result: Tensor = self.model(piece.tokens, None, self._adapters(), past=self.past)
        return result

    def _adapters(self) -> Adapters | None:
        return None if self.adapters is None else self.adapters.adapters()

    def finish(self, piece: Piece, nll: Tensor) -> None:
        """Learn from a piece's ``nll`` (N, R, C), if that is to be done yet, and go on with the documents that do."""
        self.past.keep(piece.going)
        if self.adapters is not None and piece.going > 0:
            if self.recorded is None:
                self.adapters.learn(nll[0, : piece.going])
            self.adapters.keep(piece.going)
