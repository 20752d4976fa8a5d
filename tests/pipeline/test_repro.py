"""Seeds side by side: the same results as one after the other, in less time, and a failure that stops the rest."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from golf.params.hardware import Hardware
from pipeline import repro
from pipeline.flows import StageFailed
from pipeline.repro import Order, lanes, order, side_by_side
from tests.pipeline.dvc_folder import make_dvc
from tests.stages.world import ROOT, write_params

# Each stage leaves its file and a line in `log`. The two `early` end only if they run at once; seed 13 fails in `late`.
STAGE = """
import pathlib, sys, time
name, seed = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else ""
with open("log", "a") as log: log.write(f"begin {name}{seed}\\n")
end = time.monotonic() + 60
while name == "early" and open("log").read().count("begin early") < 2:  # each waits for the other
    if time.monotonic() > end: sys.exit("alone")
    time.sleep(0.05)
if (name, seed) == ("late", "13"): print("late: no luck"); sys.exit(65)
pathlib.Path(f"{name}{seed}.txt").write_text(f"{name} {seed}")
"""
MATRIX = {"matrix": {"seed": "${seeds}"}}
GRAPH = {
    "data": {"cmd": "python stage.py data", "deps": ["stage.py"], "outs": ["data.txt"]},
    "early": MATRIX
    | {"cmd": "python stage.py early ${item.seed}", "deps": ["data.txt"], "outs": ["early${item.seed}.txt"]},
    "late": MATRIX
    | {"cmd": "python stage.py late ${item.seed}", "deps": ["early${item.seed}.txt"], "outs": ["late${item.seed}.txt"]},
    "end": {"cmd": "python stage.py end", "deps": ["data.txt", "late1.txt"], "outs": ["end.txt"]},
}


def test_the_order_is_the_graph_s() -> None:
    found = order(ROOT / "dvc.yaml")
    assert found.shared == ["fetch", "verify", "tokenize", "bundle"]
    assert found.first == "train"
    assert found.rest == ["select", "quantize", "compress", "gate", "evaluate", "audit"]


@pytest.mark.parametrize(
    ("cores", "hardware", "expected"),
    [
        (1, Hardware(device="cpu", threads=1), 1),
        (2, Hardware(device="cpu", threads=1), 2),
        (16, Hardware(device="cpu", threads=1), 3),
        (4, Hardware(device="cpu", threads=2), 2),
        (4, Hardware(device="cpu", threads=1, processes=2), 2),
        (4, Hardware(device="cpu", threads=8), 1),
        (4, Hardware(device="cpu", threads=0), 1),  # torch takes every core
    ],
)
def test_lanes_share_the_cores(cores: int, hardware: Hardware, expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repro, "available_cores", lambda: cores)
    assert lanes(hardware, 3) == expected


def test_a_gpu_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repro, "available_cores", lambda: 64)
    monkeypatch.setattr(repro, "uses_gpu", lambda hardware: True)
    assert lanes(Hardware(threads=1), 3) == 1


def test_first_stages_go_first_and_a_failure_begins_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def reproduce(arguments: list[str], seed: int | None = None) -> None:
        calls.append(" ".join(arguments[1:]))
        if arguments[1] == "late@1":
            raise StageFailed("late: no luck", 65)

    monkeypatch.setattr(repro, "reproduce", reproduce)
    stages = Order(["data"], "early", ["late", "last"])
    with pytest.raises(StageFailed, match="no luck"):
        side_by_side(stages, [1, 2, 3], 1)
    assert calls == ["data", "early@1", "early@2", "early@3", "late@1 last@1"]


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path, seeds=[1, 2])
    Path("stage.py").write_text(STAGE)
    Path("dvc.yaml").write_text(yaml.safe_dump({"stages": GRAPH}, sort_keys=False))
    subprocess.run(["git", "init", "-q"], check=True)
    make_dvc(tmp_path)
    return tmp_path


def run(cores: int = 2) -> subprocess.CompletedProcess[str]:
    """That many lanes, whatever this machine has."""
    code = f"from pipeline import repro; repro.available_cores = lambda: {cores}; repro.run_main('repro', repro.main)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.mark.slow
def test_two_seeds_at_once_leave_what_dvc_finds_complete(graph: Path) -> None:
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    log = Path("log").read_text().split("\n")
    assert Path("late2.txt").read_text() == "late 2"
    assert Path("end.txt").is_file()
    assert "    2 | Running stage 'late@2'" in done.stdout
    assert len([line for line in log if line.startswith("begin")]) == 6, "nothing ran twice"
    before = Path("dvc.lock").read_text()
    assert run().returncode == 0
    assert Path("log").read_text().split("\n") == log
    assert Path("dvc.lock").read_text() == before


@pytest.mark.slow
def test_a_failed_seed_keeps_the_other_s_results_and_its_own_exit_code(graph: Path) -> None:
    write_params(graph, seeds=[1, 13])
    done = run()
    assert done.returncode == 65
    assert "late: no luck" in done.stderr
    assert Path("late1.txt").is_file()
    assert not Path("end.txt").exists()


@pytest.mark.slow
def test_one_lane_ends_with_the_stage_s_own_exit_code_too(graph: Path) -> None:
    write_params(graph, seeds=[13])
    Path("log").write_text("begin early\n" * 2)  # nothing to wait for
    done = run(cores=1)
    assert done.returncode == 65
    assert "late: no luck" in done.stderr
