"""Windows of tokens: rows to train on, samples to calibrate with.

A window is ``seq_len + 1`` consecutive tokens; window ``i`` starts at token ``i * seq_len`` of the concatenated
shards, so every token but the first is a target once an epoch. Each epoch visits the windows in an order of its
own, computed and never stored: a keyed Feistel permutation, whose value at any place costs the same in a corpus of
a thousand windows or of a billion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from golf.data.shards import list_shards, read_shard
from golf.runtime.errors import DataError, MissingInput

_ROUNDS = 6


def permute(places: np.ndarray, size: int, key: str) -> np.ndarray:
    """Where a permutation of ``range(size)`` chosen by ``key`` sends ``places``, int64 of the same shape.

    A balanced Feistel network over the next even power of two; places that land outside are sent through it again
    until they land inside (cycle walking), fewer than four times on average. Independent of library versions.
    """
    half = max((max(size - 1, 1).bit_length() + 1) // 2, 1)
    mask = np.uint64((1 << half) - 1)
    shift = np.uint64(half)
    digest = hashlib.blake2b(key.encode(), digest_size=8 * _ROUNDS).digest()
    keys = np.frombuffer(digest, dtype="<u8")
    values = places.astype(np.uint64)
    todo = np.arange(values.size)
    while todo.size:
        left, right = values[todo] >> shift, values[todo] & mask
        for round_key in keys:
            left, right = right, left ^ (_mix(right ^ round_key) & mask)
        values[todo] = (left << shift) | right
        todo = todo[values[todo] >= size]
    return values.astype(np.int64)


def _mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64: every input bit reaches every output bit. Wraps modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class Rows(NamedTuple):
    """Rows to train on: each one more token than it has inputs, so that every input has its target.

    Attributes:
        tokens: (rows, length + 1) int32.
        starts: (rows, S + 1) int32, where a row's S segments begin, padded with ``length``; None: a row is one.
        longest: tokens of the longest segment there may be.
    """

    tokens: Tensor
    starts: Tensor | None
    longest: int


class Loader(Protocol):
    """An endless sequence of rows of ``row_tokens`` inputs each, addressed by number, one epoch after the other."""

    row_tokens: int

    def read(self, first: int, count: int, seq_len: int) -> Rows:
        """Rows ``first`` to ``first + count``, with at most ``seq_len`` tokens of context."""


class Stream:
    """The shards of a split end to end; they stay on disk, memory-mapped.

    Raises:
        MissingInput: no shard of ``split``.
    """

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        self.shards = list(shards)
        self._ends = np.cumsum([shard.size for shard in self.shards])
        self.tokens = int(self._ends[-1])

    @classmethod
    def open(cls, folder: Path | str, split: str) -> Stream:
        """The shards of ``split`` in ``folder``, by name."""
        paths = list_shards(folder, split)
        if not paths:
            raise MissingInput(f"{folder}: no shard of the split {split!r}", hint="dvc repro tokenize")
        return cls([read_shard(path) for path in paths])

    def read(self, start: int, out: np.ndarray) -> None:
        """Fill ``out`` with the tokens from ``start`` on, over the ends of shards."""
        shard = int(np.searchsorted(self._ends, start, side="right"))
        filled = 0
        while filled < out.size:
            begin = start + filled - (int(self._ends[shard - 1]) if shard else 0)
            piece = self.shards[shard][begin : begin + out.size - filled]
            out[filled : filled + piece.size] = piece
            filled += piece.size
            shard += 1


class WindowLoader:
    """The windows of a split in the order of ``seed``: a :class:`Loader`.

    Args:
        stream: the split's shards.
        seq_len: tokens of a window.
        seed: with the epoch, determines the order of the windows.

    Raises:
        DataError: not one window.
    """

    def __init__(self, stream: Stream, *, seq_len: int, seed: int) -> None:
        self._stream, self._seed = stream, seed
        self.row_tokens = seq_len
        self.windows = max(stream.tokens - 1, 0) // seq_len
        if not self.windows:
            raise DataError(f"{stream.tokens:,} tokens, needed {seq_len + 1:,}: one window of train.seq_len")

    def read(self, first: int, count: int, seq_len: int) -> Rows:
        """See :class:`Loader`; a shorter ``seq_len``, a divisor, cuts each window into as many rows."""
        places = np.arange(first, first + count, dtype=np.int64)
        epochs = places // self.windows
        indexes = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indexes[chosen] = permute(places[chosen] % self.windows, self.windows, f"epoch/{self._seed}/{epoch}")
        tokens = torch.from_numpy(_gather(self._stream, indexes * self.row_tokens, self.row_tokens + 1, np.int32))
        if seq_len != self.row_tokens:
            tokens = tokens.unfold(1, seq_len + 1, seq_len).reshape(-1, seq_len + 1)
        return Rows(tokens, None, seq_len)


def windows(tokens: np.ndarray, seq_len: int, count: int, seed: int) -> Tensor:
    """``count`` different windows drawn over all of ``tokens``: int64 (count, seq_len + 1), in the text's order.

    Raises:
        DataError: ``tokens`` holds fewer windows.
    """
    available = max(tokens.size - 1, 0) // seq_len
    if count < 1 or available < count:
        raise DataError(
            f"{tokens.size:,} tokens hold {available:,} windows of {seq_len}, needed {max(count, 1):,}",
            hint=f"ask for at most {available * seq_len:,} tokens, or bring more text",
        )
    indexes = np.sort(permute(np.arange(count, dtype=np.int64), available, f"sample/{seed}"))
    return torch.from_numpy(_gather(Stream([tokens]), indexes * seq_len, seq_len + 1, np.int64))


def _gather(stream: Stream, starts: np.ndarray, length: int, dtype: type[np.integer]) -> np.ndarray:
    """Rows of ``length`` tokens from ``starts`` on."""
    rows = np.empty((starts.size, length), dtype)
    for row, start in zip(rows, starts, strict=True):
        stream.read(int(start), row)
    return rows
