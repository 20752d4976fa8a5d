"""Windows: every one once an epoch, any row by its number, whatever length they are cut to."""

from pathlib import Path

import numpy as np
import pytest
import torch

from golf.data.loader import Stream, WindowLoader, permute, windows
from golf.data.shards import write_shard
from golf.runtime.errors import DataError, MissingInput


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    stream = np.arange(2000, dtype=np.uint16)  # a token's value is its place
    for index, part in enumerate((stream[:700], stream[700:703], stream[703:])):
        write_shard(tmp_path / f"train_{index:06d}.bin", part)
    return tmp_path


def make(folder: Path, seed: int = 7, seq_len: int = 16) -> WindowLoader:
    return WindowLoader(Stream.open(folder, "train"), seq_len=seq_len, seed=seed)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 1000, 4097])
def test_permutation_visits_everything_once(size: int) -> None:
    assert sorted(permute(np.arange(size), size, "key")) == list(range(size))


def test_permutation_depends_on_its_key_and_mixes() -> None:
    a, b = (permute(np.arange(10_000), 10_000, key) for key in ("a", "b"))
    assert (a != b).mean() > 0.99
    assert abs(np.corrcoef(a, np.arange(10_000))[0, 1]) < 0.05
    assert abs(np.corrcoef(a[:-1], a[1:])[0, 1]) < 0.05


def test_permutation_of_a_billion_places_costs_nothing() -> None:
    found = permute(np.arange(64, dtype=np.int64) + 999_999_900, 10**9, "k")
    assert len(set(found.tolist())) == 64
    assert found.max() < 10**9


def test_windows_are_consecutive_even_across_shards_and_cover_an_epoch(shards: Path) -> None:
    loader = make(shards)
    rows = loader.read(0, 128, 16)
    assert loader.windows == 124
    assert rows.tokens.shape == (128, 17)
    assert (rows.tokens.dtype, rows.starts, rows.longest) == (torch.int32, None, 16)
    assert torch.equal(rows.tokens.diff(dim=1), torch.ones(128, 16, dtype=torch.int32))
    assert sorted(rows.tokens[:124, 0].tolist()) == [16 * i for i in range(124)]


def test_epochs_differ_and_seeds_differ(shards: Path) -> None:
    loader = make(shards)
    first, second = (loader.read(124 * epoch, 124, 16).tokens for epoch in range(2))
    assert not torch.equal(first, second)
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist())
    assert not torch.equal(first, make(shards, seed=8).read(0, 124, 16).tokens)


def test_any_row_directly(shards: Path) -> None:
    whole = make(shards).read(0, 300, 16).tokens
    for first, count in ((0, 1), (120, 9), (299, 1)):
        assert torch.equal(make(shards).read(first, count, 16).tokens, whole[first : first + count])


def test_a_shorter_length_cuts_the_same_tokens_into_more_rows(shards: Path) -> None:
    loader = make(shards, seq_len=64)
    whole, cut = loader.read(5, 3, 64), loader.read(5, 3, 16)
    assert (cut.tokens.shape, cut.longest) == ((12, 17), 16)
    assert torch.equal(cut.tokens[:, :-1].reshape(3, 64), whole.tokens[:, :-1])
    assert torch.equal(cut.tokens[:, 1:].reshape(3, 64), whole.tokens[:, 1:]), "no target is lost at a cut"


def test_refusals(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2,000 tokens, needed 2,001: one window"):
        make(shards, seq_len=2000)
    with pytest.raises(MissingInput):
        make(tmp_path / "absent")


def test_sample_windows(shards: Path) -> None:
    tokens = np.arange(1000, dtype=np.uint16)
    sample = windows(tokens, 16, 20, seed=3)
    assert sample.shape == (20, 17)
    assert sample.dtype == torch.int64
    assert len(set(sample[:, 0].tolist())) == 20
    assert torch.equal(sample[:, 1:], sample[:, :-1] + 1)
    assert torch.equal(sample, windows(tokens, 16, 20, seed=3))
    assert not torch.equal(sample, windows(tokens, 16, 20, seed=4))
    with pytest.raises(DataError, match="62 windows of 16, needed 63"):
        windows(tokens, 16, 63, seed=3)
    with pytest.raises(DataError):
        windows(tokens[:5], 16, 1, seed=3)
