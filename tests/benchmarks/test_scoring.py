"""The benchmarks of scoring, on a run of a few thousand weights: what they compare, and what they say of it."""

import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from benchmarks import adaptation, scoring
from benchmarks.scoring_speed import Training, plain
from golf.data.bytecount import ByteTable
from golf.data.shards import read_shard, write_shard
from golf.model.weights import ModelSpec, build, save_model
from golf.params.model import Model
from golf.scoring.evaluator import SlidingScorer

CONFIG = Model(num_layers=2, dim=32, num_heads=2, rope_dims=8, document_mask=True, bigram_buckets=0, xsa_layers=0)
VOCAB = 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights, and a shard of documents of 50 tokens."""
    torch.manual_seed(0)
    save_model(tmp_path, "raw", build(ModelSpec(CONFIG, VOCAB)).state_dict(), CONFIG, VOCAB, 1)
    tokens = np.random.default_rng(0).integers(2, VOCAB, 1_000).astype(np.uint16)
    tokens[::50] = 1
    write_shard(tmp_path / "val_000000.bin", tokens)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, module: ModuleType, words: list[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["benchmark", *words])
    module.main()


def test_the_speed_of_a_run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = folder / "out.json"
    words = (
        f"--run {folder} --shard {folder / 'val_000000.bin'} --window 32 --rows 2 --batches 2 --rounds 3 --out {out}"
    )
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, scoring, words.split())
    assert end.value.code == 0
    speed = json.loads(out.read_text())["speed"]
    assert list(speed["tokens_per_second"]) == ["windows", "documents", "training", "training, no gradients"]
    assert min(speed["tokens_per_second"].values()) > 0
    assert [len(found["all"]) for found in speed["ratios"].values()] == [3] * 4
    assert (speed["window"], speed["rows"], speed["batches"]) == (32, 2, 2)


def test_training_reads_the_windows_that_are_scored(folder: Path) -> None:
    model, config = build(ModelSpec(CONFIG, VOCAB)), plain(32, 2)
    tokens = torch.from_numpy(read_shard(folder / "val_000000.bin").astype(np.int64))[: 4 * 32 + 1]
    training = Training(model, model, config, gradients=True, graphs=False)
    means = []
    for batch in training.batches(tokens):
        training.once(batch)
        assert training.kept is not None
        assert training.kept.requires_grad
        means.append(float(training.kept.detach()))
    scores = SlidingScorer(model, config).score(tokens)
    assert means == pytest.approx((-scores).view(2, -1).mean(1).tolist(), abs=1e-5)


def test_several_rates_of_one_form(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    never = torch.zeros(VOCAB, dtype=torch.bool)
    table = ByteTable(torch.ones(VOCAB, dtype=torch.int16), never, never)
    out = folder / "out.json"
    monkeypatch.setattr(adaptation.ByteTable, "load", lambda _: table)
    words = f"--run {folder} --tokenizer bytes.safetensors --shard {folder / 'val_000000.bin'} --tokens 200 --out {out}"
    forms = ["--only", "lora", "lora at", "--rates", "0.001", "0.1"]
    numbers = ["--set", "seq_len=32", "stride=32", "lora_rank=2", "lora_chunk_tokens=16", "lora_lr=0.1"]
    run(monkeypatch, adaptation, [*words.split(), *forms, *numbers])
    nats = {row["form"]: row["nats"] for row in json.loads(out.read_text())["rows"]}
    assert list(nats) == ["lora", "lora at 0.001", "lora at 0.1"]
    assert nats["lora"] == nats["lora at 0.1"] != nats["lora at 0.001"]


def test_a_form_by_its_whole_name() -> None:
    names = ["lora, growth 0.125", "lora", "documents"]
    assert adaptation.chosen(names, ["lora"]) == ["lora"]
    assert adaptation.chosen(names, ["lora,", "documents"]) == ["lora, growth 0.125", "documents"]
    assert adaptation.chosen(names, None) == names
