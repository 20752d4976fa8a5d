"""The stage as a command: a report when all is well, a line for each defect and exit code 65 when not."""

import json
from pathlib import Path

import numpy as np
import pytest

from golf.data.raw import sha256, write_manifest
from golf.data.shards import write_shard
from tests.stages.world import stage


@pytest.fixture
def place(tmp_path: Path) -> Path:
    raw = tmp_path / "data/raw"
    raw.mkdir(parents=True)
    entries = []
    for split, start in (("train", 5), ("val", 50)):
        path = raw / f"fineweb_{split}_000000.bin"
        write_shard(path, np.array([1, *range(start, start + 20)]))
        entries.append({"name": path.name, "split": split, "bytes": path.stat().st_size, "sha256": sha256(path)})
    write_manifest(raw, "shards", "mirror", entries, vocab_size=100)
    return tmp_path


def test_verify(place: Path) -> None:
    done = stage("verify", place)
    assert done.returncode == 0, done.stderr
    report = json.loads((place / "reports/verify.json").read_text())
    assert report["files"] == 2
    assert report["train_tokens"] == report["val_tokens"] == 21
    assert report["val_documents_in_train"] == 0
    assert len(report) <= 12
    assert json.loads((place / "reports/timing/verify.json").read_text())["bytes_per_second"] > 0


def test_each_defect_is_a_line(place: Path) -> None:
    train, val = (place / f"data/raw/fineweb_{split}_000000.bin" for split in ("train", "val"))
    train.write_bytes(train.read_bytes()[:-2])
    val.write_bytes(b"\0" + val.read_bytes()[1:])
    done = stage("verify", place)
    assert done.returncode == 65
    lines = [line for line in done.stderr.splitlines() if "% " not in line]
    assert any(line.startswith("verify: fineweb_train_000000.bin: truncated") for line in lines)
    assert any(line.startswith("verify: fineweb_val_000000.bin: found magic") for line in lines)
    assert lines[-1].startswith(f"verify: data/raw: {len(lines) - 1} defects, each named above")
    assert not (place / "reports/verify.json").exists()


def test_before_fetch(tmp_path: Path) -> None:
    done = stage("verify", tmp_path)
    assert done.returncode == 66
    assert "data/raw/manifest.json: no such file. Try: dvc repro fetch" in done.stderr
