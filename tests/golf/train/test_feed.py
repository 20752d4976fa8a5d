"""The same batch on any number of ranks; read ahead without losing any."""

from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.data.loader import Loader, Rows, Stream, WindowLoader
from golf.data.packing import PackedLoader, document_starts
from golf.runtime.errors import DataError
from golf.train import feed
from golf.train.distributed import Ranks
from golf.train.feed import Batch, Feed, Request, attended
from tests.golf.train.tiny import VOCAB, write_shards


def windows(folder: Path) -> Loader:
    return WindowLoader(Stream.open(write_shards(folder), "train"), seq_len=32, seed=5)


def documents(folder: Path) -> Loader:
    stream = Stream.open(write_shards(folder), "train")
    return PackedLoader(stream, document_starts(stream, 1), bos_id=1, row_tokens=64, shortest=16, seed=5)


def ranks(index: int, count: int) -> Ranks:
    return Ranks(index, count, torch.device("cpu"))


@pytest.mark.parametrize("make", [windows, documents])
@pytest.mark.parametrize("count", [2, 4, 8])
def test_the_union_over_ranks_is_the_same(tmp_path: Path, make: Any, count: int) -> None:
    loader = make(tmp_path)
    for first in (0, 8, 4000):
        whole = Feed(loader, ranks(0, 1), VOCAB).micro_batches(Request(first, 8, 16), 1)
        feeds = [Feed(loader, ranks(index, count), VOCAB) for index in range(count)]
        shared = [batch for one in feeds for batch in one.micro_batches(Request(first, 8, 16), 1)]
        assert len(shared) == len(whole) == 8
        for found, expected in zip(shared, whole, strict=True):
            assert torch.equal(found.tokens, expected.tokens)
            assert torch.equal(found.targets, expected.targets)
            assert (found.documents is None) == (make is windows)
            if found.documents is not None and expected.documents is not None:
                assert torch.equal(found.documents.starts, expected.documents.starts)
                assert found.documents.longest == 16


def test_a_micro_batch_holds_its_rows_at_any_length(tmp_path: Path) -> None:
    loader = windows(tmp_path)
    for seq_len, shape in ((32, (2, 32)), (16, (4, 16))):
        batches = Feed(loader, ranks(0, 1), VOCAB).micro_batches(Request(0, 8, seq_len), 2)
        assert [batch.tokens.shape for batch in batches] == [shape] * 4
        assert all(batch.tokens.dtype == batch.targets.dtype == torch.int64 for batch in batches)
        assert all(batch.tokens.is_contiguous() and batch.targets.is_contiguous() for batch in batches)
        assert all(torch.equal(batch.tokens[:, 1:], batch.targets[:, :-1]) for batch in batches)


def test_a_token_beyond_the_vocabulary_is_told_before_the_model_looks_it_up(tmp_path: Path) -> None:
    """On a GPU the lookup fails as a CUDA error, which a scheduler would take for the machine's and try again."""
    source = Feed(windows(tmp_path), ranks(0, 1), VOCAB - 1)
    with pytest.raises(DataError, match=r"row 8: found token 60, needed 0 to 59: another tokenizer .*Try: dvc repro"):
        source.micro_batches(Request(8, 100, 32), 1)


def test_attention_is_counted_by_segments() -> None:
    tokens = torch.zeros(3, 9, dtype=torch.int32)
    assert attended(Rows(tokens, None, 8)) == 3 * 36
    starts = torch.tensor([[0, 3, 8, 8], [0, 8, 8, 8], [0, 1, 2, 8]], dtype=torch.int32)
    assert attended(Rows(tokens, starts, 8)) == (6 + 15) + 36 + (1 + 1 + 21)


class Recorder:
    """A loader that notes what was asked for."""

    row_tokens = 4

    def __init__(self) -> None:
        self.asked: list[tuple[int, int, int]] = []

    def read(self, first: int, count: int, seq_len: int) -> Rows:
        self.asked.append((first, count, seq_len))
        return Rows(torch.arange(first, first + count, dtype=torch.int32)[:, None].expand(-1, 5), None, seq_len)


class Now:
    """A pool whose thread is never behind."""

    def submit(self, work: Any, *arguments: Any) -> Future[Any]:
        done: Future[Any] = Future()
        done.set_result(work(*arguments))
        return done

    def shutdown(self, **_: bool) -> None: ...


def test_two_steps_are_read_ahead_and_a_change_of_plan_loses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    loader = Recorder()
    with Feed(loader, ranks(1, 2), 64) as found:
        found._pool = Now()  # type: ignore[assignment]

        def first_rows(*requests: Request) -> list[int]:
            batches: list[list[Batch]] = [found.micro_batches(request, 1) for request in requests]
            return [int(batch[0].tokens[0, 0]) for batch in batches]

        assert first_rows(Request(0, 4, 4)) == [2]
        assert loader.asked == [(2, 2, 4), (6, 2, 4), (10, 2, 4)], "the second rank's half of three steps"
        assert first_rows(Request(4, 4, 4), Request(8, 4, 4)) == [6, 10]
        assert loader.asked[3:] == [(14, 2, 4), (18, 2, 4)], "each step once"
        loader.asked.clear()
        assert first_rows(Request(12, 8, 2), Request(20, 8, 2)) == [16, 24], "a longer batch goes on there"
        assert loader.asked == [(16, 4, 2), (24, 4, 2), (32, 4, 2), (40, 4, 2)]
        assert feed.READ_AHEAD == 2
        assert found.waited >= 0
