"""Every defect is found, and named in one line: file, what, found, needed."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from golf.data import published
from golf.data.raw import sha256, write_manifest, write_text
from golf.data.shards import read_shard, write_shard
from golf.data.tokenizer import train_model
from golf.data.verify import verify
from golf.runtime.errors import DataError, MissingInput

VOCAB = 300


def documents(seed: int, count: int, lengths: tuple[int, int] = (2, 40)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [
        np.concatenate([[1], rng.integers(4, VOCAB, int(rng.integers(*lengths)))]).astype(np.uint16)
        for _ in range(count)
    ]


def write(folder: Path, name: str, tokens: list[np.ndarray]) -> None:
    write_shard(folder / name, np.concatenate(tokens))


def seal(folder: Path, **more: Any) -> None:
    """Write the manifest of what is there now."""
    entries = []
    for path in sorted(folder.iterdir()):
        if path.name == "manifest.json":
            continue
        split = next(s for s in ("val_bytes", "train", "val", "tokenizer") if s in path.name)
        entries.append({"name": path.name, "split": split, "bytes": path.stat().st_size, "sha256": sha256(path)})
    write_manifest(folder, "shards", more.pop("source", "mirror"), entries, vocab_size=VOCAB, **more)


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """Two training shards with a document that reaches over both, one validation shard, one sidecar."""
    train = np.concatenate(documents(1, 200))
    write(tmp_path, "fineweb_train_000000.bin", [train[:1500]])
    write(tmp_path, "fineweb_train_000001.bin", [train[1500:]])
    val = np.concatenate(documents(2, 30))
    write(tmp_path, "fineweb_val_000000.bin", [val])
    write(tmp_path, "fineweb_val_bytes_000000.bin", [np.where(val == 1, 0, 3)])
    seal(tmp_path)
    return tmp_path


def change(path: Path, place: int, value: int) -> None:
    tokens = np.array(read_shard(path))
    tokens[place] = value
    write_shard(path, tokens)


def test_sound_shards(raw: Path) -> None:
    verdict = verify(raw)
    assert verdict.defects == []
    numbers = verdict.numbers
    assert numbers["train_documents"] == 200
    assert numbers["val_documents"] == 30
    assert numbers["train_tokens"] == sum(read_shard(raw / f"fineweb_train_00000{i}.bin").size for i in (0, 1))
    assert numbers["val_documents_in_train"] == 0
    assert numbers["bytes"] == sum(path.stat().st_size for path in raw.glob("*.bin"))
    assert numbers["manifest_sha256"] == sha256(raw / "manifest.json")
    assert len(numbers) <= 12
    assert verify(raw).numbers == numbers


def _truncate(raw: Path) -> None:
    path = raw / "fineweb_train_000001.bin"
    path.write_bytes(path.read_bytes()[:-20])


def _pad(raw: Path) -> None:
    path = raw / "fineweb_train_000001.bin"
    path.write_bytes(path.read_bytes() + bytes(20))


def _odd(raw: Path) -> None:
    path = raw / "fineweb_train_000001.bin"
    path.write_bytes(path.read_bytes()[:-1])


def _magic(raw: Path) -> None:
    path = raw / "fineweb_val_000000.bin"
    path.write_bytes(b"\0\0\0\0" + path.read_bytes()[4:])


def _version(raw: Path) -> None:
    path = raw / "fineweb_train_000000.bin"
    content = path.read_bytes()
    path.write_bytes(content[:4] + b"\x07" + content[5:])


def _vocabulary(raw: Path) -> None:
    change(raw / "fineweb_train_000001.bin", 77, VOCAB)


def _bos(raw: Path) -> None:
    change(raw / "fineweb_train_000000.bin", 0, 9)


def _val_bos(raw: Path) -> None:
    change(raw / "fineweb_val_000000.bin", 0, 9)


def _duplicate(raw: Path) -> None:
    write(raw, "fineweb_train_000002.bin", [read_shard(raw / "fineweb_train_000000.bin")])


def _val_as_train(raw: Path) -> None:
    write(raw, "fineweb_train_000002.bin", [read_shard(raw / "fineweb_val_000000.bin")])


def _sidecar_length(raw: Path) -> None:
    write(raw, "fineweb_val_bytes_000000.bin", [np.zeros(5, dtype=np.uint16)])


def _sidecar_bos(raw: Path) -> None:
    change(raw / "fineweb_val_bytes_000000.bin", 0, 1)


def _sidecar_missing(raw: Path) -> None:
    write(raw, "fineweb_val_000001.bin", documents(9, 3))


def _sidecar_alone(raw: Path) -> None:
    write(raw, "fineweb_val_bytes_000007.bin", [np.zeros(5, dtype=np.uint16)])


def _empty(raw: Path) -> None:
    write(raw, "fineweb_train_000002.bin", [np.zeros(0, dtype=np.uint16)])


def _no_train(raw: Path) -> None:
    for path in raw.glob("*train*"):
        path.unlink()


DEFECTS = [
    (_truncate, "fineweb_train_000001.bin: truncated: found "),
    (_pad, "fineweb_train_000001.bin: padded: found "),
    (_odd, "fineweb_train_000001.bin: truncated: found "),
    (_magic, "fineweb_val_000000.bin: found magic 0, needed 20240520"),
    (_version, "fineweb_train_000000.bin: found shard version 7, needed 1"),
    (_vocabulary, "fineweb_train_000001.bin: token outside the vocabulary: found 300 at token 77, needed 0 to 299"),
    (_bos, "fineweb_train_000000.bin: missing BOS: found 9 as the first token, needed 1"),
    (_val_bos, "fineweb_val_000000.bin: missing BOS"),
    (_duplicate, "fineweb_train_000002.bin: duplicated: found the bytes of fineweb_train_000000.bin"),
    (_val_as_train, "val: overlap: found 30 of 30 validation documents stand in the training data"),
    (_sidecar_length, "fineweb_val_bytes_000000.bin: sidecar's length: found 5 tokens, needed "),
    (_sidecar_bos, "fineweb_val_bytes_000000.bin: bytes of a BOS: found 1, needed 0"),
    (_sidecar_missing, "fineweb_val_bytes_000001.bin: missing sidecar"),
    (_sidecar_alone, "fineweb_val_bytes_000007.bin: sidecar without its shard"),
    (_empty, "fineweb_train_000002.bin: empty shard: found 0 tokens"),
    (_no_train, "manifest.json: no training data"),
]


@pytest.mark.parametrize(("damage", "said"), DEFECTS, ids=[d.__name__.strip("_") for d, _ in DEFECTS])
def test_defect_at_first_sight(raw: Path, damage: Any, said: str) -> None:
    damage(raw)
    seal(raw)
    defects = verify(raw).defects
    assert any(line.startswith(said) for line in defects), defects
    assert all("\n" not in line and ": " in line for line in defects)


@pytest.mark.parametrize("damage", [_truncate, _vocabulary, _bos], ids=["length", "checksum", "first token"])
def test_what_changed_since_first_sight(raw: Path, damage: Any) -> None:
    damage(raw)
    what = "length changed" if damage is _truncate else "checksum changed"
    assert any(f": {what}: found " in line and "(manifest)" in line for line in verify(raw).defects)


def test_missing_and_unknown_files(raw: Path) -> None:
    (raw / "fineweb_train_000001.bin").unlink()
    (raw / "stray.bin").write_bytes(b"")
    defects = verify(raw).defects
    assert any(line.startswith("fineweb_train_000001.bin: missing file") for line in defects)
    assert any(line.startswith("stray.bin: file unknown to the manifest") for line in defects)


@pytest.mark.parametrize("where", ["inside", "over two shards", "at the end", "twice"])
def test_one_leaked_document_is_found_wherever_it_stands(tmp_path: Path, where: str) -> None:
    train, val = documents(1, 60), documents(2, 30)
    train.insert({"inside": 20, "at the end": 60}.get(where, 30), val[7])
    if where == "twice":
        train.append(val[7])
    stream = np.concatenate(train)
    cut = sum(part.size for part in train[:30]) + 1 if where == "over two shards" else 400
    write(tmp_path, "train_000000.bin", [stream[:cut]])
    write(tmp_path, "train_000001.bin", [stream[cut:]])
    write(tmp_path, "val_000000.bin", val)
    seal(tmp_path)
    verdict = verify(tmp_path)
    assert verdict.numbers["val_documents_in_train"] == 1
    assert any("found 1 of 30 validation documents" in line for line in verdict.defects)


def test_documents_that_only_begin_alike_are_no_overlap(tmp_path: Path) -> None:
    head = [1, *range(10, 30)]
    write(tmp_path, "train_000000.bin", [np.array([*head, 40, 41, 1, 1, 50])])
    write(tmp_path, "val_000000.bin", [np.array([*head, 40, 42, 1, 1, 51])])
    seal(tmp_path)
    assert verify(tmp_path).numbers["val_documents_in_train"] == 0


def test_a_short_document_is_found_whatever_follows_it(tmp_path: Path) -> None:
    """Its key is of its own tokens: here three, where a key takes eight."""
    short = np.array([1, 7, 9])
    write(tmp_path, "train_000000.bin", [*documents(1, 5), short, *documents(2, 5)])
    write(tmp_path, "val_000000.bin", [*documents(3, 5), short, *documents(4, 5)])
    seal(tmp_path)
    assert verify(tmp_path).numbers["val_documents_in_train"] == 1


def test_a_large_shard_without_any_document_start_is_told(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("golf.data.verify.LARGE_SHARD", 1000)
    write(raw, "fineweb_train_000002.bin", [np.full(1000, 9)])
    seal(raw)
    assert any("fineweb_train_000002.bin: missing BOS: found no 1 in 1,000 tokens" in x for x in verify(raw).defects)
    change(raw / "fineweb_train_000002.bin", 500, 1)
    seal(raw)
    assert verify(raw).defects == []


@pytest.mark.parametrize(("bytes_each", "sound"), [(3, True), (4, False)])
def test_the_bytes_of_a_whole_published_split_are_held_against_the_constant(
    raw: Path, monkeypatch: pytest.MonkeyPatch, bytes_each: int, sound: bool
) -> None:
    val = np.array(read_shard(raw / "fineweb_val_000000.bin"))
    counts = np.where(val == 1, 0, bytes_each)
    write(raw, "fineweb_val_bytes_000000.bin", [counts])
    (raw / "tokenizer.model").write_bytes(train_model([f"words {i} of text" * 9 for i in range(200)], 300, 10**6))
    for name, value in (
        ("VAL_DOCUMENTS", 30), ("TARGET_BYTES", int(np.count_nonzero(val != 1)) * 3),
    ):  # fmt: skip
        monkeypatch.setattr(f"golf.data.verify.{name}", value)
    monkeypatch.setitem(published.VAL_TARGETS, "sp300", (val.size - 1,))
    seal(raw, source="fineweb", variant="sp300", stats={}, validation="published")
    defects = verify(raw).defects
    assert (defects == []) is sound, defects
    assert sound or "bytes of the validation text: found " in defects[0]


def test_published_split_must_be_whole(raw: Path) -> None:
    seal(raw, source="fineweb", variant="sp1024", stats={"docs_val": 50_000, "tokens_val": 7}, validation="published")
    defects = verify(raw).defects
    assert any("partial validation split: found 30 documents, needed the 50,000" in line for line in defects)
    assert any("62,021,632 targets" in line for line in defects)
    assert any("docs_val: found 30, needed 50,000 (the dataset's manifest)" in line for line in defects)
    assert any("tokens_val" in line for line in defects)
    seal(raw, source="fineweb", variant="sp1024", stats={}, validation="own")
    assert verify(raw).defects == []


def test_published_text_may_repeat_a_page(tmp_path: Path) -> None:
    val = documents(2, 200)
    write(tmp_path, "train_000000.bin", [*documents(1, 100), val[3]])
    write(tmp_path, "val_000000.bin", val)
    seal(tmp_path, source="fineweb", variant="unknown", stats={}, validation="published")
    verdict = verify(tmp_path)
    assert verdict.numbers["val_documents_in_train"] == 1
    assert [note for note in verdict.notes if "1 of 200" in note]
    assert not any("overlap" in line for line in verdict.defects)
    write(tmp_path, "train_000000.bin", [*documents(1, 100), *val[3:6]])
    seal(tmp_path, source="fineweb", variant="unknown", stats={}, validation="published")
    assert any("overlap: found 3 of 200" in line for line in verify(tmp_path).defects)  # more than 1 in 100


def test_text(tmp_path: Path) -> None:
    texts = [f"document {i}" for i in range(50)]
    entries = write_text(tmp_path, "train", texts, file_bytes=500)
    assert len(entries) > 2
    entries += write_text(tmp_path, "val", ["other"])
    write_manifest(tmp_path, "text", "jsonl", entries)
    verdict = verify(tmp_path)
    assert verdict.defects == []
    assert verdict.numbers["train_documents"] == 50
    assert verdict.numbers["text_bytes"] == sum(map(len, texts)) + 5
    path = tmp_path / "train-00001.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"garbage\n", *lines[2:]]))
    defects = verify(tmp_path).defects
    assert any("train-00001.jsonl:2: found 'garbage" in line for line in defects)
    assert any(line.startswith("train-00001.jsonl: ") and "changed" in line for line in defects)


def test_text_overlap(tmp_path: Path) -> None:
    entries = write_text(tmp_path, "train", ["one", "two", "three"]) + write_text(tmp_path, "val", ["two ", "four"])
    write_manifest(tmp_path, "text", "jsonl", entries)
    verdict = verify(tmp_path)
    assert verdict.numbers["val_documents_in_train"] == 1
    assert any("1 of 2 validation documents" in line for line in verdict.defects)


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="dvc repro fetch"):
        verify(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps([]))
    with pytest.raises(DataError):
        verify(tmp_path)
