"""What a run would fail on later is one line before it starts."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.stages.world import ROOT, write_params


def preflight(folder: Path) -> subprocess.CompletedProcess[str]:
    command, environment = [sys.executable, "-m", "pipeline.preflight"], {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def here(tmp_path: Path) -> Path:
    for name in ("train", "val", "tokenizer"):
        (tmp_path / "data/source" / name).mkdir(parents=True)
    return tmp_path


def test_the_defaults_pass_in_silence(here: Path) -> None:
    write_params(here)
    done = preflight(here)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"seeds": 5}, 78, "seeds: found 5, needed distinct non-negative integers"),
        ({"hardware": {"device": "tpu"}}, 78, "hardware.device: found 'tpu', needed one of auto, cpu, cuda"),
        ({"stats": {"baseline": "nowhere"}}, 66, "stats.baseline: nowhere: no such file"),
        (
            {"data": {"path": "nowhere"}},
            66,
            "data.path: nowhere: no such file or folder. Try: dvc exp run -S data.path=",
        ),
        ({"data": {"val_path": "nowhere"}}, 66, "data.val_path: nowhere: no such file or folder"),
        ({"tokenizer": {"model": "nowhere"}}, 66, "tokenizer.model: nowhere: no such file or folder"),
        ({"hardware": {"device": "cuda"}}, 78, "hardware.device=cuda: torch"),
        ({"qaunt": {"bits": 4}}, 78, "unknown section 'qaunt'; known: audit, budget"),
    ],
)
def test_what_is_wrong_is_one_line_and_its_exit_code(here: Path, changes: dict, code: int, said: str) -> None:
    write_params(here, **changes)
    done = preflight(here)
    assert done.returncode == code
    assert done.stderr.startswith("preflight: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_tokenizer_that_is_none_is_named_as_the_user_does(here: Path) -> None:
    (here / "data/source/tokenizer/own.model").write_bytes(b"garbage")
    write_params(here)
    done = preflight(here)
    assert done.returncode == 65
    assert "data/source/tokenizer/own.model: not a SentencePiece model" in done.stderr


def test_a_file_where_a_folder_is_written(here: Path) -> None:
    (here / "runs").write_text("")
    write_params(here)
    done = preflight(here)
    assert (done.returncode, done.stderr) == (
        74, "preflight: runs/: found a file, needed a writable folder. Try: ls -ld runs\n"
    )  # fmt: skip
