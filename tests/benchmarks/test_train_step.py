"""The table of a step on a few steps of a tiny model; what cannot be measured is told before."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import train_step
from benchmarks.train_step import configuration
from golf.runtime.errors import ConfigError
from tests.golf.train.tiny import write_shards

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["train.steps=6", "train.batch_tokens=128", "train.micro_batch_tokens=64", "train.seq_len=32"]


def run(monkeypatch: pytest.MonkeyPatch, shards: Path, *arguments: str) -> None:
    monkeypatch.chdir(ROOT)
    changes = [argument for change in SHORT for argument in ("--set", change)]
    monkeypatch.setattr(sys, "argv", ["train_step", "--shards", str(shards), *changes, *arguments])
    train_step.main()


def test_every_phase_has_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shards, out = write_shards(tmp_path / "shards"), tmp_path / "out.json"
    loop = ["--set", "model.loop_passes=2", "--set", "train.loop_shares=[0.3]", "--set", "train.seq_growth=[[0.5,16]]"]
    run(monkeypatch, shards, "--steps", "1", *loop, "--out", str(out))
    found = json.loads(out.read_text())
    assert [(row["seq_len"], row["passes"], row["quantized"]) for row in found["phases"]] == [
        (16, 1, False), (16, 2, False), (32, 2, False), (32, 2, True),
    ]  # fmt: skip
    assert all(row["tokens_per_second"] > 0 and row["batch_tokens"] == 128 for row in found["phases"])
    assert (found["processes"], found["accumulation"], found["recompiles"]) == (1, 2, 0)
    assert len(capsys.readouterr().out.splitlines()) == 2 + len(found["phases"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing.steps=1", r"--set nothing.steps=1: no section 'nothing'"),
        ("steps", r"--set steps: no section 'steps'"),
        ("seeds.x=1", r"no section 'seeds'"),
        ("train.nothing=1", r"unknown key train.nothing"),
        ("train.seq_growth=[[0.1,", r"--set train.seq_growth=\[\[0.1,: not valid YAML"),
        ("model.dim=65", r"model.dim: found 65, needed a multiple of num_heads"),
    ],
)
def test_a_change_of_no_parameter_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, message: str
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(ConfigError, match=message):
        configuration(None, [change], tmp_path)


def test_blocks_without_steps_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="--steps: found 0, needed 1 or more"):
        run(monkeypatch, tmp_path, "--steps", "0")
