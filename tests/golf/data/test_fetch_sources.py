"""Every source ends in one folder with one manifest, whole or not at all."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf.data.fetch import fetch
from golf.data.raw import raw_documents, read_manifest, sha256
from golf.data.shards import write_shard
from golf.params.data import Data
from golf.runtime.errors import ConfigError, DataError, MissingInput


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("train", "val"):
        folder = tmp_path / "data/source" / name
        folder.mkdir(parents=True)
        (folder / "README.md").write_text("put text here")
    return tmp_path


def config(**changes: Any) -> Data:
    values: dict[str, Any] = {"source": "jsonl", "max_bytes": 0}
    return Data(**(values | changes))


def write_lines(path: Path, texts: list[str]) -> None:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def test_json_lines_with_their_manifest(place: Path) -> None:
    write_lines(place / "data/source/train/b.jsonl", ["three"])
    write_lines(place / "data/source/train/a.jsonl", ["one €", "", "two"])
    assert fetch(config())["documents"] == 3
    manifest = read_manifest("data/raw")
    assert (manifest["kind"], manifest["source"]) == ("text", "jsonl")
    [entry] = manifest["files"]
    assert entry["name"] == "train-00000.jsonl"
    assert entry["documents"] == 3
    assert entry["text_bytes"] == len("one €twothree".encode())
    assert entry["bytes"] == Path("data/raw/train-00000.jsonl").stat().st_size
    assert entry["sha256"] == sha256(Path("data/raw/train-00000.jsonl"))
    assert list(raw_documents("data/raw", "train")) == ["one €", "two", "three"]


def test_text_and_limits(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for index in range(4):
        (place / f"data/source/train/{index}.txt").write_text(f"text {index}")
    fetch(config(source="text", max_documents=2))
    assert list(raw_documents("data/raw", "train")) == ["text 0", "text 1"]
    assert "stopped at data.max_documents 2, " in capsys.readouterr().err
    fetch(config(source="text", max_bytes=23))
    assert list(raw_documents("data/raw", "train")) == ["text 0", "text 1", "text 2", "text"]
    assert "data.max_bytes 23 " in capsys.readouterr().err
    fetch(config(source="text", max_documents=5, max_bytes=24))
    assert "stopped" not in capsys.readouterr().err


def test_own_validation_of_every_kind(place: Path) -> None:
    write_lines(place / "data/source/train/a.jsonl", ["one", "two"])
    (place / "data/source/val/v.txt").write_text("validation")
    fetch(config(max_documents=1))
    assert list(raw_documents("data/raw", "val")) == ["validation"]
    (place / "data/source/val/v.txt").unlink()
    write_shard(place / "data/source/val/fineweb_val_000000.bin", np.arange(1, 9))
    write_shard(place / "data/source/val/fineweb_val_bytes_000000.bin", np.arange(8))
    fetch(config())
    splits = {entry["name"]: entry["split"] for entry in read_manifest("data/raw")["files"]}
    assert splits["val_000000.bin"] == "val"
    assert splits["val_bytes_000000.bin"] == "val_bytes"
    fetch(config(val_path=str(place / "data/source/val/fineweb_val_000000.bin")))
    assert {e["split"] for e in read_manifest("data/raw")["files"]} == {"train", "val", "val_bytes"}
    write_lines(place / "data/source/val/v.jsonl", ["x"])
    with pytest.raises(ConfigError, match="shards and text"):
        fetch(config())


def test_nothing_is_left_of_a_failed_fetch(place: Path) -> None:
    write_lines(place / "data/source/train/a.jsonl", ["kept"])
    fetch(config())
    (place / "data/source/train/b.jsonl").write_text("garbage\n")
    with pytest.raises(DataError, match=r"b\.jsonl:1: found 'garbage'"):
        fetch(config())
    assert list(raw_documents("data/raw", "train")) == ["kept"]
    assert sorted(path.name for path in Path("data").iterdir()) == ["raw", "source"]


def test_nothing_to_fetch(place: Path) -> None:
    with pytest.raises(MissingInput, match=r"no \.jsonl or \.jsonl\.zst or \.jsonl\.gz file"):
        fetch(config())
    with pytest.raises(MissingInput, match="absent: no such file or folder"):
        fetch(config(path="absent"))
    write_lines(place / "data/source/train/a.jsonl", ["  "])
    with pytest.raises(DataError, match="no document with any text"):
        fetch(config())
    with pytest.raises(MissingInput, match="absent: no such file or folder"):
        fetch(config(val_path="absent"))
    (place / "data/source/val/val_000000.bin").write_bytes(b"short")
    with pytest.raises(DataError, match="needed a header"):
        fetch(config())
    assert not Path("data/raw").exists()


def test_mirror_of_published_shards(place: Path) -> None:
    top = place / "data/source/train"
    for index in range(3):
        write_shard(top / f"fineweb_train_{index:06d}.bin", np.array([1, 5, index]))
    write_shard(top / "fineweb_val_000000.bin", np.array([1, 7]))
    with pytest.raises(DataError, match=r"no single tokenizer \.model"):
        fetch(config(source="fineweb", train_shards=2))
    (top / "fineweb_1024_bpe.model").write_bytes(b"model")
    fetch(config(source="fineweb", train_shards=2))
    manifest = read_manifest("data/raw")
    assert (manifest["kind"], manifest["variant"], manifest["validation"]) == ("shards", "sp1024", "published")
    names = [entry["name"] for entry in manifest["files"]]
    assert names == [
        "fineweb_train_000000.bin",
        "fineweb_train_000001.bin",
        "fineweb_val_000000.bin",
        "tokenizer.model",
    ]
    (place / "data/source/val/own.txt").write_text("own")
    fetch(config(source="fineweb", train_shards=1))
    manifest = read_manifest("data/raw")
    assert manifest["validation"] == "own"
    assert [e["name"] for e in manifest["files"] if e["split"] == "val"] == ["val-00000.jsonl"]
    with pytest.raises(ConfigError, match="has 3 training shards"):
        fetch(config(source="fineweb", train_shards=4))


@pytest.mark.parametrize("content", ["", "[]", '{"format": 2}', '{"format": 1, "kind": "odd", "files": []}'])
def test_foreign_manifests_are_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json"):
        read_manifest(tmp_path)


ENTRY = {"name": "train-00000.jsonl", "split": "train", "bytes": 0, "sha256": ""}


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../x"}, {"name": ".."}, {"name": 5}, {"bytes": "0"}, {"bytes": None}, {"documents": "ten"},
        {"split": 5}, {"sha256": None},
    ],
)  # fmt: skip
def test_foreign_file_entries_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    manifest: dict[str, Any] = {"format": 1, "kind": "text", "files": [ENTRY]}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    assert read_manifest(tmp_path) == {"source": "", **manifest}
    for files in ([ENTRY | change], [ENTRY, ENTRY]):
        (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"files": files}))
        with pytest.raises(DataError, match="found the file entry"):
            read_manifest(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"vocab_size": "1024"}))
    with pytest.raises(DataError, match="vocab_size: found '1024', needed int"):
        read_manifest(tmp_path)
