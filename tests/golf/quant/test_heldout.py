import math
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.data.shards import write_shard
from golf.model.weights import ModelSpec
from golf.quant.heldout import bits_per_byte, read_heldout, sample
from golf.runtime.errors import DataError, MissingInput
from tests.golf.quant import tiny


def test_bits_per_byte_is_nats_of_every_target_over_its_bytes(tmp_path: Path) -> None:
    shards, model, table = tiny.write_data(tmp_path), tiny.model(), tiny.byte_table()
    heldout = read_heldout(shards, table, tokens=1000, seq_len=50, spec=tiny.SPEC)
    assert heldout.windows.shape == (20, 51)
    assert heldout.tokens == 1000
    nats = size = 0.0
    for row in heldout.windows:
        probabilities = torch.log_softmax(model(row[None, :-1])[0].double(), dim=-1)
        nats -= float(probabilities.gather(1, row[1:, None]).detach().sum())
        size += float(table.count(row).sum())
    assert heldout.bytes == size
    assert bits_per_byte(model, heldout) == pytest.approx(nats / size / math.log(2), rel=1e-6)


def test_the_number_of_windows_a_pass_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heldout = read_heldout(tiny.write_data(tmp_path), tiny.byte_table(), tokens=600, seq_len=30, spec=tiny.SPEC)
    whole = bits_per_byte(tiny.model(), heldout)
    monkeypatch.setattr("golf.quant.heldout.PASS_TOKENS", 70)
    assert bits_per_byte(tiny.model(), heldout) == pytest.approx(whole, rel=1e-6)


def test_a_split_that_holds_less_gives_all_it_has_and_says_so(tmp_path: Path) -> None:
    shards, said = tiny.write_data(tmp_path, heldout=500), list[str]()
    heldout = read_heldout(shards, tiny.byte_table(), tokens=100_000, seq_len=64, spec=tiny.SPEC, say=said.append)
    assert heldout.windows.shape == (7, 65)
    assert said == ["heldout text holds 448 of the 100,000 tokens asked for: taking all"]
    short = sample(shards, "heldout", tokens=1000, seq_len=4096, seed=0, spec=tiny.SPEC)
    assert short.shape == (1, 500), "shorter than one window: one shorter window"


def test_calibration_differs_by_seed_and_held_out_text_does_not(tmp_path: Path) -> None:
    shards = tiny.write_data(tmp_path)
    options = {"tokens": 640, "seq_len": 32, "spec": tiny.SPEC}
    first, again, other = (sample(shards, "train", seed=seed, **options) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == (20, 33)


def test_many_shards_are_one_stream_when_the_first_is_small(tmp_path: Path) -> None:
    for index in range(3):
        write_shard(tmp_path / f"train_{index:06d}.bin", tiny.tokens(200, index))
    drawn = sample(tmp_path, "train", tokens=500, seq_len=50, seed=0, spec=tiny.SPEC)
    assert drawn.shape == (10, 51)
    assert sample(tmp_path, "train", tokens=150, seq_len=50, seed=0, spec=tiny.SPEC).shape == (3, 51)


def test_shards_of_another_vocabulary_are_refused(tmp_path: Path) -> None:
    shards = tiny.write_data(tmp_path)
    small = ModelSpec(tiny.CONFIG, 20)
    with pytest.raises(DataError, match=r"train split: found token \d+, needed 0 to 19"):
        sample(shards, "train", tokens=500, seq_len=50, seed=0, spec=small)
    with pytest.raises(DataError, match="byte table of 48 tokens, needed 20"):
        read_heldout(shards, tiny.byte_table(), tokens=500, seq_len=50, spec=small)


def test_missing_and_empty_splits_are_one_error(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="no shard of the split 'train'"):
        sample(tmp_path, "train", tokens=10, seq_len=5, seed=0, spec=tiny.SPEC)
    write_shard(tmp_path / "heldout_000000.bin", np.array([1], dtype=np.uint16))
    with pytest.raises(DataError, match="1 tokens in the split 'heldout', needed 2 or more"):
        read_heldout(tmp_path, tiny.byte_table(), tokens=10, seq_len=5, spec=tiny.SPEC)
    write_shard(tmp_path / "heldout_000000.bin", np.ones(30, dtype=np.uint16))
    with pytest.raises(DataError, match="stand for no bytes"):
        read_heldout(tmp_path, tiny.byte_table(), tokens=20, seq_len=5, spec=tiny.SPEC)


def test_a_model_that_overflows_is_an_error_and_no_score(tmp_path: Path) -> None:
    heldout = read_heldout(tiny.write_data(tmp_path), tiny.byte_table(), tokens=100, seq_len=20, spec=tiny.SPEC)
    model = tiny.model()
    with torch.no_grad():
        model.blocks[0].attention_scale.fill_(float("inf"))
    with pytest.raises(DataError, match="held-out loss is nan"):
        bits_per_byte(model, heldout)
