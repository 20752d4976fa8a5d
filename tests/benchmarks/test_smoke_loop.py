"""The benchmark of the loop on a run of a few steps: both loops train the same, and a difference is told."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import smoke_loop
from golf.runtime.errors import DataError
from tests.golf.train.tiny import write_shards

ROOT = Path(__file__).resolve().parents[2]
SHORT = ["train.steps=6", "train.batch_tokens=128", "train.micro_batch_tokens=64", "train.seq_len=32"]
# Late QAT from the fifth step on, and more tokens than an epoch has.
SHORT += ["train.qat_share=0.4", "train.log_every=4"]


def measure(top: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(ROOT)
    shards = write_shards(top / "shards", tokens=600)
    changes = [argument for change in SHORT for argument in ("--set", change)]
    smoke_loop.main(["--shards", str(shards), "--repeats", "2", "--out", str(top / "out.json"), *changes])
    return json.loads((top / "out.json").read_text())


def test_both_loops_train_the_same_and_are_told_part_by_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = measure(tmp_path, monkeypatch)
    assert found["final_loss"]["ours"] == pytest.approx(found["final_loss"]["plain"], abs=1e-3)
    cuts = found["ratio"]
    assert 0 < cuts["least"] <= cuts["median"] <= cuts["most"]
    assert found["ms_per_step"]["ours"].keys() == found["ms_per_step"]["plain"].keys()
    assert found["ms_per_step"]["plain"]["averages"] == 0 < found["ms_per_step"]["ours"]["averages"]
    printed = capsys.readouterr()
    assert "ours / plain by CPU time: " in printed.out
    assert "forward and backward" in printed.out
    assert "micro-batches" not in printed.err, "the runs themselves say nothing"


def test_loops_that_train_differently_are_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(smoke_loop, "orthogonal", lambda matrix: -matrix)
    with pytest.raises(DataError, match=r"trained differently: final losses of .* \(ours\) and .* \(plain\)"):
        measure(tmp_path, monkeypatch)
