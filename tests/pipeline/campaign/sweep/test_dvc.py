"""A sweep over a real DVC repository of two small stages: kept, killed, gone on with, side by side."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from pipeline import flows
from pipeline.campaign.sweep import verb
from pipeline.campaign.sweep.journal import fold, read
from tests.pipeline.campaign.graph import committed, git

ROOT = Path(__file__).resolve().parents[4]
STAGE = """
import json, os, pathlib, sys, time, yaml
params = yaml.safe_load(open("params.yaml"))
name, bits = sys.argv[1], params["quant"]["bits"]
with open(os.path.join("%s", "ran"), "a") as file:
    file.write(f"{name} {bits}\\n")
time.sleep(float(open(os.path.join("%s", "pause")).read()))
pathlib.Path("reports/evaluate").mkdir(parents=True, exist_ok=True)
if name == "train":
    pathlib.Path("weights").write_text("w")
elif bits == 7:
    sys.exit(print("evaluate: too big", file=sys.stderr) or 65)
else:
    pathlib.Path("reports/evaluate/42.json").write_text(json.dumps({"bpb": bits / 10, "bytes": 10, "tokens": 4}))
"""


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "repository"
    root.mkdir()
    monkeypatch.chdir(root)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    (tmp_path / "pause").write_text("0")
    (root / "stage.py").write_text(STAGE % (tmp_path, tmp_path))
    text = (ROOT / "params.yaml").read_text()
    start, end = text.index("seeds:"), text.index("\n\n", text.index("seeds:"))
    (root / "params.yaml").write_text(text[:start] + "seeds:\n  - 42" + text[end:])
    stages = {
        "train": {"cmd": "python stage.py train", "params": ["optim.matrix_lr"], "deps": ["stage.py"],
                  "outs": ["weights"]},
        "evaluate": {"cmd": "python stage.py evaluate", "params": ["quant.bits"], "deps": ["stage.py", "weights"],
                     "metrics": [{"reports/evaluate/42.json": {"cache": False}}]},
    }  # fmt: skip
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    (root / ".gitignore").write_text("/weights\n/.locks/\n/logs/\n/mlflow.db*\n")
    return committed(root)


def ran(root: Path) -> list[str]:
    path = root.parent / "ran"
    return path.read_text().splitlines() if path.is_file() else []


@pytest.mark.slow
def test_a_sweep_of_real_experiments_side_by_side(repository: Path) -> None:
    wanted = verb.sweep_of(None, ["quant.bits=4,5,6,7"], "bits", None, None)
    told: list[str] = []
    found = verb.run(wanted, jobs=2, tell=told.append)
    assert found["complete"], told
    assert [row["bpb"] for row in found["runs"]] == [0.4, 0.5, 0.6, None], told
    assert found["runs"][-1]["failed"] == "evaluate: too big"
    assert sorted(ran(repository)) == ["evaluate 4", "evaluate 5", "evaluate 6", "evaluate 7", "train 4"]
    assert set(found["stages"]) == {"train", "evaluate", "other"}
    assert not git(repository, "status", "--porcelain")
    again = verb.run(wanted, jobs=2, tell=told.append)
    assert [row["run"] for row in again["runs"]] == [row["run"] for row in found["runs"]]
    assert len(ran(repository)) == 5
    Path("logs/sweep/bits.jsonl").unlink()  # the journal is lost, DVC's experiments are not
    verb.run(wanted, jobs=2, tell=told.append)
    assert sorted(ran(repository))[:4] == ["evaluate 4", "evaluate 5", "evaluate 6", "evaluate 7"]
    assert len(ran(repository)) == 6  # the failed one, once more


@pytest.mark.slow
def test_killed_it_leaves_nothing_running_and_goes_on(repository: Path) -> None:
    (repository.parent / "pause").write_text("600")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline.cli", "sweep", "-S", "quant.bits=4,5", "--name", "k", "--jobs", "1"]
    with subprocess.Popen(command, env=env) as process:
        end = time.monotonic() + 60
        while not ran(repository) and time.monotonic() < end:
            time.sleep(0.1)
        process.send_signal(signal.SIGKILL)
    assert ran(repository) == ["train 4"]
    (repository.parent / "pause").write_text("0")
    assert fold(read(Path("logs/sweep/k.jsonl"))).begun
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert ran(repository) == ["train 4", "train 4", "evaluate 4", "evaluate 5"]
    assert "stopped: complete: 2 of 2 runs have a score" in done.stdout


@pytest.mark.slow
def test_a_sweep_as_a_flow_brings_each_run_to_the_remote(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the deployment `sweep` runs, and how it tells that a file is not there."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (repository / ".dvc/config.local").write_text(
        f"[core]\n    remote = store\n['remote \"store\"']\n    url = {repository.parent}/remote\n"
    )
    Path("logs").mkdir()
    Path("logs/bits.yaml").write_text("parameters: {quant.bits: [4, 5]}\n")
    said: list[str] = []
    warned: list[str] = []
    flows.swept(["logs/bits.yaml", "--jobs", "1"], said.append, warned.append)
    assert any("stopped: complete: 2 of 2 runs have a score" in line for line in said)
    assert sum(line.startswith("saved after bits-") for line in said) in (1, 2), said + warned
    assert list((repository.parent / "remote/files/md5").iterdir())
    with pytest.raises(flows.StageFailed) as caught:
        flows.swept(["nothing.yaml"], said.append, warned.append)
    assert caught.value.state == "InputMissing"
    assert "nothing.yaml" in str(caught.value)
