"""Legal scorers that look like cheats. All of them must pass every check."""

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
from torch import Tensor

from golf.scoring.protocol import Event
from tests.cheats.toy import BOS, VOCAB, Ids, OnDisk, Toy, Vector, artifact


class Static(Toy):
    """Never learns."""

    def learn(self, ids: Ids, start: int, stop: int) -> None:
        pass


class ChunkTTT(Toy):
    """Score-first test-time training: twin of every cheat that learns too early."""


class ManyEpochs(Toy):
    """Several passes over a chunk that has been scored: legal, twin of the multi-epoch cheat."""

    def learn(self, ids: Ids, start: int, stop: int) -> None:
        for _ in range(3):
            super().learn(ids, start, stop)


class PrefixHintTilt(Toy):
    """p * exp(beta * [hint]) / Z with a hint from the prefix alone, refreshed at every token."""

    beta = 1.0

    def predict(self, ids: Ids, position: int) -> Vector:
        p = super().predict(ids, position)
        earlier = np.flatnonzero(ids[: position - 1] == ids[position - 1])
        if len(earlier):
            p[ids[earlier[-1] + 1]] *= np.exp(self.beta)
        return p / p.sum()


class BlockTilt(Toy):
    """The same with a strength that the blocks before have taught: how often hints were right in them."""

    block: ClassVar[int] = 24

    def hint(self, ids: Ids, position: int) -> int:
        earlier = np.flatnonzero(ids[: position - 1] == ids[position - 1])
        return int(ids[earlier[-1] + 1]) if len(earlier) else -1

    def taught(self, ids: Ids, position: int) -> range:
        """The targets that have been learnt from when ``position`` is scored."""
        return range(1, 1 + (position - 1) // self.block * self.block)

    def predict(self, ids: Ids, position: int) -> Vector:
        p, hint = super().predict(ids, position), self.hint(ids, position)
        right = [self.hint(ids, place) == ids[place] for place in self.taught(ids, position)]
        if hint >= 0 and right:
            p[hint] *= np.exp(2 * np.mean(right))
        return p / p.sum()


class NormalisedMixture(Toy):
    """A cache mixed in with weights that only the prefix decides: the sum stays 1."""

    def predict(self, ids: Ids, position: int) -> Vector:
        cache = np.bincount(ids[max(position - 20, 0) : position], minlength=VOCAB) + 0.01
        weight = 0.3 if position % 2 else 0.1
        return (1 - weight) * super().predict(ids, position) + weight * cache / cache.sum()


class OnlineState(Toy):
    """Updates after every token rather than every chunk."""

    def chunks(self, ids: Ids) -> list[tuple[int, int]]:
        return [(position, position + 1) for position in range(1, len(ids))]


class DocumentReset(Toy):
    """Forgets everything at a BOS: audited with the claim that documents are independent."""

    def chunks(self, ids: Ids) -> list[tuple[int, int]]:
        starts = [int(place) for place in np.flatnonzero(ids == BOS) if place > 0]
        bounds = sorted({1, *(place + 1 for place in starts), len(ids)})
        return list(pairwise(bounds))

    def predict(self, ids: Ids, position: int) -> Vector:
        start = max((int(place) for place in np.flatnonzero(ids[:position] == BOS)), default=0)
        self.counts[:] = 0
        Toy.learn(self, ids, start + 1, position) if position > start + 1 else None
        return Toy.predict(self, ids, position)

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        self.events.append(Event("score", start, stop, "reset"))
        scores[start - 1 : stop - 1] = [self.logp(ids, position) for position in range(start, stop)]


class LoadedFromDisk(OnDisk):
    """Reads its weights from a file when it is made."""

    @classmethod
    def leave(cls, tokens: Tensor) -> None:
        np.save(cls.path, artifact())

    def __init__(self) -> None:
        super().__init__()
        self.table = np.load(self.path)


class KeptOnDisk(Toy):
    """Lays what it has learnt aside in a file of its own, which is gone when the run ends."""

    def score(self, tokens: Tensor) -> Tensor:
        with tempfile.TemporaryDirectory() as folder:
            self.aside = Path(folder) / "counts.npy"
            return super().score(tokens)

    def learn(self, ids: Ids, start: int, stop: int) -> None:
        super().learn(ids, start, stop)
        if hasattr(self, "aside"):
            np.save(self.aside, self.counts)
            self.counts = np.load(self.aside)


TWINS = (Static, ChunkTTT, ManyEpochs, PrefixHintTilt, BlockTilt, NormalisedMixture, OnlineState, DocumentReset,
         LoadedFromDisk, KeptOnDisk)  # fmt: skip
INDEPENDENT = (DocumentReset,)
