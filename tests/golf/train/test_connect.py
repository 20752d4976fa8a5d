"""The ranks' first meeting: NCCL's settings are there, and a hang ends in time."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from golf.params.base import from_dict, to_dict
from golf.params.hardware import Hardware
from golf.runtime.errors import ConfigError, Exit
from golf.train.connect import connect

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import os, sys, time
from pathlib import Path
from golf.params.hardware import Hardware
from golf.runtime.errors import DataError, run_main
from golf.train import connect
from golf.train.distributed import started_by_torchrun
from golf.train.launch import launch, reported

def exchange(ranks):
    if ranks.index == 1 and sys.argv[1] == "hang":
        time.sleep(100)
    original(ranks)

def work(failure):
    hardware = Hardware(device="cpu", nccl={"NCCL_NET": "Socket"}, nccl_timeout=3.0 if sys.argv[1] == "hang" else 60.0)
    with connect.connect(hardware, failure) as ranks:
        assert os.environ["NCCL_NET"] == "Socket"
        sys.stdout.write(f"rank {ranks.index} of {ranks.count}\\n")
        if sys.argv[1] == "fail" and ranks.first:
            raise DataError("a: found 1, needed 2")
        if sys.argv[1] == "disk" and ranks.first:
            raise OSError(28, "No space left on device", "weights")
        ranks.first_says(0.0)

def main():
    if not started_by_torchrun():
        launch("ranks", sys.argv[1:2], 2, 1)
        return
    failure = Path(sys.argv[-1])
    code = reported(lambda: work(failure), failure)
    if code:
        sys.exit(code)

original, connect.first_exchange = connect.first_exchange, exchange
run_main("ranks", main)
"""


def run(folder: Path, mode: str) -> subprocess.CompletedProcess[str]:
    (folder / "ranks.py").write_text(PROGRAM)
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{folder}"}
    command = [sys.executable, "-m", "ranks", mode]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=100
    )


def test_a_rank_that_never_comes_ends_the_run_in_time_with_what_was_tried(tmp_path: Path) -> None:
    started = time.monotonic()
    done = run(tmp_path, "hang")
    assert time.monotonic() - started < 60
    assert done.returncode == Exit.RETRY
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ranks: the machine failed: no first exchange between 2 ranks over gloo within ")
    assert "hardware.nccl_timeout = 3 s, with hardware.nccl: NCCL_NET=Socket. Try: " in last


@pytest.mark.slow
def test_ranks_that_meet_go_on_with_the_settings(tmp_path: Path) -> None:
    done = run(tmp_path, "meet")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["rank 0 of 2", "rank 1 of 2"]


def test_what_ends_one_rank_is_told_and_not_that_the_others_lost_it(tmp_path: Path) -> None:
    done = run(tmp_path, "fail")
    assert done.returncode == Exit.DATA, done.stderr
    assert done.stderr.splitlines()[-1] == "ranks: a: found 1, needed 2"
    done = run(tmp_path, "disk")
    assert done.returncode == Exit.IO, done.stderr
    assert "No space left on device: 'weights'" in done.stderr.splitlines()[-1]


def test_one_process_waits_for_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.Timer", lambda *_: pytest.fail("a clock for nobody"))
    with connect(Hardware(device="cpu")) as ranks:
        assert ranks.count == 1


@pytest.mark.parametrize("name", ["CUDA_VISIBLE_DEVICES", "TORCH_NCCL_BLOCKING_WAIT", "nccl_net", "NCCL_net", "NCCL"])
def test_only_nccl_s_own_settings_are_taken(name: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"hardware.nccl: found {name}: '1', needed names that begin with NCCL_.*Try"
    ):
        Hardware(nccl={name: "1"})


def test_settings_are_texts_of_a_mapping() -> None:
    values = to_dict(Hardware())
    assert from_dict(Hardware, {**values, "nccl": {"NCCL_DEBUG": "INFO"}}).nccl == {"NCCL_DEBUG": "INFO"}
    for wrong, message in (
        (["NCCL_DEBUG"], "needed a mapping of names"),
        ({"NCCL_IB_DISABLE": 1}, "NCCL_IB_DISABLE: .*text"),
    ):
        with pytest.raises(ConfigError, match=f"hardware.nccl.*{message}"):
            from_dict(Hardware, {**values, "nccl": wrong})
