"""Batches: every window once an epoch, the same union for any number of ranks, any step by its number."""

from pathlib import Path

import numpy as np
import pytest
import torch

from golf.data.loader import TrainLoader, permute, windows
from golf.data.shards import write_shard
from golf.runtime.errors import ConfigError, DataError, MissingInput


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    stream = np.arange(2000, dtype=np.uint16)  # a token's value is its place
    for index, part in enumerate((stream[:700], stream[700:703], stream[703:])):
        write_shard(tmp_path / f"train_{index:06d}.bin", part)
    return tmp_path


def make(folder: Path, **changes: int) -> TrainLoader:
    return TrainLoader(folder, **({"seq_len": 16, "batch_tokens": 128, "seed": 7} | changes))  # type: ignore[arg-type]


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
    starts: list[int] = []
    for step in range(16):  # 128 places; 124 windows
        inputs, targets = loader.batch(step)
        assert inputs.shape == targets.shape == (8, 16)
        assert inputs.dtype == torch.int64
        assert torch.equal(targets, inputs + 1)
        starts += inputs[:, 0].tolist()
    assert sorted(starts[:124]) == [16 * i for i in range(124)]
    assert loader.steps_per_epoch == 15.5


def test_epochs_differ_and_seeds_differ(shards: Path) -> None:
    loader = make(shards, batch_tokens=16 * 124)
    first, second = loader.batch(0)[0], loader.batch(1)[0]
    assert not torch.equal(first, second)
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist())
    assert not torch.equal(first, make(shards, batch_tokens=16 * 124, seed=8).batch(0)[0])


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_union_over_ranks_is_the_same(shards: Path, world_size: int) -> None:
    for step in (0, 15, 40):
        whole = make(shards).batch(step)
        ranks = [make(shards, rank=rank, world_size=world_size).batch(step) for rank in range(world_size)]
        assert torch.equal(torch.cat([inputs for inputs, _ in ranks]), whole[0])
        assert torch.equal(torch.cat([targets for _, targets in ranks]), whole[1])


def test_any_step_directly(shards: Path) -> None:
    walked = make(shards)
    for step in range(9):
        walked.batch(step)
    assert torch.equal(walked.batch(9)[0], make(shards).batch(9)[0])


def test_refusals(shards: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a step needs 2,049"):
        make(shards, batch_tokens=2048)
    with pytest.raises(ConfigError, match="multiple"):
        make(shards, batch_tokens=100)
    with pytest.raises(ConfigError, match="multiple"):
        make(shards, world_size=3)
    with pytest.raises(ConfigError, match="rank"):
        make(shards, rank=2, world_size=2)
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
