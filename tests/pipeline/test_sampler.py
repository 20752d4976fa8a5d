"""System metrics: sampled while stages run, found again by stage and hour, logged under MLflow's names."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline import load, sampler
from pipeline.load import during
from pipeline.sampler import Sampler
from tests.pipeline.test_track import make_state, store, write

assert store is not None  # a fixture
SMI = """#!/bin/sh
echo "87, 40960, 81920, 350.5, 700.0"
echo "12, 1024, 81920, [N/A], [N/A]"
"""


def line(at: float, *stages: str) -> str:
    return json.dumps({"time": at, "stages": stages, "cpu_utilization_percentage": at % 100}) + "\n"


@pytest.mark.skipif(sys.platform != "linux", reason="a shell script as nvidia-smi")
def test_a_line_has_the_machine_the_gpus_and_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    stage = [sys.executable, "-c", "import sys; print(1, flush=True); sys.stdin.read()", "stages.train", "--seed", "42"]
    with subprocess.Popen(stage, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with Sampler(tmp_path, every=0.1), Sampler(tmp_path, every=0.1):
            end = time.monotonic() + 20
            while not (files := list((tmp_path / load.FOLDER).glob("*.jsonl"))) and time.monotonic() < end:
                time.sleep(0.05)
            time.sleep(0.3)
        process.kill()
    found = [json.loads(one) for one in files[0].read_text().splitlines()]
    assert "train@42" in found[0]["stages"]
    assert found[0]["gpu_0_utilization_percentage"] == 87.0
    assert found[0]["gpu_0_memory_usage_percentage"] == 50.0
    assert found[0]["gpu_0_power_usage_percentage"] == pytest.approx(50.07, abs=0.01)
    assert {key for key in found[0] if key.startswith("gpu_1")} == {
        "gpu_1_utilization_percentage", "gpu_1_memory_usage_megabytes", "gpu_1_memory_usage_percentage"
    }  # fmt: skip
    assert 0 < found[0]["system_memory_usage_percentage"] <= 100
    times = [one["time"] for one in found]
    assert len(times) == len(set(times)), "the second sampler stood aside"


def test_without_a_gpu_or_with_a_silent_driver_there_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert sampler._gpus() == {}
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexit 9\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert sampler._gpus() == {}


def test_only_the_lines_of_this_seed_s_stages_on_this_machine(tmp_path: Path) -> None:
    midnight = 1_700_006_400.0
    text = [line(midnight - 5, "train@42"), line(midnight + 5, "train@7"), line(midnight + 15, "train@42", "gate@7")]
    write(tmp_path / load.FOLDER / "2023-11-14.jsonl", text[0])
    text += [line(midnight + 99, "train@42"), '{"time": 17']
    write(tmp_path / load.FOLDER / "2023-11-15.jsonl", "".join(text[1:]))
    spans = {"train": (midnight - 10, midnight + 20)}
    assert [one["time"] - midnight for one in during(tmp_path, 42, spans)] == [-5, 15]
    assert during(tmp_path, 42, {}) == []
    assert during(tmp_path, 42, {"train": (0.0, 1.0)}) == []
    write(tmp_path / load.FOLDER / "2023-11-14.jsonl", line(midnight - 5, "train@42") * 1200)
    assert 300 < len(during(tmp_path, 42, spans)) <= load.MOST


def test_track_logs_them_where_mlflow_looks(tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.pipeline.test_track import log, runs, shutil

    shutil.copyfile(store, tmp_path / "mlflow.db")
    root = make_state(tmp_path)
    monkeypatch.chdir(root)
    at = 1_700_000_000.0
    text = "".join(line(at + i, "train@42") for i in range(4))
    write(root / load.FOLDER / f"{time.strftime('%Y-%m-%d', time.gmtime(at))}.jsonl", text)
    assert log(root)
    found = {run.info.run_name: run.data.metrics for run in runs(root)}
    assert found["seed 42"]["system/cpu_utilization_percentage"] == 3.0
    assert not any(key.startswith("system/") for key in found["seed 314"])
