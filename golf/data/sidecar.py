"""Bytes of the original text that each token of transformed text stands for: what a sidecar holds.

A character counts at the token that completes it: of the bytes of a character that is no piece, the last one counts
all. A marker counts none, unless it is text itself, behind an ESC; a BOS counts none; all letters count as they did
before the transform (:mod:`golf.data.caseops`). As in the byte table, a space right behind a boundary (BOS above all)
counts none.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from golf.data.caseops import MARKERS
from golf.data.tokenizer import SPACE_MARK
from golf.data.transform import marker_ids
from golf.runtime.errors import DataError

TOLERANCE = 0.0005  # of a total, relative: sidecars of others may count white space that was normalised away
_AT_ONCE = 1 << 22  # tokens


class TokenBytes:
    """Counts the bytes of tokens of a SentencePiece model that knows the markers.

    Raises:
        DataError: it does not.
    """

    def __init__(self, model: Any) -> None:
        ids = marker_ids(model)
        if not ids:
            raise DataError("the tokenizer has no markers: its bytes are those of the byte table")
        self.esc = ids[3]
        size = int(model.vocab_size())
        self.piece = np.zeros(size, dtype=np.int64)  # bytes of each, a leading space with them
        self.space_first = np.zeros(size, dtype=bool)
        self.boundary = np.zeros(size, dtype=bool)
        self.byte = np.full(size, -1, dtype=np.int64)  # value of a byte token
        self.marker = np.isin(np.arange(size), ids)
        for index in range(size):
            if model.is_control(index) or model.is_unknown(index) or model.is_unused(index):
                self.boundary[index] = True
                continue
            piece = model.id_to_piece(index)
            if model.is_byte(index):
                self.byte[index] = int(piece[3:5], 16)
            elif not self.marker[index]:
                self.space_first[index] = piece.startswith(SPACE_MARK)
                self.piece[index] = len(piece.removeprefix(SPACE_MARK).encode()) + self.space_first[index]

    def count(self, tokens: np.ndarray) -> np.ndarray:
        """Bytes of each of the tokens (n,) of whole documents, BOS and all: int64 (n,)."""
        counts = self.piece[tokens]
        counts[1:] -= self.space_first[tokens[1:]] & self.boundary[tokens[:-1]]
        counts[self.literal(tokens)] = len(MARKERS[0].encode())
        value = self.byte[tokens]
        if (value >= 0).any():
            follows = (value & 0xC0 == 0x80) & (value >= 0)
            first = np.flatnonzero((value >= 0) & ~follows)
            last = np.flatnonzero((value >= 0) & ~np.append(follows[1:], False))
            counts[last] = last - first + 1
        return counts

    def literal(self, tokens: np.ndarray) -> np.ndarray:
        """Places of the markers that are text, in order: those behind an ESC that is none."""
        places: list[int] = []
        for place in (np.flatnonzero(tokens[:-1] == self.esc) + 1).tolist():
            if self.marker[tokens[place]] and not (places and places[-1] == place - 1):
                places.append(place)
        return np.array(places, dtype=np.int64)

    def defect(self, tokens: np.ndarray, counts: np.ndarray) -> tuple[str, str, str] | None:
        """What is wrong with the ``counts`` (n,) that a sidecar holds for ``tokens`` (n,): what, found, needed."""
        wrong = total = 0
        for start in range(0, tokens.size, _AT_ONCE):
            ids, held = tokens[start : start + _AT_ONCE], counts[start : start + _AT_ONCE]
            silent = self.marker[ids]
            silent[self.literal(ids)] = False
            wrong += int(np.count_nonzero(held[silent]))
            total += int(self.piece[ids].sum()) + int(np.count_nonzero(self.byte[ids] >= 0))
        if wrong:
            return "bytes of markers", f"{wrong:,} that count some", "0: they stand for no text"
        found = int(counts.sum(dtype=np.int64))
        if abs(found - total) > max(TOLERANCE * total, len(MARKERS)):
            return "bytes of the sidecar", f"{found:,}", f"{total:,} (the tokens' pieces) within {TOLERANCE:.2%}"
        return None
