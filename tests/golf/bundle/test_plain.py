"""What the stand-ins do as what they stand for."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from golf.bundle.plain import files
from golf.bundle.plain.connect import connect
from golf.params.hardware import Hardware


def test_files_are_whole(tmp_path: Path) -> None:
    files.write_json(tmp_path / "folder/value.json", {"a": [1, 2.5]})
    assert files.read_json(tmp_path / "folder/value.json") == {"a": [1, 2.5]}
    files.write_npy(tmp_path / "array.npy", np.arange(5))
    assert np.load(tmp_path / "array.npy").tolist() == [0, 1, 2, 3, 4]
    for content in (b"old", b"new"):
        with files.whole_directory(tmp_path / "folder") as folder:
            files.write_bytes(folder / "file", content)
    assert (tmp_path / "folder/file").read_bytes() == b"new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["array.npy", "file", "folder"]


def half(path: Path, error: Exception) -> None:
    with files.whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise error


def half_of_two(path: Path) -> None:
    with files.whole_directory(path) as folder:
        files.write_bytes(folder / "file", b"whole")
        raise RuntimeError


def test_files_are_absent_where_writing_failed_and_what_was_there_stays(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(OSError, match="No space left") as raised:
        half(path, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
    assert raised.value.filename == str(path)
    with pytest.raises(KeyError):
        half(path, KeyError())
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(path, float("nan"))
    with pytest.raises(RuntimeError):
        half_of_two(tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"before"


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[" * 100_000])
def test_what_is_no_json_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(ValueError):
        files.read_json(tmp_path / "file")


def test_one_process_meets_nobody() -> None:
    with connect(Hardware(device="cpu")) as ranks:
        assert (ranks.index, ranks.count) == (0, 1)
