"""Rows of documents: each document once an epoch, no segment of two, any row by its number."""

import resource
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.data import packing
from golf.data.loader import Rows, Stream
from golf.data.packing import PackedLoader, capacity, document_starts
from golf.runtime.errors import DataError

ROW = 64


def text(lengths: list[int], cuts: tuple[int, ...] = ()) -> Stream:
    """Documents whose tokens tell document and place: BOS, then 100 * document + place."""
    documents = [np.array([1, *(100 * (d + 1) + np.arange(1, n))], np.uint16) for d, n in enumerate(lengths)]
    return Stream(np.split(np.concatenate(documents), cuts))


def make(stream: Stream, seed: int = 7, shortest: int = 16, row: int = ROW) -> PackedLoader:
    starts = document_starts(stream, 1)
    return PackedLoader(stream, starts, bos_id=1, row_tokens=row, shortest=shortest, seed=seed)


def segments(rows: Rows, row: int) -> list[list[int]]:
    """The segments of a row, empty ones left out."""
    assert rows.starts is not None
    bounds = rows.starts[row].tolist()
    assert bounds[0] == 0
    assert bounds == sorted(bounds)
    assert bounds[-1] == rows.tokens.shape[1] - 1
    tokens = rows.tokens[row].tolist()
    return [tokens[a:b] for a, b in pairwise(bounds) if a < b]


def document(token: int) -> int:
    return token // 100


LENGTHS = np.random.default_rng(3).integers(2, 60, 400).tolist()


def test_documents_are_found_over_shards_and_kept(tmp_path: Path) -> None:
    stream = text([5, 2, 9], cuts=(4, 6, 6))
    assert document_starts(stream, 1).tolist() == [0, 5, 7, 16]
    lost = Stream([np.array([9, 9], np.uint16), *stream.shards])
    assert document_starts(lost, 1).tolist() == [2, 7, 9, 18], "what stands before the first BOS is no document"
    cache = tmp_path / "documents" / "key.npy"
    first = document_starts(stream, 1, cache)
    assert isinstance(document_starts(text([4]), 1, cache), np.memmap)
    assert document_starts(text([4]), 1, cache).tolist() == first.tolist(), "read, not found again"
    with pytest.raises(DataError, match=r"no BOS \(token 2\) among 16 training tokens.*pack=windows"):
        document_starts(stream, 2)


def test_a_folder_that_takes_no_file_costs_nothing_but_the_next_scan(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert document_starts(text([4]), 1, tmp_path / "file" / "key.npy").tolist() == [0, 4]


@pytest.mark.parametrize("kept", [0, 60, 200, 1000])
def test_what_was_kept_cut_short_is_found_again(tmp_path: Path, kept: int) -> None:
    stream, cache = text([3] * 200), tmp_path / "key.npy"
    expected = document_starts(stream, 1, cache).tolist()
    cache.write_bytes(cache.read_bytes()[:kept])
    assert document_starts(stream, 1, cache).tolist() == expected
    assert document_starts(text([4]), 1, cache).tolist() == expected, "and kept whole"


def test_a_disk_that_is_full_by_the_last_block_keeps_nothing(tmp_path: Path) -> None:
    stream, cache = Stream([np.ones(2000, np.uint16)]), tmp_path / "key.npy"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, before[1]))  # of 16,136 bytes
    try:
        found = document_starts(stream, 1, cache)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert found.size == 2001
    assert not cache.exists()


@pytest.mark.parametrize("seq_len", [16, 24, ROW])
def test_a_segment_is_of_one_document_and_no_longer_than_asked(seq_len: int) -> None:
    rows = make(text(LENGTHS)).read(0, 50, seq_len)
    assert rows.longest == seq_len
    for row in range(50):
        for segment in segments(rows, row):
            assert 1 <= len(segment) <= seq_len
            assert 1 not in segment[1:], "BOS begins a segment"
            inside = [token for token in segment if token != 1]
            assert len({document(token) for token in inside}) <= 1
            assert inside == list(range(inside[0], inside[0] + len(inside))) if inside else True


def test_every_document_comes_whole_once_an_epoch_in_an_order_of_its_own() -> None:
    stream = text(LENGTHS, cuts=(1000, 1001, 5000))
    loader = make(stream)
    per_epoch = loader.rows
    orders = []
    for epoch in range(2):
        rows = loader.read(epoch * per_epoch, per_epoch, ROW)
        joined = rows.tokens[:, :-1].flatten().tolist()
        counted = Counter(token for token in joined if token != 1)
        assert max(counted.values()) == 1
        missing = sum(LENGTHS) - len(joined)
        assert 0 < missing <= ROW, "only the end of the epoch's stream is left"
        assert torch.equal(rows.tokens[1:, 0], rows.tokens[:-1, -1]), "the last target is the next row's first input"
        orders.append(list(dict.fromkeys(document(token) for token in joined if token != 1)))
    assert orders[0] != orders[1]
    assert orders[0] != sorted(orders[0])
    assert orders[0][: len(orders[1])] != list(dict.fromkeys(
        document(t) for t in make(stream, seed=8).read(0, per_epoch, ROW).tokens.flatten().tolist() if t != 1
    ))  # fmt: skip


def test_any_row_directly_also_over_blocks_and_epochs(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = text(LENGTHS)
    expected = make(stream).read(0, 420, 16)
    monkeypatch.setattr(packing, "BLOCK", 8)
    monkeypatch.setattr(packing, "AT_ONCE", 2)
    for first in (0, 7, 170, 171, 300, 419):
        loader = make(stream)
        found = loader.read(first, 1, 16)
        assert expected.starts is not None
        assert found.starts is not None
        assert torch.equal(found.tokens[0], expected.tokens[first])
        assert torch.equal(found.starts[0], expected.starts[first])
        assert torch.equal(loader.read(first // 2, 1, 16).tokens[0], expected.tokens[first // 2]), "and back"


def test_the_order_of_documents_does_not_hang_on_the_length() -> None:
    loader = make(text(LENGTHS))
    assert torch.equal(loader.read(3, 9, 16).tokens, loader.read(3, 9, ROW).tokens)


def test_the_room_for_segments_is_the_same_for_every_row_and_aligned() -> None:
    loader = make(text(LENGTHS))
    assert (loader.capacity + 1) % 64 == 0
    for seq_len in (16, ROW):
        rows = loader.read(0, 30, seq_len)
        assert rows.starts is not None
        assert rows.starts.shape == (30, loader.capacity + 1)
        assert rows.starts.dtype == torch.int32
    # The records' rows: 98,304 tokens of documents of 900 on average, at most 2,048 of context.
    assert capacity(np.full(10_000, 900), 98_304, 2048) == 191, "109 a row, 4 x 10.5 more, and an end"
    assert capacity(np.full(10_000, 900), 98_304, 512) == 319, "each is cut once"


def test_a_row_of_too_many_documents_leaves_the_shortest_out_and_stays_full() -> None:
    """A corpus of long documents with one nest of tiny ones, which would be more segments than there is room for."""
    lengths = [60] * 200 + [2] * 100
    loader = make(text(lengths), row=512, shortest=64)
    room = loader.capacity = 12
    full = loader.read(0, loader.rows, 64)
    assert full.starts is not None
    counts = [len(segments(full, row)) for row in range(loader.rows)]
    assert max(counts) == room
    for row in range(loader.rows):
        kept = segments(full, row)
        assert sum(map(len, kept)) == 512
        assert all(1 not in segment[1:] for segment in kept)
    roomy = make(text(lengths), row=512, shortest=64).read(0, loader.rows, 64)
    seen, expected = ({document(t) for t in rows.tokens[:, :-1].flatten().tolist() if t != 1} for rows in (full, roomy))
    assert {number for number in expected if number <= 200} <= seen, "no long one is lost"
    assert len([number for number in seen if number > 200]) < 100
    again = make(text(lengths), row=512, shortest=64)
    again.capacity = room
    row = int(np.argmax(counts))
    assert torch.equal(again.read(row, 1, 64).tokens[0], full.tokens[row]), "the same, asked for alone"
    loader.capacity = 4
    with pytest.raises(DataError, match="its 4 segments are not filled"):
        loader.read(0, 1, 64)


def test_documents_too_short_together_are_refused_and_stale_offsets_told() -> None:
    with pytest.raises(DataError, match="64 tokens in documents, needed 65: one row"):
        make(text([60, 4]))
    stream = text(LENGTHS)
    stale = document_starts(stream, 1) + 1
    with pytest.raises(DataError, match=r"document \d+ begins with token \d+, needed BOS \(1\).*documents"):
        PackedLoader(stream, stale - (stale == stale[-1]), bos_id=1, row_tokens=ROW, shortest=16, seed=0).read(0, 1, 16)
