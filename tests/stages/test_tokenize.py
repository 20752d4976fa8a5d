"""The stage as a command, from text to shards; and what it refuses."""

import json
import subprocess
from pathlib import Path

import pytest

from golf.data.raw import write_manifest, write_text
from tests.stages.world import stage, write_params


def run(place: Path, **changes: object) -> subprocess.CompletedProcess[str]:
    write_params(place, tokenizer=changes)
    return stage("tokenize", place)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "data/source/tokenizer").mkdir(parents=True)
    raw = tmp_path / "data/raw"
    raw.mkdir()
    texts = [f"document {i}: " + " ".join(f"word{(i * j) % 97}" for j in range(80)) for i in range(40)]
    write_manifest(raw, "text", "jsonl", write_text(raw, "train", texts))
    return tmp_path


def test_tokenize(place: Path) -> None:
    done = run(place, vocab_size=300)
    assert done.returncode == 0, done.stderr
    report = json.loads((place / "reports/tokenize.json").read_text())
    assert report["vocab_size"] == 300
    assert report["val_documents"] == 1
    assert 1 < report["bytes_per_token"] < 6
    assert len(report) <= 12
    assert "val_raw_bytes" not in report  # white space and all, nothing was normalised away
    names = {path.relative_to(place / "data").as_posix() for path in (place / "data").rglob("*") if path.is_file()}
    assert {name for name in names if not name.startswith("raw/")} == {
        "shards/heldout_000000.bin", "shards/shards.json", "shards/train_000000.bin", "shards/val_000000.bin",
        "tokenizer/bytes.safetensors", "tokenizer/tokenizer.model",
    }  # fmt: skip


def test_transformed(place: Path) -> None:
    texts = [f"Document {i}:  The NASA PCs " + " ".join(f"Word{(i * j) % 97}" for j in range(80)) for i in range(40)]
    write_manifest(place / "data/raw", "text", "jsonl", write_text(place / "data/raw", "train", texts))
    done = run(place, vocab_size=300, transform="caseops")
    assert done.returncode == 0, done.stderr
    assert "all 40 documents came back from their transform" in done.stdout
    report = json.loads((place / "reports/tokenize.json").read_text())
    assert report["val_raw_bytes"] == report["val_bytes"] + 1  # the second space
    assert len(report) <= 12
    assert json.loads((place / "reports/timing/tokenize.json").read_text())["restored_documents"] == 40
    assert (place / "data/shards/val_bytes_000000.bin").stat().st_size == 1024 + 2 * report["val_tokens"]


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"vocab_size": 60_000}, 65, "the corpus is too small"),
        ({"vocab_size": 100}, 78, "tokenizer.vocab_size: found 100"),
        ({"transform": "casefold"}, 78, "tokenizer.transform: found 'casefold', needed one of none, caseops"),
        ({"model": "nowhere"}, 66, "tokenizer.model: nowhere: no such file"),
        ({"model": "params.yaml"}, 78, "needed a SentencePiece .model or a folder"),
    ],
)
def test_refusals(place: Path, changes: dict[str, object], code: int, said: str) -> None:
    done = run(place, **changes)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert not (place / "data/shards").exists()
    assert not (place / "data/tokenizer").exists()
    assert not (place / "reports").exists()
