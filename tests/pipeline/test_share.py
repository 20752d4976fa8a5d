"""Stages that workers share: named by what decides their results, claimed by one at a time, free when it is killed."""

import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline import flows, share, supervise
from pipeline.push import push_runs
from pipeline.share import claimed, stage_keys
from pipeline.supervise import BusyError
from tests.pipeline.campaign.graph import git
from tests.pipeline.prefect_server import make_repository

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervise, "POLL", 0.05)


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return sorted(stage for stage in before if before[stage] != after[stage])


def test_a_key_changes_with_what_reaches_the_stage_and_with_nothing_else() -> None:
    plain = stage_keys(ROOT)
    assert set(plain) == {stage for group in flows.GROUPS for stage in group}
    assert stage_keys(ROOT, ["tracking.experiment=other"]) != plain
    assert changed(plain, stage_keys(ROOT, ["tracking.experiment=other"])) == ["track"]
    by_bits = changed(plain, stage_keys(ROOT, ["quant.bits=5"]))
    assert {"quantize", "compress", "gate", "evaluate"} <= set(by_bits)
    assert not {"fetch", "verify", "tokenize", "train"} & set(by_bits)
    assert stage_keys(ROOT, ["quant.bits=6"]) == plain, "what params.yaml says already"
    assert stage_keys(ROOT, ["hardware.threads=3"]) == plain
    assert changed(plain, stage_keys(ROOT, ["+model.new=1"])) == sorted(plain), "an odd one may reach anything"


def test_code_of_a_stage_is_part_of_its_key(tmp_path: Path) -> None:
    root = make_repository(tmp_path / "one", tmp_path)
    before = stage_keys(root)
    (root / "stage.py").write_text("pass\n")
    assert changed(before, stage_keys(root)) == ["evaluate", "fetch", "train"]


def test_a_stage_is_claimed_once_for_each_remote_and_released_early(tmp_path: Path) -> None:
    folder, keys, told = tmp_path / "node", {"train": "a", "gate": "b"}, []
    with claimed("s3://one", keys, "first", print, 0, folder) as claims:
        refused = pytest.raises(BusyError, match=r"held by process .* \(first\)")
        with refused, claimed("s3://one", keys, "", print, 0, folder):
            pass
        with claimed("s3://two", keys, "", print, 0, folder), claimed("", keys, "", print, 0, folder):
            pass
        with claimed("s3://one", {"train": "other"}, "", print, 0, folder):
            pass
        claims.release(["train@42"])
        with claimed("s3://one", {"train": "a"}, "", print, 0, folder):
            pass
        threading.Timer(0.3, claims.release, [["gate"]]).start()
        begin = time.monotonic()
        with claimed("s3://one", keys, "second", told.append, 20, folder):
            assert time.monotonic() - begin < 10
    assert len(told) == 1
    assert "gate-b: held by process" in told[0]


def test_the_remote_s_path_is_the_same_from_every_checkout(tmp_path: Path) -> None:
    one = make_repository(tmp_path / "one", tmp_path, Path("../../store"))
    assert share.remote_address(one) == str(tmp_path / "store")
    git(one, "status")
    two = make_repository(tmp_path / "two", tmp_path)
    assert share.remote_address(two) == ""


def test_a_run_s_folders_go_to_the_remote_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of an experiment apart from the workspace: no dvc.lock here names its files."""
    (tmp_path / "how").write_text("0")
    root = make_repository(tmp_path / "one", tmp_path, tmp_path / "remote")
    monkeypatch.chdir(root)
    stage = "fetch:\n    cmd: mkdir -p d && echo 1 > d/a && echo 2 > d/b\n    deps: [stage.py]\n    outs: [d]\n"
    (root / "dvc.yaml").write_text(f"stages:\n  {stage}")
    subprocess.run([sys.executable, "-m", "dvc", "-q", "repro"], check=True)
    (root / "dvc.lock").unlink()
    assert push_runs() == 3, "the folder and its two files"
    assert push_runs() == 0
    found = [path.name for path in (tmp_path / "remote/files/md5").glob("*/*")]
    assert sum(name.endswith(".dir") for name in found) == 1
    assert len(found) == 3
    assert list((tmp_path / "remote/runs").glob("*/*/*"))
