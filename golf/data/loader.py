"""Windows of tokens: batches to train on, samples to calibrate with.

A window is ``seq_len + 1`` consecutive tokens; window ``i`` starts at token ``i * seq_len`` of the concatenated
shards, so every token but the first is a target once an epoch. Each epoch visits the windows in an order of its
own, computed and never stored: a keyed Feistel permutation, whose value at any place costs the same in a corpus of
a thousand windows or of a billion.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golf.data.shards import list_shards, read_shard
from golf.runtime.errors import ConfigError, DataError, MissingInput

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


class TrainLoader:
    """Batches of the training split, addressable by step.

    Args:
        folder: shards of ``split``; they stay on disk, memory-mapped.
        seq_len: tokens of a window.
        batch_tokens: tokens of a step over all ranks, a multiple of ``seq_len * world_size``.
        seed: with the epoch, determines the order of the windows.

    Raises:
        ConfigError: the batch does not divide into windows and ranks.
        DataError: fewer tokens than one step needs.
        MissingInput: no shard of ``split``.
    """

    def __init__(
        self,
        folder: Path | str,
        *,
        seq_len: int,
        batch_tokens: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
    ) -> None:
        if batch_tokens <= 0 or batch_tokens % (seq_len * world_size):
            raise ConfigError(
                f"train.batch_tokens: found {batch_tokens}, needed a multiple of train.seq_len x ranks "
                f"= {seq_len} x {world_size}",
                hint=f"dvc exp run -S train.batch_tokens={seq_len * world_size}",
            )
        if not 0 <= rank < world_size:
            raise ConfigError(f"rank: found {rank}, needed 0 to {world_size - 1}")
        paths = list_shards(folder, split)
        if not paths:
            raise MissingInput(f"{folder}: no shard of the split {split!r}", hint="dvc repro tokenize")
        self._shards = [read_shard(path) for path in paths]
        self._ends = np.cumsum([shard.size for shard in self._shards])
        self.tokens = int(self._ends[-1])
        self.seq_len = seq_len
        self.seed = seed
        self.rank = rank
        self.windows = max(self.tokens - 1, 0) // seq_len
        self.step_windows = batch_tokens // seq_len
        self._rank_windows = self.step_windows // world_size
        if self.windows < self.step_windows:
            raise DataError(
                f"{folder}: {self.tokens:,} tokens of the split {split!r}, a step needs {batch_tokens + 1:,}",
                hint=f"dvc exp run -S train.batch_tokens={max(self.windows, 1) * seq_len} (or more text)",
            )

    @property
    def steps_per_epoch(self) -> float:
        """Steps until every window was seen once."""
        return self.windows / self.step_windows

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """This rank's inputs and targets of ``step``: int64 (batch_tokens / seq_len / world_size, seq_len) each."""
        first = step * self.step_windows + self.rank * self._rank_windows
        places = np.arange(first, first + self._rank_windows, dtype=np.int64)
        epochs = places // self.windows
        indexes = np.empty_like(places)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            indexes[chosen] = permute(places[chosen] % self.windows, self.windows, f"epoch/{self.seed}/{epoch}")
        return _split(_gather(self._shards, self._ends, indexes * self.seq_len, self.seq_len + 1))


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
    return torch.from_numpy(_gather([tokens], np.array([tokens.size]), indexes * seq_len, seq_len + 1))


def _split(rows: np.ndarray) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(rows[:, :-1].copy()), torch.from_numpy(rows[:, 1:].copy())


def _gather(shards: Sequence[np.ndarray], ends: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Rows of ``length`` tokens from ``starts`` on, int64; a row may reach over shards."""
    rows = np.empty((starts.size, length), dtype=np.int64)
    for row, start in zip(rows, starts, strict=True):
        shard = int(np.searchsorted(ends, start, side="right"))
        filled = 0
        while filled < length:
            begin = int(start) + filled - (int(ends[shard - 1]) if shard else 0)
            piece = shards[shard][begin : begin + length - filled]
            row[filled : filled + piece.size] = piece
            filled += piece.size
            shard += 1
    return rows
