"""An experiment of the flows: killed by SIGKILL and started again; with a remote; what DVC left is put back."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from golf.runtime.files import write_json
from pipeline import flows
from pipeline.borrowed import FOLDER, NOTE, Borrowed
from pipeline.campaign.sweep.workspace import branch, keep, workspace_state
from tests.pipeline.campaign.graph import git
from tests.pipeline.prefect_server import ROOT, alive, make_repository, wait_for

RUN = "from pipeline import flows; flows.GRACE = 1.0; flows.experiment(['quant.bits=4'], print)"


@pytest.mark.slow
def test_killed_and_started_again_it_computes_only_what_was_running(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "how").write_text("hang")
    root = make_repository(tmp_path / "one", tmp_path, tmp_path / "remote")
    monkeypatch.chdir(root)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with subprocess.Popen([sys.executable, "-c", RUN], env={**os.environ, "PYTHONPATH": str(ROOT)}) as process:
        wait_for((tmp_path / "pids").is_file)
        process.send_signal(signal.SIGKILL)
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    (tmp_path / "how").write_text("0")
    said: list[str] = []
    name = flows.experiment(["quant.bits=4"], said.append, patience=60)
    assert not any(map(alive, pids)), "it waited for the last rank of the killed one"
    assert any(line.startswith("waiting: .locks/graph: held by process") for line in said)
    assert (tmp_path / "ran").read_text().split("\n")[:-1] == ["fetch 4", "train 4", "train 4", "evaluate 4"]
    assert name
    assert not git(root, "status", "--porcelain")
    assert len(list((tmp_path / "remote/files/md5").glob("*/*"))) == 2, "the content of fetch and train, of evaluate"
    assert not (FOLDER / NOTE).exists()


def test_overrides_that_a_kill_left_in_the_workspace_are_taken_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = make_repository(tmp_path / "one", tmp_path)
    monkeypatch.chdir(root)
    params = (root / "params.yaml").read_text()
    keep(root, FOLDER)
    write_json(FOLDER / NOTE, {"state": workspace_state(root), "branch": branch(root), "overrides": ["quant.bits=4"]})
    (root / "params.yaml").write_text(params.replace("bits: 6  # width of the m", "bits: 4  # width of the m"))
    said: list[str] = []
    Borrowed(["quant.bits=5"], said.append).begin()
    assert (root / "params.yaml").read_text() == params
    assert said == ["params.yaml: put back; a kill had left a run's overrides in it"]
    (root / "params.yaml").write_text(params.replace("bits: 6  # width of the m", "bits: 3  # width of the m"))
    Borrowed(["quant.bits=5"], said.append).begin()
    assert "bits: 3  # width of the matrices" in (root / "params.yaml").read_text()
    assert len(said) == 1
    kept = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(kept.replace("bits: 3  # width of the m", "bits: 5  # width of the m"))
    Borrowed([], said.append).restore()  # what a nightly run does first
    assert (root / "params.yaml").read_text() == kept
    assert len(said) == 2
    assert not (FOLDER / NOTE).exists()


def test_a_damaged_note_of_a_killed_run_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    FOLDER.mkdir(parents=True)
    said: list[str] = []
    for text in ("{", "[]", "{}"):
        (FOLDER / NOTE).write_text(text)
        Borrowed([], said.append).restore()
    assert [line.partition("(")[0] for line in said] == ["logs/experiment/begun.json: damaged "] * 3


def test_the_record_profile_as_overrides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    begin = time.monotonic()
    found = flows.profile_overrides("record")
    assert {
        "train.steps=0",
        "data.source=fineweb",
        "train.ema_decays=[0.995,0.997,0.999]",
    } <= set(found)
    assert "stats.baseline=golf/stats/baselines/2026-03-22.json" in found
    assert not any(one.startswith("seeds=") for one in found), "they are the default's"
    flows.experiment_arguments(found, inputs=[])
    assert flows.profile_overrides("default") == []
    assert time.monotonic() - begin < 10
