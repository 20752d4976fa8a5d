"""A group of documents, read side by side and piece by piece, with what is learnt of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from golf.model.past import Past
from golf.params.eval import Eval
from golf.scoring.documents import Document, pieces
from golf.scoring.lora import RowAdapters
from golf.scoring.recorded import Recorded
from golf.scoring.windows import nll_of

REPAYS = 16  # pieces behind which it has paid to record a step of fewer rows


class Piece(NamedTuple):
    """The same stretch of R documents, those of a group that reach so far."""

    start: int  # of the targets to score, in each document
    tokens: Tensor  # (R, L + 1): inputs and targets, of which the last C targets are to be scored: L > C: read anew
    places: Tensor  # (R, C): the position of each such target, less 1; T - 1 behind a document's end
    going: int  # the first so many rows are read on behind this piece


class Reader:
    """Reads the documents of a group, longest first, of one stream.

    Args:
        model: as for :class:`golf.scoring.document_scorer.DocumentScorer`.
        config: the eval section.
        members: the documents.
        stream: (T,) int64, on the model's device.
        learns: with adapters that learn.
        recorded: whose adapters learn, in steps that are recorded; for pieces of one size.
    """

    def __init__(
        self,
        model: nn.Module,
        config: Eval,
        members: Sequence[Document],
        stream: Tensor,
        *,
        learns: bool,
        recorded: Recorded | None = None,
    ) -> None:
        self.model, self.config, self.members, self.stream = model, config, members, stream
        self.past = Past(config.seq_len)
        self.adapters: RowAdapters | None = None
        self.recorded, self._replayed = recorded, False
        if recorded is not None:
            self.adapters = recorded.begin(len(members))
        elif learns:
            self.adapters = RowAdapters(model, config, len(members))

    def __iter__(self) -> Iterator[Piece]:
        """The pieces in order; between one and the next, :meth:`finish` must be called."""
        members, last, device = self.members, self.stream.numel() - 1, self.stream.device
        starts = torch.tensor([document.start for document in members], device=device)[:, None]
        stops = torch.tensor([document.stop for document in members], device=device)[:, None]
        rows = len(members)
        for begin, start, end in pieces(self.config, self.adapters is not None)(members[0].length):
            stop = end if self.adapters is not None else min(end, members[0].length)
            places = starts[:rows] + torch.arange(begin, stop + 1, device=device)
            scored = places[:, start - begin : -1]
            going = sum(document.length > stop for document in members[:rows])
            if self.recorded is not None and (2 * going > rows or members[0].length < stop + REPAYS * (stop - start)):
                going = rows * (going > 0)  # a step of fewer rows would have to be recorded
            yield Piece(
                start=start,
                tokens=self.stream[places.clamp(max=last)],
                places=torch.where(scored < stops[:rows], scored, last),
                going=going,
            )
            rows = going

    def nll(self, piece: Piece) -> Tensor:
        """(R, C) nats of the targets to score; with a graph back to adapters that will learn from them."""
        learns = self.adapters is not None and piece.going > 0
        if self.recorded is not None and self._replays(self.recorded, piece):
            return self.recorded.nll(piece.tokens)
        with torch.set_grad_enabled(learns):
            return self._forward(piece, piece.tokens[:, -piece.places.shape[1] :])

    def _replays(self, recorded: Recorded, piece: Piece) -> bool:
        """Whether the recorded step is for this piece: one behind others. It then knows what was read of them."""
        behind = piece.start > 0 and piece.tokens.shape[1] == piece.places.shape[1] + 1
        if behind and not self._replayed:
            recorded.load(self.past)
            self.past = Past(self.config.seq_len)
        elif not behind:
            torch.cuda.empty_cache()  # blocks of other sizes, where steps hold half of the memory
        self._replayed = behind
        return behind

    def nll_beside(self, piece: Piece, hints: Tensor) -> tuple[Tensor, Tensor]:
        """The same, and (R, C) nats of ``hints`` in their places, from one forward pass."""
        learns, scored = self.adapters is not None and piece.going > 0, piece.places.shape[1]
        with torch.set_grad_enabled(learns):
            return nll_of(self._forward(piece, None), piece.tokens[:, -scored:], hints)

    def logits(self, piece: Piece) -> Tensor:
        """(R, C, V) instead."""
        with torch.no_grad():
            return self._forward(piece, None)

    def _forward(self, piece: Piece, targets: Tensor | None) -> Tensor:
        adapters = None if self.adapters is None else self.adapters.adapters()
        before, tokens = piece.tokens[:, :-1].tensor_split([-piece.places.shape[1]], 1)
        if before.numel():  # a new window; what stands before the piece is a constant there, too
            self.past = Past(self.config.seq_len)
            with torch.no_grad():
                self.model(before, before[:, :0], adapters, past=self.past)
        result: Tensor = self.model(tokens, targets, adapters, past=self.past)
        return result

    def finish(self, piece: Piece, nll: Tensor) -> None:
        """Learn from a piece's ``nll`` (R, C), if that is to be done yet, and go on with the documents that do."""
        self.past.keep(piece.going)
        if self.adapters is not None and piece.going > 0:
            if not self._replayed:
                self.adapters.learn(nll[: piece.going])
            self.adapters.keep(piece.going)
