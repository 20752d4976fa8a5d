"""Files are whole or absent, whatever interrupts the writing."""

import errno
import json
import math
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors import SafetensorError

from golf.runtime.files import read_json, whole_directory, whole_file, write_bytes, write_json, write_npy

ROOT = Path(__file__).resolve().parents[3]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_with_its_folder_and_is_readable_by_all(tmp_path: Path) -> None:
    path = tmp_path / "a/b/c.bin"
    write_bytes(path, b"x")
    assert path.read_bytes() == b"x"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert names(path.parent) == ["c.bin"]


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(TypeError), whole_file(path) as temporary:
        temporary.write_text("half") + None  # type: ignore[operator]
    assert path.read_text() == "old"
    assert names(tmp_path) == ["x"]


def test_a_failed_directory_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(TypeError), whole_directory(path) as temporary:
        (temporary / "new").write_text("2") + None  # type: ignore[operator]
    assert names(tmp_path) == ["d"]
    assert names(path) == ["old"]


def test_a_directory_replaces_the_old_one_whole(tmp_path: Path) -> None:
    path = tmp_path / "d"
    for name in ("first", "second"):
        with whole_directory(path) as temporary:
            (temporary / "sub").mkdir()
            (temporary / "sub" / name).write_text(name)
    assert names(path / "sub") == ["second"]
    assert names(tmp_path) == ["d"]


def test_a_directory_replaces_a_file_and_a_link(tmp_path: Path) -> None:
    """DVC may have left a link to its cache, or an earlier version a file."""
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/x").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    (tmp_path / "file").write_text("x")
    for name in ("link", "file"):
        with whole_directory(tmp_path / name) as temporary:
            (temporary / "new").write_text("1")
        assert names(tmp_path / name) == ["new"]
    assert names(tmp_path / "kept") == ["x"]


def test_writing_does_not_reach_through_a_link_into_a_cache(tmp_path: Path) -> None:
    """DVC links outputs to its cache: replacing one must not change the cached bytes."""
    (tmp_path / "cache").write_text("cached")
    os.link(tmp_path / "cache", tmp_path / "hard")
    (tmp_path / "soft").symlink_to(tmp_path / "cache")
    for name in ("hard", "soft"):
        write_bytes(tmp_path / name, b"new")
        assert (tmp_path / name).read_text() == "new"
    assert (tmp_path / "cache").read_text() == "cached"


def test_json_is_stable_and_refuses_what_json_has_no_word_for(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": [1.5, None, True]})
    assert path.read_text() == '{\n  "b": 1,\n  "a": [\n    1.5,\n    null,\n    true\n  ]\n}\n'
    assert read_json(path) == {"b": 1, "a": [1.5, None, True]}
    for value in (math.nan, math.inf, {1, 2}, b"x"):
        with pytest.raises((ValueError, TypeError)):
            write_json(path, value)
    assert json.loads(path.read_text())["b"] == 1
    assert names(tmp_path) == ["x.json"]


def test_the_parent_being_a_file_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("")
    with pytest.raises(OSError) as caught:
        write_bytes(tmp_path / "f" / "x", b"")
    assert caught.value.errno in (errno.ENOTDIR, errno.EEXIST)


def test_a_disk_error_names_the_target_and_not_the_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "x"

    def copying(temporary: Path) -> None:
        raise OSError(errno.ENOSPC, "full", "source", None, str(temporary))

    def serialising(temporary: Path) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    def writing(temporary: Path) -> None:
        raise OSError(errno.ENOSPC, "full")

    for whole in (whole_file, whole_directory):
        for failure in (copying, serialising, writing):
            with pytest.raises(OSError) as caught, whole(path) as temporary:
                failure(temporary)
            assert (caught.value.errno, caught.value.filename, caught.value.filename2) == (28, str(path), None)
        with pytest.raises(FileNotFoundError) as missing, whole(path):
            (tmp_path / "absent").read_bytes()
        assert missing.value.filename == str(tmp_path / "absent")
        with pytest.raises(SafetensorError, match="of another kind"), whole(path):
            raise SafetensorError("of another kind")
    path.mkdir()
    with pytest.raises(IsADirectoryError) as blocked:
        write_bytes(path, b"")
    assert blocked.value.filename == str(path)
    assert names(tmp_path) == ["x"]


@pytest.mark.parametrize("error", [OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_a_swap_that_breaks_between_its_two_renames_keeps_the_old_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    path = tmp_path / "d"
    path.mkdir()
    (path / "old").write_text("1")
    rename = Path.rename

    def breaking(self: Path, target: Path) -> Path:
        if self != path and target == path and (self / "new").exists():
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", breaking)
    with pytest.raises(type(error)), whole_directory(path) as temporary:
        (temporary / "new").write_text("2")
    assert names(tmp_path) == ["d"]
    assert names(path) == ["old"]


@pytest.mark.parametrize("shape", [(0,), (0, 3), (7,), (2, 3), ()])
def test_arrays_come_back_as_they_were(tmp_path: Path, shape: tuple[int, ...]) -> None:
    array = np.arange(int(np.prod(shape)), dtype="<f8").reshape(shape)
    for layout in (array, array.T, np.concatenate([array[None], array[None]])[::2]):
        write_npy(tmp_path / "x.npy", layout)
        found = np.load(tmp_path / "x.npy", allow_pickle=False)
        assert found.dtype == array.dtype
        assert found.shape == layout.shape
        assert found.tolist() == layout.tolist()


@pytest.mark.parametrize("missing", [1, 100, 4000, 5000])
def test_a_disk_that_fills_at_the_last_byte_leaves_no_array_and_no_shard(tmp_path: Path, missing: int) -> None:
    """The file-size limit is how a full disk can be had without one; C's buffers would swallow its error."""
    code = (
        "import resource, sys, numpy as np\n"
        "from golf.data.shards import write_shard\n"
        "from golf.runtime.files import write_npy\n"
        f"for size, write in ((1024 + 80000, write_shard), (128 + 80000, write_npy)):\n"
        f"    resource.setrlimit(resource.RLIMIT_FSIZE, (size - {missing}, resource.RLIM_INFINITY))\n"
        "    try:\n"
        "        write(sys.argv[1], np.ones(40000, dtype=np.uint16))\n"
        "    except OSError as error:\n"
        "        print(error.errno, error.filename)\n"
    )
    target = tmp_path / "x"
    done = subprocess.run(
        [sys.executable, "-B", "-c", code, str(target)], env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == f"{errno.EFBIG} {target}\n" * 2
    assert names(tmp_path) == []


def test_json_nested_beyond_reading_is_a_value_error(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_kill_9_in_the_middle_leaves_the_old_content(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "target"
    if kind == "file":
        target.write_text("old")
    else:
        target.mkdir()
        (target / "old").write_text("old")
    code = (
        f"import time; from golf.runtime.files import whole_{kind}\n"
        f"with whole_{kind}({str(target)!r}) as t:\n"
        f"    (t / 'half' if {kind == 'directory'} else t).write_text('half')\n"
        "    print('half', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.wait()
    assert (target if kind == "file" else target / "old").read_text() == "old"
    assert all(name == "target" or name.endswith(".partial") for name in names(tmp_path))


def test_two_writers_leave_one_whole_file(tmp_path: Path) -> None:
    code = (
        "import sys; from golf.runtime.files import write_bytes\n"
        f"for _ in range(200): write_bytes({str(tmp_path / 'x')!r}, sys.argv[1].encode() * 50000)\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, letter], env={"PYTHONPATH": str(ROOT)}) for letter in "ab"]
    end = time.monotonic() + 60
    while any(writer.poll() is None for writer in writers):
        assert time.monotonic() < end
        if (tmp_path / "x").exists():
            content = (tmp_path / "x").read_bytes()
            assert len(content) == 50000
            assert len(set(content)) == 1
    assert [writer.returncode for writer in writers] == [0, 0]
    assert names(tmp_path) == ["x"]
