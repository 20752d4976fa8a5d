"""The shard format: what is written is read, what is broken is named."""

import json
from pathlib import Path

import numpy as np
import pytest

from golf.data.shards import (
    HEADER_BYTES,
    list_shards,
    load_index,
    read_header,
    read_shard,
    read_sidecar,
    read_split,
    sidecar_name,
    write_shard,
)
from golf.runtime.errors import DataError, MissingInput


def test_layout_is_the_published_one(tmp_path: Path) -> None:
    path = tmp_path / "train_000000.bin"
    write_shard(path, np.array([1, 500, 65535]))
    raw = path.read_bytes()
    assert len(raw) == 1024 + 6
    assert raw[:12] == (20240520).to_bytes(4, "little") + (1).to_bytes(4, "little") + (3).to_bytes(4, "little")
    assert raw[12:1024] == bytes(1012)
    assert raw[1024:] == b"\x01\x00\xf4\x01\xff\xff"
    assert read_header(path) == 3
    tokens = read_shard(path)
    assert isinstance(tokens, np.memmap)
    assert tokens.tolist() == [1, 500, 65535]


def test_empty_shard_reads_as_no_tokens(tmp_path: Path) -> None:
    write_shard(tmp_path / "val_000000.bin", np.zeros(0, dtype=np.uint16))
    assert read_split(tmp_path, "val").size == 0


@pytest.mark.parametrize(
    ("tokens", "said"),
    [
        (np.array([70000]), "0 to 65535"),
        (np.array([-1]), "0 to 65535"),
        (np.array([0.5]), "integers"),
        (np.ones((2, 2), dtype=np.uint16), "1-D"),
    ],
)
def test_write_refuses_what_does_not_fit(tmp_path: Path, tokens: np.ndarray, said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_shard(tmp_path / "x.bin", tokens)
    assert list(tmp_path.iterdir()) == []


def _damage(path: Path, how: str) -> None:
    raw = bytearray(path.read_bytes())
    if how == "magic":
        raw[0] ^= 1
    elif how == "version":
        raw[4] = 2
    elif how == "truncated":
        raw = raw[:-2]
    elif how == "padded":
        raw += b"\0\0"
    elif how == "header":
        raw = raw[:100]
    elif how == "negative":
        raw[8:12] = b"\xff" * 4
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("magic", "found magic 20240521, needed 20240520"),
        ("version", "found shard version 2, needed 1"),
        ("truncated", "truncated: found 1,032 bytes, needed 1,034"),
        ("padded", "padded: found 1,036 bytes, needed 1,034"),
        ("header", "needed a header of 1,024"),
        ("negative", "padded"),
    ],
)
def test_broken_shard_is_named(tmp_path: Path, how: str, said: str) -> None:
    path = tmp_path / "train_000000.bin"
    write_shard(path, np.arange(5))
    _damage(path, how)
    with pytest.raises(DataError, match=said) as caught:
        read_shard(path)
    assert str(path) in str(caught.value)


def test_missing_shard_and_missing_split(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        read_header(tmp_path / "train_000000.bin")
    with pytest.raises(MissingInput, match="'val'"):
        read_split(tmp_path, "val")


def test_splits_by_name_without_sidecars(tmp_path: Path) -> None:
    for name in ("fineweb_val_000001", "fineweb_val_000000", "fineweb_val_bytes_000000", "train_000000", "interval_x"):
        write_shard(tmp_path / f"{name}.bin", np.full(2, len(name)))
    write_shard(tmp_path / "fineweb_val_bytes_000001.bin", np.zeros(2, dtype=np.uint16))
    assert [p.name for p in list_shards(tmp_path, "val")] == ["fineweb_val_000000.bin", "fineweb_val_000001.bin"]
    assert [p.name for p in list_shards(tmp_path, "train")] == ["train_000000.bin"]
    assert read_split(tmp_path, "val").tolist() == [18] * 4
    sidecar = read_sidecar(tmp_path)
    assert sidecar is not None
    assert sidecar.tolist() == [24, 24, 0, 0]
    assert read_sidecar(tmp_path, "train") is None
    assert list_shards(tmp_path / "absent", "val") == []


@pytest.mark.parametrize(
    ("name", "sidecar"),
    [
        ("val_000001.bin", "val_bytes_000001.bin"),
        ("fineweb_val_000000.bin", "fineweb_val_bytes_000000.bin"),
        ("interval_val_0.bin", "interval_val_bytes_0.bin"),
        ("train_000000.bin", "train_000000.bin"),
    ],
)
def test_a_sidecar_is_named_after_its_shard(name: str, sidecar: str) -> None:
    assert sidecar_name(name) == sidecar
    assert sidecar_name("fineweb_train_000000.bin", "train") == "fineweb_train_bytes_000000.bin"


def test_index(tmp_path: Path) -> None:
    with pytest.raises(MissingInput):
        load_index(tmp_path)
    index = {"vocab_size": 300, "bos_id": 1, "splits": {}}
    (tmp_path / "shards.json").write_text(json.dumps(index))
    assert load_index(tmp_path) == index
    for change, message in (
        ({"bos_id": None}, "shards.json: bos_id: found None, needed int"),
        ({"vocab_size": "300"}, "vocab_size: found '300', needed int"),
        ({"vocab_size": True}, "vocab_size: found True, needed int"),
        ({"splits": []}, "splits: found \\[\\], needed dict"),
    ):
        (tmp_path / "shards.json").write_text(json.dumps(index | change))
        with pytest.raises(DataError, match=f"{message}.*Try: dvc repro --force tokenize"):
            load_index(tmp_path)
    for text in ('{"vocab_size": 300, "splits": {}}', "[]"):
        (tmp_path / "shards.json").write_text(text)
        with pytest.raises(DataError, match=r"(bos_id|vocab_size): found None, needed int"):
            load_index(tmp_path)
    (tmp_path / "shards.json").write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        load_index(tmp_path)


def test_header_alone_of_a_large_count_is_refused_before_mapping(tmp_path: Path) -> None:
    path = tmp_path / "train_000000.bin"
    write_shard(path, np.zeros(0, dtype=np.uint16))
    raw = bytearray(path.read_bytes())
    raw[8:12] = (2**31 - 1).to_bytes(4, "little")
    path.write_bytes(bytes(raw))
    assert len(raw) == HEADER_BYTES
    with pytest.raises(DataError, match="truncated"):
        read_shard(path)
