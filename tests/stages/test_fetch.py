"""The stage as a command: an error is one line and an exit code, and leaves nothing."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from golf.params.base import to_dict
from golf.params.data import Data

ROOT = Path(__file__).parents[2]


def run(place: Path, **data: object) -> subprocess.CompletedProcess[str]:
    (place / "params.yaml").write_text(yaml.safe_dump({"data": to_dict(Data()) | data}))
    command = [sys.executable, "-m", "stages.fetch"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    return subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("train", "val"):
        (tmp_path / "data/source" / name).mkdir(parents=True)
    return tmp_path


def test_fetch(place: Path) -> None:
    (place / "data/source/train/a.txt").write_text("a document")
    done = run(place, source="text")
    assert (done.returncode, done.stdout) == (0, "fetch: 1 files, 1 documents, 23 bytes in data/raw\n")
    assert json.loads((place / "reports/timing/fetch.json").read_text())["documents"] == 1
    assert (place / "data/raw/manifest.json").is_file()


@pytest.mark.parametrize(
    ("data", "code", "said"),
    [
        ({"source": "web"}, 78, "data.source: found 'web', needed one of docstrings"),
        ({"source": "text"}, 66, "no .txt file in this folder"),
        ({"source": "jsonl", "path": "nowhere"}, 66, "nowhere: no such file or folder"),
        ({"source": "text", "max_bytes": -1}, 78, "data.max_bytes: found -1"),
        ({"val_path": "nowhere"}, 66, "nowhere: no such file or folder"),
    ],
)
def test_refusals(place: Path, data: dict[str, object], code: int, said: str) -> None:
    done = run(place, **data)
    assert done.returncode == code
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (place / "data/raw").exists()
    assert not (place / "reports").exists()
