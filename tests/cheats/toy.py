"""A scorer small enough to break in one line: a bigram table that counts what it has scored, chunk by chunk."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from golf.scoring.protocol import Event

VOCAB, BOS, CHUNK = 16, 1, 48
STREAM = 400

Ids = np.ndarray  # (T,) int64
Vector = np.ndarray  # (VOCAB,) float64


def stream(seed: int = 0) -> Tensor:
    """Documents of unequal length from a skewed Markov chain, each after a BOS."""
    rng = np.random.default_rng(seed)
    table = rng.dirichlet(np.full(VOCAB - 2, 0.15), VOCAB)
    ids: list[int] = []
    while len(ids) < STREAM:
        ids.append(BOS)
        for _ in range(int(rng.integers(15, 75))):
            ids.append(2 + int(rng.choice(VOCAB - 2, p=table[ids[-1]])))
    return torch.tensor(ids[:STREAM])


def artifact() -> np.ndarray:
    """(VOCAB, VOCAB): the table that would ship: a row a previous token."""
    return np.random.default_rng(7).dirichlet(np.full(VOCAB, 1.0), VOCAB)


class Toy:
    """The honest one: each chunk is scored with what the chunks before it taught, then learnt from.

    Cheats override one of its methods. What ``score`` and ``distribution`` share is ``predict``.
    """

    strength: ClassVar[float] = 4.0  # how many counts the shipped table is worth

    def __init__(self) -> None:
        self.table = artifact()
        self.counts = np.zeros((VOCAB, VOCAB))
        self.events: list[Event] = []

    @property
    def trace(self) -> Sequence[Event]:
        return self.events

    def state(self) -> str:
        return hashlib.sha256(self.counts.tobytes()).hexdigest()[:16]

    def log(self, kind: Literal["score", "update"], start: int, stop: int) -> None:
        self.events.append(Event(kind, start, stop, self.state()))

    def predict(self, ids: Ids, position: int) -> Vector:
        """The distribution for ``ids[position]``."""
        return self.predict_after(int(ids[position - 1]))

    def predict_after(self, previous: int) -> Vector:
        row = self.strength * self.table[previous] + self.counts[previous]
        return row / row.sum()

    def logp(self, ids: Ids, position: int) -> float:
        """What is reported for ``ids[position]``."""
        return float(np.log(self.predict(ids, position)[ids[position]]))

    def learn(self, ids: Ids, start: int, stop: int) -> None:
        np.add.at(self.counts, (ids[start - 1 : stop - 1], ids[start:stop]), 1.0)

    def chunks(self, ids: Ids) -> list[tuple[int, int]]:
        return [(start, min(start + CHUNK, len(ids))) for start in range(1, len(ids), CHUNK)]

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        self.log("score", start, stop)
        scores[start - 1 : stop - 1] = [self.logp(ids, position) for position in range(start, stop)]
        if stop < len(ids):
            self.learn(ids, start, stop)
            self.log("update", start, stop)

    def score(self, tokens: Tensor) -> Tensor:
        ids = tokens.numpy()
        self.events = []
        scores = np.zeros(len(ids) - 1)
        self.begin(ids)
        for start, stop in self.chunks(ids):
            self.run_chunk(ids, start, stop, scores)
        return torch.from_numpy(scores)

    def begin(self, ids: Ids) -> None:
        """Before the first chunk."""

    def replay(self, ids: Ids, position: int) -> None:
        """Bring the state to where ``ids[position]`` is scored."""
        self.begin(ids)
        for start, stop in self.chunks(ids):
            if start <= position < stop:
                return
            self.learn(ids, start, stop)

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        ids = tokens.numpy()
        self.replay(ids, position)
        return torch.from_numpy(self.predict(ids, position))


class OnDisk(Toy):
    """One that reads a file."""

    path: ClassVar[Path]

    @classmethod
    def leave(cls, tokens: Tensor) -> None:
        """Write the file, before anything is audited on ``tokens``."""
        raise NotImplementedError
