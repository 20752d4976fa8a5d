"""The stage as DVC runs it: a command in a folder with params.yaml and shards."""

import json
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.model.weights import load_state
from golf.params.base import to_dict
from golf.runtime.errors import Exit
from tests.golf.train.tiny import MODEL, OPTIM, TRAIN, files, write_shards
from tests.stages import world
from tests.stages.world import write_params


def prepare(top: Path, hardware: dict[str, Any] | None = None, **train: Any) -> Path:
    """A folder to run in."""
    top.mkdir(parents=True, exist_ok=True)
    write_params(
        top,
        hardware=hardware or {},
        model=to_dict(MODEL),
        optim=to_dict(OPTIM),
        train=to_dict(TRAIN) | train,
    )
    if not (top / "data/shards").exists():
        write_shards(top / "data/shards")
    return top


def start(top: Path) -> subprocess.Popen[str]:
    return world.start("train", top, "--seed", "42")


def run(top: Path) -> subprocess.CompletedProcess[str]:
    return world.stage("train", top, "--seed", "42")


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


def test_a_run_reports_and_leaves_no_checkpoint(tmp_path: Path) -> None:
    top = prepare(tmp_path, checkpoint_seconds=1e-9)
    done = run(top)
    assert done.returncode == 0, done.stderr
    report = read(top / "reports/train/42.json")
    assert {**report, "final_loss": 0, "train_bpb": 0} == {
        "seed": 42, "steps": 12, "tokens": 3072, "epochs": 0.512, "parameters": report["parameters"],
        "final_loss": 0, "train_bpb": 0, "clock": "steps",
    }  # fmt: skip
    assert report["train_bpb"] == pytest.approx(report["final_loss"] / 0.693147 / 2, abs=1e-4)
    timing = read(top / "reports/timing/train/42.json")
    assert set(timing["parts"]) == {"setup", "warm-up", "train", "write"}
    assert timing["resumed"] is False
    curve = (top / "reports/curves/42.csv").read_text()
    assert curve.startswith("step,tokens,loss,lr_scale,grad_norm\n1,256,4.")
    assert not list((top / ".checkpoints").iterdir())
    before = files(top / "runs/train/42"), files(top / "reports/curves"), files(top / "reports/train")
    assert run(top).returncode == 0
    assert (files(top / "runs/train/42"), files(top / "reports/curves"), files(top / "reports/train")) == before


@pytest.mark.slow
def test_the_reserve_is_what_a_dry_run_of_the_stages_that_follow_measures(tmp_path: Path) -> None:
    top = prepare(tmp_path, steps=0, seconds=6.0, reserve_seconds=None, log_every=1)
    shutil.copy(top / "data/shards/train_000000.bin", top / "data/shards/heldout_000000.bin")
    done = run(top)
    assert done.returncode == 0, done.stderr
    timing = read(top / "reports/timing/train/42.json")
    assert 0 < timing["reserve_seconds"] < 6
    assert timing["clock_seconds"] <= 6 - timing["reserve_seconds"] + 0.5, "or a step was slower than those before it"
    said = re.search(r"([\d.]+) of 6 s are set aside", done.stderr)
    assert said is not None
    assert float(said[1]) == pytest.approx(timing["reserve_seconds"], abs=0.0056), "rounded to 2 places, and to 3"


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ("no shards", Exit.NO_INPUT, r"data/shards/shards.json: no such file"),
        ("cuda", Exit.CONFIG, r"hardware.device=cuda: torch .* Try: "),
        ("totals", Exit.DATA, r"shards.json: splits.train: found 0 tokens of None bytes"),
        ("no split", Exit.DATA, r"shards.json: splits.train: found None tokens of None bytes"),
        ("no json", Exit.DATA, r"shards.json: not JSON"),
        ("unknown", Exit.CONFIG, r"unknown key train.stepz"),
        ("batch", Exit.DATA, r"6,000 tokens of the split 'train', a step needs 16,385"),
        ("ranks", Exit.CONFIG, r"16 windows of 16 do not divide among 3 processes"),
        ("attention", Exit.CONFIG, r"hardware.attention=fa3: needs a CUDA device, found cpu. Try: "),
        ("strict", Exit.CONFIG, r"strict_clock: found 1 process, needed train.gpus = 8"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_an_exit_code(tmp_path: Path, change: str, code: int, message: str) -> None:
    if change == "cuda" and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    hardware: dict[str, dict[str, Any]] = {
        "cuda": {"device": "cuda"}, "ranks": {"processes": 3}, "strict": {"strict_clock": True},
        "attention": {"attention": "fa3", "device": "cpu", "processes": 2},
    }  # fmt: skip
    train: dict[str, dict[str, Any]] = {
        "batch": {"batch_tokens": 16384}, "unknown": {"stepz": 3}, "strict": {"steps": 0, "gpus": 8, "seconds": 9.0},
    }  # fmt: skip
    top = prepare(tmp_path, hardware.get(change), **train.get(change, {}))
    if change == "no shards":
        (top / "data/shards/shards.json").unlink()
    if change in ("totals", "no split", "no json"):
        split = {"tokens": 0} if change == "totals" else None
        index = json.dumps({"vocab_size": 61, "bos_id": 1, "splits": {"train": split}})
        (top / "data/shards/shards.json").write_text(index[:-1] if change == "no json" else index)
    done = run(top)
    assert done.returncode == code, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train: ")
    assert re.search(message, last), last
    assert "Traceback" not in done.stderr
    assert "processes:" not in done.stderr, "no rank was started for it"
    assert not (top / "runs/train/42").exists()


@pytest.mark.slow
def test_a_run_killed_in_the_middle_ends_with_the_same_weights(tmp_path: Path) -> None:
    """kill -9 of the real command, twice; the report is that of a run that nobody disturbed."""
    steps = {"steps": 300, "log_every": 10, "checkpoint_seconds": 0.01}
    whole, killed = prepare(tmp_path / "whole", **steps), prepare(tmp_path / "killed", **steps)
    assert run(whole).returncode == 0
    for least in (1, 100):
        process = start(killed)
        wait_for_checkpoint(killed, least)
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert not (killed / "runs/train/42").exists()
    done = run(killed)
    assert done.returncode == 0, done.stderr
    assert "resumed after step" in done.stderr
    assert files(killed / "runs/train/42") == files(whole / "runs/train/42")
    assert files(killed / "reports/train") == files(whole / "reports/train")
    assert files(killed / "reports/curves") == files(whole / "reports/curves")
    assert read(killed / "reports/timing/train/42.json")["resumed"] is True
    assert not list((killed / ".checkpoints").iterdir())


@pytest.mark.slow
def test_an_experiment_that_was_killed_goes_on_in_another_copy(tmp_path: Path) -> None:
    """DVC makes a new copy of the workspace for each start of one: what must last is in the repository."""
    copies = [tmp_path / ".dvc/tmp/exps/standalone" / name for name in ("first", "second")]
    first, second = (prepare(copy, steps=120, log_every=10, checkpoint_seconds=0.01) for copy in copies)
    process = start(first)
    wait_for_checkpoint(tmp_path, 20)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    done = run(second)
    assert done.returncode == 0, done.stderr
    assert "resumed after step" in done.stderr
    assert not list((tmp_path / ".checkpoints").iterdir())
    assert not (second / ".checkpoints").exists()


def wait_for_checkpoint(top: Path, least: int) -> None:
    deadline = time.monotonic() + 120
    while not any(int(path.stem[5:]) >= least for path in (top / ".checkpoints").glob("*/step-*.safetensors")):
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_are_started_by_the_stage_and_train_the_same(tmp_path: Path) -> None:
    one = prepare(tmp_path / "one", micro_batch_tokens=64, steps=4)
    two = prepare(tmp_path / "two", {"processes": 2}, micro_batch_tokens=64, steps=4)
    done = run(two)
    assert done.returncode == 0, done.stderr
    assert run(one).returncode == 0
    found, expected = (load_state(top / "runs/train/42", "raw") for top in (two, one))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    timing = read(two / "reports/timing/train/42.json")
    assert (timing["processes"], timing["accumulation"]) == (2, 2)


@pytest.mark.slow
def test_a_resumed_run_by_the_clock_says_so_in_its_report(tmp_path: Path) -> None:
    top = prepare(tmp_path, steps=0, seconds=4.0, log_every=1, checkpoint_seconds=0.01)
    process = start(top)
    wait_for_checkpoint(top, 1)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert run(top).returncode == 0
    report = read(top / "reports/train/42.json")
    assert report["resumed"] is True
    assert report["clock"] == "wall"


def test_a_bad_parameter_of_a_later_stage_is_refused_before_training(tmp_path: Path) -> None:
    top = prepare(tmp_path)
    params = top / "params.yaml"
    params.write_text(params.read_text().replace("bits: 6", "bits: 99"))
    result = run(top)
    assert result.returncode == Exit.CONFIG
    assert "needed 2 to" in result.stderr
    assert not (top / "runs").exists()
