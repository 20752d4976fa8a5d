"""How much of the validation split stands in the training text: whole documents, and 13-grams of tokens.

A preparation that cuts the splits wrongly leaves validation documents in the training shards; pages that were copied
with another footer show only in their n-grams. The n-grams of validation are hashed to 64 bits, sorted and held in
memory (of a large split a fixed share of all hashes, an unbiased sample); the training tokens stream past them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from golf.data.cores import available_cores
from golf.data.scan import Documents, shared_documents

GRAM = 13  # tokens; n-grams that hold a BOS are none of a document's
REPEATED = 0.8  # of a document's n-grams in the training text: the document, or all but a frame around it, is a copy
JUDGED = 8  # n-grams, in the sample, that a document needs for a share of its own
_HELD = 1 << 22  # n-grams in memory, at most: 32 MB of hashes; a larger split is sampled down to them
_FILTER_BITS = 25  # a byte each, in front of the sorted hashes
_BLOCK = 1 << 15  # tokens hashed at a time: what that takes stays in a core's cache
_PIECE = 1 << 22  # tokens a thread takes at a time
_BASE, _MIX = 0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93  # odd 64-bit numbers
_BASE2, _BASE4 = _BASE**2 % 2**64, _BASE**4 % 2**64


@dataclass(frozen=True)
class Overlap:
    """What validation shares with the training text.

    Attributes:
        documents: validation documents.
        same: those that stand in the training text token by token.
        judged: those with at least :data:`JUDGED` n-grams in the sample.
        repeated: of the judged, those with at least :data:`REPEATED` of their n-grams in the training text.
        grams: n-grams of validation that were looked for.
        seen: those found.
        sampled: one in so many n-grams was looked for.
    """

    documents: int
    same: int
    judged: int
    repeated: int
    grams: int
    seen: int
    sampled: int


def overlap(val: Sequence[np.ndarray], train: Sequence[np.ndarray], bos_id: int) -> Overlap:
    """Compare the shards of two splits, uint16 (T,) each; documents and n-grams may reach over shards."""
    documents, others = (
        Documents(list(shards), [np.flatnonzero(shard == bos_id) for shard in shards]) for shards in (val, train)
    )
    index = GramIndex(np.concatenate(val) if val else np.zeros(0, np.uint16), documents.starts, bos_id)
    with ThreadPoolExecutor(available_cores()) as pool:
        for _ in pool.map(index.look_up, pieces(train)):
            pass
    found, looked_for = index.by_document(documents.starts.size)
    judged = looked_for >= JUDGED
    return Overlap(
        documents=documents.starts.size,
        same=len(shared_documents(documents, others)),
        judged=int(judged.sum()),
        repeated=int((judged & (found >= REPEATED * looked_for)).sum()),
        grams=index.place.size,
        seen=int(index.seen[index.place].sum()),
        sampled=1 << index.shift,
    )


class GramIndex:
    """The n-grams of a stream (T,), to be looked up; ``starts`` are the places of its documents."""

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, bos_id: int) -> None:
        self.shift = max(int(np.ceil(np.log2(max(tokens.size, 1) / _HELD))), 0)
        self.limit = np.uint64((1 << (64 - self.shift)) - 1)  # the sample: hashes up to here
        hashes, places = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
        for first, block in blocks(tokens):
            found = gram_hashes(block)
            marks = np.concatenate(([0], np.cumsum(block == bos_id)))
            chosen = np.flatnonzero((found <= self.limit) & (marks[GRAM:] == marks[:-GRAM]))
            hashes.append(found[chosen])
            places.append(chosen + first)
        self.hashes, self.place = np.unique(np.concatenate(hashes), return_inverse=True)
        self.document = np.searchsorted(starts, np.concatenate(places), side="right") - 1
        self.seen = np.zeros(self.hashes.size, dtype=bool)
        self.filter = np.zeros(1 << _FILTER_BITS, dtype=bool)
        self.filter[self._slot(self.hashes)] = True

    def _slot(self, hashes: np.ndarray) -> np.ndarray:
        """The bits of a hash that follow those which the sample has at zero."""
        return (hashes >> np.uint64(64 - _FILTER_BITS - self.shift)).view(np.int64)

    def look_up(self, tokens: np.ndarray) -> None:
        """Mark the n-grams that stand in ``tokens`` (N,); threads may do it at once."""
        if self.hashes.size == 0:
            return
        for _, block in blocks(tokens):
            hashes = gram_hashes(block)
            if self.shift:
                hashes = hashes[hashes <= self.limit]
            hashes = hashes[self.filter[self._slot(hashes)]]
            place = np.minimum(np.searchsorted(self.hashes, hashes), self.hashes.size - 1)
            self.seen[place[self.hashes[place] == hashes]] = True

    def by_document(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(documents,) n-grams found of each, and looked for; those before the first document are no document's."""
        own = self.document >= 0
        found = np.bincount(self.document[own & self.seen[self.place]], minlength=count)
        return found, np.bincount(self.document[own], minlength=count)


def gram_hashes(tokens: np.ndarray) -> np.ndarray:
    """uint16 (N,) -> uint64 (N - 12,): a polynomial of each 13 tokens modulo 2^64, its high bits mixed from all.

    By doubling: 13 = 8 + 4 + 1, so five products a token in place of twelve.
    """
    one = tokens.astype(np.uint64)
    base, base2, base4 = np.uint64(_BASE), np.uint64(_BASE2), np.uint64(_BASE4)
    two = one[:-1] * base + one[1:]
    four = two[:-2] * base2 + two[2:]
    eight = four[:-4] * base4 + four[4:]
    twelve = eight[:-4] * base4 + four[8:]
    result = twelve[:-1] * base + one[GRAM - 1 :]
    result ^= result >> np.uint64(32)
    result *= np.uint64(_MIX)
    return result


def blocks(tokens: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(place, tokens) of blocks that hold each n-gram of ``tokens`` once."""
    for first in range(0, tokens.size - GRAM + 1, _BLOCK):
        yield first, tokens[first : first + _BLOCK + GRAM - 1]


def pieces(shards: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """The stream of all shards in pieces that hold each n-gram once, those over two shards too."""
    rest = np.zeros(0, np.uint16)
    for shard in shards:
        head = np.concatenate((rest, shard[: GRAM - 1]))
        yield head
        for first in range(0, shard.size - GRAM + 1, _PIECE):
            yield shard[first : first + _PIECE + GRAM - 1]
        rest = head[-(GRAM - 1) :] if shard.size < GRAM - 1 else shard[1 - GRAM :]
