"""13-grams against a search by hand; sampled or not, over shards or not."""

from itertools import pairwise

import numpy as np
import pytest

from golf.data import overlap as module
from golf.data.overlap import GRAM, gram_hashes, overlap, pieces

BOS = 1


def by_hand(val: np.ndarray, train: np.ndarray) -> tuple[int, int]:
    """13-grams of ``val`` without a BOS, and those of them that ``train`` holds."""
    known = {train[place : place + GRAM].tobytes() for place in range(train.size - GRAM + 1)}
    own = [val[place : place + GRAM] for place in range(val.size - GRAM + 1)]
    own = [gram for gram in own if BOS not in gram]
    return len(own), sum(gram.tobytes() in known for gram in own)


def stream(rng: np.random.Generator, size: int, vocabulary: int = 6) -> np.ndarray:
    tokens = rng.integers(2, vocabulary, size).astype(np.uint16)
    tokens[rng.random(size) < 0.02] = BOS
    tokens[0] = BOS
    return tokens


@pytest.mark.parametrize("seed", range(8))
def test_counts_are_those_of_a_search_by_hand(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BLOCK", 97)
    monkeypatch.setattr(module, "_PIECE", 211)
    rng = np.random.default_rng(seed)
    val, train = stream(rng, 700, 3), stream(rng, 3000, 3)
    train[500:620] = val[300:420]
    cuts = [0, *sorted(rng.integers(0, train.size, 5).tolist()), train.size]
    found = overlap([val[:350], val[350:]], [train[a:b] for a, b in pairwise(cuts)], BOS)
    assert (found.grams, found.seen) == by_hand(val, train)
    assert found.sampled == 1


def test_a_sample_is_a_share_of_the_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    val, train = stream(rng, 60_000, 900), stream(rng, 60_000, 900)
    train[1000:31_000] = val[20_000:50_000]
    whole = overlap([val], [train], BOS)
    monkeypatch.setattr(module, "_HELD", 1 << 13)
    part = overlap([val], [train], BOS)
    assert part.sampled == 8
    assert part.grams == pytest.approx(whole.grams / 8, rel=0.1)
    assert part.seen / part.grams == pytest.approx(whole.seen / whole.grams, abs=0.03)
    assert part.same == whole.same > 0


def test_no_two_grams_share_a_hash() -> None:
    tokens = np.random.default_rng(1).integers(0, 65_536, 50_000).astype(np.uint16)
    assert np.unique(gram_hashes(tokens)).size == tokens.size - GRAM + 1
    near = np.zeros((256, GRAM), np.uint16)
    near[:, -1] = np.arange(256)
    assert len({int(gram_hashes(row)[0]) >> 56 for row in near}) > 100  # the sample's bits depend on the last token


@pytest.mark.parametrize("sizes", [[], [0], [5], [12, 1], [5, 5, 5], [0, 40, 0, 3, 30]])
def test_pieces_hold_every_gram_once(sizes: list[int]) -> None:
    whole = np.arange(sum(sizes), dtype=np.uint16)
    shards = np.split(whole, np.cumsum(sizes)[:-1]) if sizes else []
    found = [piece[place] for piece in pieces(shards) for place in range(piece.size - GRAM + 1)]
    assert sorted(found) == list(range(max(whole.size - GRAM + 1, 0)))


def test_empty_and_short_splits() -> None:
    short = np.array([1, 5, 6, 1], np.uint16)
    assert overlap([], [short], BOS).documents == 0
    found = overlap([short], [short], BOS)
    assert (found.documents, found.same, found.grams, found.judged) == (2, 1, 0, 0)
    assert overlap([short], [], BOS).same == 0
