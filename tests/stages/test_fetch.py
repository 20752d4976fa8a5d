"""The stage as a command: an error is one line and an exit code, and leaves nothing."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.stages.world import stage, write_params


def run(place: Path, changes: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    write_params(place, **changes)
    return stage("fetch", place)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("train", "val"):
        (tmp_path / "data/source" / name).mkdir(parents=True)
    return tmp_path


def test_fetch(place: Path) -> None:
    (place / "data/source/train/a.txt").write_text("a document")
    done = run(place, {"data": {"source": "text"}})
    assert (done.returncode, done.stdout) == (0, "fetch: 1 files, 1 documents, 23 bytes in data/raw\n")
    assert json.loads((place / "reports/timing/fetch.json").read_text())["documents"] == 1
    assert (place / "data/raw/manifest.json").is_file()


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"data": {"source": "web"}}, 78, "data.source: found 'web', needed one of docstrings"),
        ({"data": {"source": "text"}}, 66, "no .txt file in this folder"),
        ({"data": {"source": "text", "max_bytes": -1}}, 78, "data.max_bytes: found -1"),
        ({"data": {"source": "jsonl", "path": "nowhere"}}, 66, "nowhere: no such file or folder"),
        ({"data": {"val_path": "nowhere"}}, 66, "nowhere: no such file or folder"),
        ({"eval": {"stride": 0}}, 78, "eval.stride: found 0"),
    ],
)
def test_what_any_stage_would_refuse_is_refused_before_a_byte_is_brought(
    place: Path, changes: dict[str, Any], code: int, said: str
) -> None:
    done = run(place, changes)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (place / "data/raw").exists()
    assert not (place / "reports").exists()
