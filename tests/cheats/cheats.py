"""Scorers that break one rule each, the way the public record did.

Those marked "silent" leave the trace of the honest scorer: what they do must show in the scores alone.
"""

from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from golf.scoring.protocol import Event
from tests.cheats.honest import BlockTilt, DocumentReset
from tests.cheats.toy import BOS, VOCAB, Ids, OnDisk, Toy, Vector, artifact


class FuturePeek(Toy):
    """Raises whatever stands behind the target (silent)."""

    def predict(self, ids: Ids, position: int) -> Vector:
        p = super().predict(ids, position)
        if position + 1 < len(ids):
            p = p * (1 + artifact()[:, ids[position + 1]])
        return p / p.sum()


class TargetInKey(Toy):
    """A cache whose key holds the target: only the true token is ever looked up (silent)."""

    def predict(self, ids: Ids, position: int) -> Vector:
        p = super().predict(ids, position)
        previous, token = int(ids[position - 1]), int(ids[position])
        if (previous * 31 + token) % 3 == 0:
            p[token] *= 2.0
        return p / p.sum()


class WordStartGate(Toy):
    """An expert that only speaks where the target begins a word (silent)."""

    def predict(self, ids: Ids, position: int) -> Vector:
        p = super().predict(ids, position)
        if ids[position] % 2:
            p[1::2] *= 1.5
        return p / p.sum()


class MultiEpoch(Toy):
    """Trains on the whole split for several epochs and reports the last one."""

    def begin(self, ids: Ids) -> None:
        for _ in range(3):
            self.learn(ids, 1, len(ids))
        self.log("update", 1, len(ids))


class PretrainedOnValidation(Toy):
    """Has learnt from the split before the reported pass, and says nothing of it (silent)."""

    def begin(self, ids: Ids) -> None:
        self.learn(ids, 1, len(ids))


class KeepBest(Toy):
    """Two passes over the split; each target keeps the better of its scores."""

    def score(self, tokens: Tensor) -> Tensor:
        first = super().score(tokens)
        events = self.events
        second = super().score(tokens)
        self.events = events + self.events
        return torch.maximum(first, second)


class ScoreTrainRescore(Toy):
    """Scores a chunk, learns from it, scores it again and reports that."""

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        self.log("score", start, stop)
        self.learn(ids, start, stop)
        self.log("update", start, stop)
        self.log("score", start, stop)
        scores[start - 1 : stop - 1] = [self.logp(ids, position) for position in range(start, stop)]


class SilentRescore(ScoreTrainRescore):
    """The same, with the trace of the honest scorer and a distribution to match (silent)."""

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        self.log("score", start, stop)
        self.learn(ids, start, stop)
        scores[start - 1 : stop - 1] = [self.logp(ids, position) for position in range(start, stop)]
        self.log("update", start, stop)

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        ids = tokens.numpy()
        self.replay(ids, position)
        for start, stop in self.chunks(ids):
            if start <= position < stop:
                self.learn(ids, start, stop)
        return torch.from_numpy(self.predict(ids, position))


class TrainThenScore(Toy):
    """Learns from each chunk just before it scores it."""

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        self.learn(ids, start, stop)
        self.log("update", start, stop)
        self.log("score", start, stop)
        scores[start - 1 : stop - 1] = [self.logp(ids, position) for position in range(start, stop)]


class BatchDelta(Toy):
    """SLOT: a bias over the vocabulary, fitted on the targets of a batch that it then scores (silent)."""

    batch: ClassVar[int] = 12

    def predict(self, ids: Ids, position: int) -> Vector:
        start = 1 + (position - 1) // self.batch * self.batch
        fitted = np.bincount(ids[start : start + self.batch], minlength=VOCAB)
        p = super().predict(ids, position) * np.exp(0.3 * fitted)
        return p / p.sum()


class UnnormalisedCache(Toy):
    """Adds what the cache has seen and never divides."""

    def predict(self, ids: Ids, position: int) -> Vector:
        cache = np.bincount(ids[max(position - 20, 0) : position], minlength=VOCAB) / 20
        return np.minimum(super().predict(ids, position) + 0.5 * cache, 1.0)


class GoldOnlyCache(UnnormalisedCache):
    """The same, but the distribution it shows is a normalised one."""

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        shown = super().distribution(tokens, position)
        return shown / shown.sum()


class OracleGate(Toy):
    """Uses the cache where it helps the true token (silent)."""

    def predict(self, ids: Ids, position: int) -> Vector:
        plain = super().predict(ids, position)
        cache = np.bincount(ids[max(position - 20, 0) : position], minlength=VOCAB) + 0.1
        mixed = 0.5 * plain + 0.5 * cache / cache.sum()
        return mixed if mixed[ids[position]] > plain[ids[position]] else plain


class SilentOracleGate(OracleGate):
    """The same, but asked for its distribution it shows the mixture (silent)."""

    def distribution(self, tokens: Tensor, position: int) -> Tensor:
        ids = tokens.numpy()
        self.replay(ids, position)
        plain = Toy.predict(self, ids, position)
        cache = np.bincount(ids[max(position - 20, 0) : position], minlength=VOCAB) + 0.1
        return torch.from_numpy(0.5 * plain + 0.5 * cache / cache.sum())


class TwoPassRescore(Toy):
    """A first pass fills the cache, a second rescores everything with the full cache (silent but for the order)."""

    def score(self, tokens: Tensor) -> Tensor:
        ids = tokens.numpy()
        super().score(tokens)
        self.log("score", 1, len(ids))
        return torch.tensor([self.logp(ids, position) for position in range(1, len(ids))], dtype=torch.float64)


class DoubleScoredTail(Toy):
    """The last windows are cut off by the end, and each scores its last targets again."""

    def score(self, tokens: Tensor) -> Tensor:
        scores = super().score(tokens)
        count = tokens.numel()
        self.events.append(Event("score", count - 20, count, self.state()))
        return torch.cat((scores, scores[-20:]))


class DoubleScoredOverlap(Toy):
    """Windows overlap and the later score, with more context, replaces the earlier."""

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        self.log("score", max(start - 5, 1), stop)
        scores[start - 1 : stop - 1] = [self.logp(ids, position) for position in range(start, stop)]


class SkippedTail(Toy):
    """What does not fill a chunk is dropped."""

    def score(self, tokens: Tensor) -> Tensor:
        whole = 1 + (tokens.numel() - 1) // 48 * 48
        return super().score(tokens[:whole])


class ZeroTail(Toy):
    """What does not fill a chunk is scored with nothing: no bits."""

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        if stop - start == 48:
            super().run_chunk(ids, start, stop, scores)


class BosLeak(DocumentReset):
    """Claims to forget at a BOS, yet looks back at the token before it."""

    def predict(self, ids: Ids, position: int) -> Vector:
        p = super().predict(ids, position)
        if position >= 2 and ids[position - 1] == BOS:
            p = p * (1 + self.table[ids[position - 2]])
        return p / p.sum()


class LengthSorted(Toy):
    """Documents in the order of their length, longest first, with updates that all later ones see."""

    def chunks(self, ids: Ids) -> list[tuple[int, int]]:
        bounds = sorted({1, *(int(place) + 1 for place in np.flatnonzero(ids == BOS) if 0 < place < len(ids) - 1)})
        documents = list(zip(bounds, [*bounds[1:], len(ids)], strict=True))
        return sorted(documents, key=lambda document: document[0] - document[1])

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        self.log("score", start, stop)
        scores[start - 1 : stop - 1] = [self.logp(ids, position) for position in range(start, stop)]
        self.learn(ids, start, stop)
        self.log("update", start, stop)


class DocumentCount(Toy):
    """A temperature that depends on how many documents the stream holds (silent)."""

    def predict(self, ids: Ids, position: int) -> Vector:
        p = super().predict(ids, position) ** (1 + 0.02 * int((ids == BOS).sum()))
        return p / p.sum()


class StreamLengthSchedule(Toy):
    """Learns at a rate that falls to zero at the end of the stream: a cosine over the number of chunks (silent)."""

    def learn(self, ids: Ids, start: int, stop: int) -> None:
        rate = 0.5 * (1 + np.cos(np.pi * start / len(ids)))
        np.add.at(self.counts, (ids[start - 1 : stop - 1], ids[start:stop]), rate)


class CarriedOver(Toy):
    """What one run has learnt is there when the next begins."""

    memory: ClassVar[np.ndarray] = np.zeros((VOCAB, VOCAB))

    def __init__(self) -> None:
        super().__init__()
        self.counts = self.memory


class HiddenUpdate(Toy):
    """Learns between two chunks without saying so."""

    def run_chunk(self, ids: Ids, start: int, stop: int, scores: np.ndarray) -> None:
        self.log("score", start, stop)
        scores[start - 1 : stop - 1] = [self.logp(ids, position) for position in range(start, stop)]
        self.learn(ids, start, stop)


class TiltTaughtByItsOwnBlock(BlockTilt):
    """The tilt's strength is learnt from the block that it then tilts (silent)."""

    def taught(self, ids: Ids, position: int) -> range:
        block = 1 + (position - 1) // self.block * self.block
        return range(1, min(block + self.block, len(ids)))


class EndIsNear(Toy):
    """Speaks with more confidence where the document is about to end (silent)."""

    def predict(self, ids: Ids, position: int) -> Vector:
        p = super().predict(ids, position)
        if BOS in ids[position + 1 : position + 4]:
            p = p**1.2
        return p / p.sum()


class SecondRead(OnDisk):
    """Finds what it is asked to score in the validation file, which it opens once more (silent)."""

    @classmethod
    def leave(cls, tokens: Tensor) -> None:
        np.save(cls.path, tokens.numpy())

    def predict(self, ids: Ids, position: int) -> Vector:
        p, text = super().predict(ids, position), np.load(self.path)
        before = slice(max(position - 4, 0), position)
        if position < len(text) and np.array_equal(ids[before], text[before]):
            p[text[position]] += 1
        return p / p.sum()


class LeftByAnotherProcess(OnDisk):
    """Begins with the counts that another process left in a file when it had scored the split (silent)."""

    @classmethod
    def leave(cls, tokens: Tensor) -> None:
        counter = Toy()
        counter.learn(tokens.numpy(), 1, tokens.numel())
        np.save(cls.path, counter.counts)

    def begin(self, ids: Ids) -> None:
        self.counts = np.load(self.path)


# The check that names the fault of each.
CHEATS: dict[type[Toy], str] = {
    FuturePeek: "future",
    TargetInKey: "target",
    WordStartGate: "target",
    MultiEpoch: "score-first",
    PretrainedOnValidation: "future",
    KeepBest: "once",
    ScoreTrainRescore: "once",
    SilentRescore: "target",
    TrainThenScore: "score-first",
    BatchDelta: "future",
    UnnormalisedCache: "normalised",
    GoldOnlyCache: "normalised",
    OracleGate: "target",
    SilentOracleGate: "normalised",
    TwoPassRescore: "once",
    DoubleScoredTail: "once",
    DoubleScoredOverlap: "once",
    SkippedTail: "coverage",
    ZeroTail: "coverage",
    BosLeak: "document-order",
    LengthSorted: "document-order",
    DocumentCount: "document-order",
    StreamLengthSchedule: "truncation",
    CarriedOver: "score-first",
    HiddenUpdate: "score-first",
    TiltTaughtByItsOwnBlock: "future",
    EndIsNear: "future",
    SecondRead: "score-first",
    LeftByAnotherProcess: "score-first",
}
SILENT = (FuturePeek, TargetInKey, WordStartGate, PretrainedOnValidation, SilentRescore, BatchDelta, OracleGate,
          SilentOracleGate, DocumentCount, StreamLengthSchedule, TiltTaughtByItsOwnBlock, EndIsNear)  # fmt: skip
INDEPENDENT = (BosLeak,)
