import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from golf.data.loader import Stream
from golf.research.idea import Idea, Size, build_idea
from golf.research.training import Plan, Text, artifact_bytes, score_idea, train_idea
from golf.runtime.errors import ConfigError, DataError
from golf.scoring.bpb import SidecarBytes

VOCAB = 23
SIZE = Size(dim=32, layers=1, heads=2, kv_heads=1, mlp_ratio=2.0, length=16)
CPU = torch.device("cpu")


def text(tokens: int = 400) -> Text:
    stream = np.arange(tokens, dtype=np.uint16) % 7 + 2
    val = torch.from_numpy(stream.astype(np.int64))
    return Text(Stream([stream]), val, SidecarBytes(torch.full_like(val, 3)), VOCAB)


def plan(steps: int = 3, seed: int = 1, val_tokens: int = 100) -> Plan:
    return Plan(steps=steps, rows=4, val_tokens=val_tokens, seed=seed, device=CPU)


def test_training_learns_and_counts() -> None:
    ticks: list[int] = []
    outcome = train_idea("baseline", SIZE, text(), plan(steps=25), lambda: ticks.append(1))
    assert len(ticks) == 25
    assert outcome.train_loss < 0.5 * math.log(VOCAB)
    assert outcome.val.nats_per_token < 0.5 * math.log(VOCAB)
    assert outcome.val.tokens == 96, "whole windows of the first 100 targets"
    assert outcome.val.bytes == 3 * 96
    assert outcome.ms_per_step > 0


def test_a_seed_decides_the_outcome() -> None:
    first, again, other = (train_idea("jepa", SIZE, text(), plan(seed=seed)).val.nats for seed in (1, 1, 2))
    assert first == again != other


def test_the_score_is_that_of_each_window_by_itself() -> None:
    torch.manual_seed(0)
    idea = build_idea("baseline", SIZE, VOCAB)
    data = text(50)
    found = score_idea(idea, data, plan(val_tokens=1000))
    by_hand = [idea.nll(data.val[start : start + 17][None]).double().sum().item() for start in (0, 16, 32)]
    assert found.tokens == 48
    assert found.nats == pytest.approx(sum(by_hand), rel=1e-6)


def test_bytes_of_the_artifact_by_hand() -> None:
    idea = build_idea("baseline", SIZE, VOCAB)
    rows = 32 + 16 + 16 + 32 + 64 + 32
    matrices = 32 * 32 + 2 * 16 * 32 + 32 * 32 + 2 * 64 * 32
    controls = 32 + 32 + 2
    bits = 6 * matrices + 16 * rows + 7 * VOCAB * 32 + 16 * VOCAB + 16 * controls
    assert artifact_bytes(idea) == math.ceil(bits / 8)


def test_too_little_text_is_refused() -> None:
    with pytest.raises(DataError, match="validation: found 12 tokens"):
        score_idea(build_idea("baseline", SIZE, VOCAB), text(12), plan())
    with pytest.raises(DataError, match="12 tokens, needed 17"):
        train_idea("baseline", SIZE, text(12), plan())


def test_tokens_of_another_vocabulary_are_refused() -> None:
    good = text()
    with pytest.raises(DataError, match="validation: found token 8, needed 0 to 7"):
        replace(good, vocab_size=8)
    foreign = replace(good, train=Stream([np.full(400, VOCAB, dtype=np.uint16)]))
    with pytest.raises(DataError, match=r"train: found token 23, needed 0 to 22: another tokenizer .*Try: dvc repro"):
        train_idea("baseline", SIZE, foreign, plan())


def test_a_loss_that_is_no_number_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Idea, "loss", lambda idea, tokens: idea.nll(tokens).mean() * float("nan"))
    with pytest.raises(DataError, match=r"baseline, seed 1: found a loss of nan at step 0, needed a finite one"):
        train_idea("baseline", SIZE, text(), plan())


def test_bad_plans_and_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="steps: found 0, needed at least 1"):
        plan(steps=0)
    with pytest.raises(ConfigError, match="idea: found 'nothing'"):
        train_idea("nothing", SIZE, text(), plan())
