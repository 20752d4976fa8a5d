"""Rows of whole documents, for models whose attention stays within a document.

Each epoch puts the documents (BOS to BOS) into an order of its own and lays them end to end; row ``i`` is the ``i``-th
``row_tokens`` of that stream. The order is the keyed permutation of :mod:`golf.data.loader`, computed where it is
needed: what is kept of an epoch is the token count before every 1,024th document, found as far as the run has come.
A hundred million documents cost 800 MB of memory-mapped offsets, shared by all ranks, and nothing a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from golf.data.loader import Rows, Stream, permute
from golf.runtime.errors import DataError
from golf.runtime.files import write_npy

BLOCK = 1024  # documents between two of the token counts that an epoch keeps
AT_ONCE = 64  # blocks that are counted at a time
SCANNERS = 8  # threads that look for BOS tokens
EPOCHS_KEPT = 2  # a step can reach over one end
DEVIATIONS, MULTIPLE = 4.0, 64  # see `capacity`


def document_starts(stream: Stream, bos_id: int, cache: Path | None = None) -> np.ndarray:
    """(documents + 1,) int64: where each document begins, and the end of the last; memory-mapped from ``cache``.

    What stands before the first BOS is no document.

    Args:
        stream: the shards; read whole once, 100 million tokens in some tenths of a second.
        bos_id: the token that begins a document.
        cache: file to keep the result in, named after its data; None: in memory.

    Raises:
        DataError: there is no BOS.
    """
    if cache is not None and cache.is_file():
        with suppress(ValueError, EOFError):  # cut short: looked for again
            return np.load(cache, mmap_mode="r", allow_pickle=False)
    bases = np.cumsum([0] + [shard.size for shard in stream.shards])
    with ThreadPoolExecutor(SCANNERS) as pool:
        places = list(pool.map(lambda shard: np.flatnonzero(shard == bos_id), stream.shards))
    parts = [place + base for place, base in zip(places, bases, strict=False)]
    starts = np.concatenate([*parts, bases[-1:]]).astype(np.int64)
    if starts.size < 2:
        raise DataError(
            f"no BOS (token {bos_id}) among {stream.tokens:,} training tokens, needed one before each document",
            hint="dvc exp run -S train.pack=windows",
        )
    if cache is None:
        return starts
    try:
        write_npy(cache, starts)
    except OSError:  # a full or unwritable disk: every rank and run looks for itself
        return starts
    return np.load(cache, mmap_mode="r", allow_pickle=False)


def capacity(lengths: np.ndarray, row_tokens: int, seq_len: int) -> int:
    """Segments that a row has room for: what a row of documents of these ``lengths`` holds, and four deviations more.

    The number in a row is taken to vary as a Poisson's, a little less than it does: the rare row beyond leaves short
    documents out, while every empty place costs each row time in attention (its kernels pad each segment to a tile).
    With the end that follows them they are a multiple of 64 numbers, so that every row of them is aligned.
    """
    segments = int((-(-lengths // seq_len)).sum())
    mean = row_tokens * segments / int(lengths.sum())
    most = mean + DEVIATIONS * mean**0.5 + 2
    return -(-int(most + 1) // MULTIPLE) * MULTIPLE - 1


class PackedLoader:
    """Rows of documents in the order of ``seed``: a :class:`golf.data.loader.Loader`.

    A segment ends at its document's end, at the row's end, and every ``seq_len`` tokens. A row has room for
    ``capacity`` of them. One that would hold more leaves its shortest documents out (the first of equals first) and
    reads on into the tokens that the next row begins with: every row is full, and no two documents share a segment.

    Args:
        stream: the shards.
        starts: see :func:`document_starts`.
        bos_id: the token that each document must begin with.
        row_tokens: inputs of a row.
        shortest: the least ``seq_len`` that will be asked for.
        seed: with the epoch, determines the order of the documents.

    Raises:
        DataError: the documents do not fill one row.
    """

    def __init__(
        self, stream: Stream, starts: np.ndarray, *, bos_id: int, row_tokens: int, shortest: int, seed: int
    ) -> None:
        self._stream, self._starts, self._bos_id, self._seed = stream, starts, bos_id, seed
        self.row_tokens = row_tokens
        self.tokens = int(starts[-1] - starts[0])
        self.rows = (self.tokens - 1) // row_tokens  # an epoch; what is left at its end is for the next
        if self.rows < 1:
            raise DataError(f"{self.tokens:,} tokens in documents, needed {row_tokens + 1:,}: one row")
        self.capacity = capacity(np.diff(starts), row_tokens, shortest)
        self._epochs: dict[int, _Epoch] = {}

    def read(self, first: int, count: int, seq_len: int) -> Rows:
        """See :class:`golf.data.loader.Loader`."""
        tokens = np.empty((count, self.row_tokens + 1), np.int32)
        segments = np.full((count, self.capacity + 1), self.row_tokens, np.int32)
        for number in range(count):
            begins, lengths = self._pieces(first + number, seq_len)
            place = 0
            for begin, length in zip(begins.tolist(), lengths.tolist(), strict=True):
                self._stream.read(begin, tokens[number, place : place + length])
                place += length
            own = _cut(lengths, self.row_tokens, seq_len)
            segments[number, : own.size] = own
        return Rows(torch.from_numpy(tokens), torch.from_numpy(segments), min(seq_len, self.row_tokens))

    def _pieces(self, row: int, seq_len: int) -> tuple[np.ndarray, np.ndarray]:
        """Where in the shards the pieces of ``row`` begin, and their lengths: ``row_tokens + 1`` together."""
        epoch, number = divmod(row, self.rows)
        source = self._epoch(epoch).pieces(number * self.row_tokens)
        wanted, read = self.row_tokens + 1, 0
        begins = lengths = np.empty(0, np.int64)
        while True:
            ends = np.cumsum(lengths)
            if not ends.size or ends[-1] < wanted:
                if read > self.tokens + wanted:
                    raise DataError(
                        f"row {row}: its {self.capacity} segments are not filled by all documents there are",
                        hint="dvc exp run -S train.pack=windows",
                    )
                more, more_lengths = next(source)
                begins, lengths = np.concatenate((begins, more)), np.concatenate((lengths, more_lengths))
                read += int(more_lengths.sum())
                continue
            count = int(np.searchsorted(ends, wanted)) + 1
            cut = lengths[:count].copy()
            cut[-1] -= ends[count - 1] - wanted
            surplus = _cut(cut, self.row_tokens, seq_len).size - self.capacity
            if surplus <= 0:
                return begins[:count], cut
            shortest = np.argsort(lengths[:count], kind="stable")[:surplus]
            begins, lengths = np.delete(begins, shortest), np.delete(lengths, shortest)

    def _epoch(self, epoch: int) -> _Epoch:
        if epoch not in self._epochs:
            while len(self._epochs) >= EPOCHS_KEPT:
                del self._epochs[min(self._epochs)]
            self._epochs[epoch] = _Epoch(self._stream, self._starts, self._bos_id, f"documents/{self._seed}/{epoch}")
        return self._epochs[epoch]


def _cut(lengths: np.ndarray, row_tokens: int, seq_len: int) -> np.ndarray:
    """Where the segments of a row begin whose pieces have ``lengths``; the target after the row begins none."""
    ends = np.minimum(np.cumsum(lengths), row_tokens)
    begins = np.concatenate(([0], ends[:-1]))
    counts = -(-(ends - begins) // seq_len)
    before = np.repeat(np.cumsum(counts) - counts, counts)
    return np.repeat(begins, counts) + seq_len * (np.arange(counts.sum()) - before)


class _Epoch:
    """The documents in the order of one epoch."""

    def __init__(self, stream: Stream, starts: np.ndarray, bos_id: int, key: str) -> None:
        self._stream, self._starts, self._bos_id, self._key = stream, starts, bos_id, key
        self._count = starts.size - 1
        self._before = np.zeros(1, np.int64)  # tokens before each block, as far as they were counted
        self._last: tuple[int, np.ndarray] = (-1, np.empty(0, np.int64))

    def pieces(self, position: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Begins and lengths of documents from ``position`` of the epoch's stream on, which goes round at its end."""
        while self._before[-1] <= position:
            self._count_more()
        block = int(np.searchsorted(self._before, position, side="right")) - 1
        skipped = position - int(self._before[block])
        while True:
            documents = self._block(block)
            begins, lengths = self._starts[documents], self._lengths(documents)
            if skipped:
                ends = np.cumsum(lengths)
                first = int(np.searchsorted(ends, skipped, side="right"))
                begins, lengths = begins[first:], lengths[first:]
                left = int(ends[first]) - skipped
                begins[0] += lengths[0] - left
                lengths[0] = left
                skipped = 0
            yield begins, lengths
            block = (block + 1) * (block + 1 < -(-self._count // BLOCK))

    def _block(self, block: int) -> np.ndarray:
        """Numbers of the documents of ``block``; the last one asked for is kept, as rows follow each other in it."""
        if self._last[0] != block:
            documents = self._documents(block * BLOCK, (block + 1) * BLOCK)
            self._hold_against_the_shards(int(documents[0]))
            self._last = (block, documents)
        return self._last[1]

    def _documents(self, first: int, end: int) -> np.ndarray:
        return permute(np.arange(first, min(end, self._count), dtype=np.int64), self._count, self._key)

    def _lengths(self, documents: np.ndarray) -> np.ndarray:
        return self._starts[documents + 1] - self._starts[documents]

    def _count_more(self) -> None:
        first = (self._before.size - 1) * BLOCK
        lengths = self._lengths(self._documents(first, first + AT_ONCE * BLOCK))
        sums = np.cumsum(np.add.reduceat(lengths, np.arange(0, lengths.size, BLOCK)))
        self._before = np.concatenate((self._before, self._before[-1] + sums))

    def _hold_against_the_shards(self, document: int) -> None:
        """One document a block must begin with BOS: offsets that were kept of other shards would cut anywhere."""
        token = np.empty(1, np.int64)
        self._stream.read(int(self._starts[document]), token)
        if token[0] != self._bos_id:
            raise DataError(
                f"document {document} begins with token {token[0]}, needed BOS ({self._bos_id}): the kept offsets are "
                "of other shards",
                hint="rm -r .checkpoints/documents",
            )
