"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed.

The temporary name ends in ``.partial``: what a killed process leaves is ignored by Git and DVC and safe to delete.
"""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PARTIAL = ".partial"
_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR}


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it and rename it to ``path``, else remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path):
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            _flush(temporary)
            temporary.chmod(0o644)
            temporary.replace(path)
            _flush(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path | str) -> Iterator[Path]:
    """Yield an empty temporary directory; on success it takes the place of ``path``, else it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with _naming(path):
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
        old = temporary.with_name(f"{temporary.name.removesuffix(PARTIAL)}.old{PARTIAL}")
        try:
            yield temporary
            for file in temporary.rglob("*"):
                if file.is_file():
                    _flush(file)
            temporary.chmod(0o755)
            _swap(temporary, path, old)
            _flush(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    _remove(old)


def _swap(temporary: Path, path: Path, old: Path) -> None:
    """Put ``temporary`` at ``path`` and what was there at ``old``; where that fails, all stays."""
    moved = path.is_symlink() or path.exists()
    if moved:
        path.rename(old)
    try:
        temporary.rename(path)
    except BaseException:  # an interrupt between the two must not cost the old content either
        if moved:
            old.rename(path)
        raise


def _remove(old: Path) -> None:
    """Delete what was replaced, if anything was: the new content stands already, so a failure here is none of it."""
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have a disk's error name ``path``: a failed write names nothing or the temporary file, which is gone by then.

    safetensors gives the system's error as a text: it becomes an :class:`OSError` again, or nobody would know it.
    """
    try:
        yield
    except OSError as error:
        named = [str(name) for name in (error.filename, error.filename2) if name is not None]
        if error.errno in _DISK and (not named or any(PARTIAL in name for name in named)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    except Exception as error:
        found = re.search(r"\(os error (\d+)\)", str(error))
        if type(error).__name__ != "SafetensorError" or found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(path)) from error


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, whole or not at all. NaN is refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_npy(path: Path | str, array: np.ndarray) -> None:
    """Write ``array`` as ``.npy``, whole or not at all.

    Not by ``np.save``: its last block goes through a C buffer, and a disk that is full by then cuts it unnoticed.
    """
    import numpy as np
    from numpy.lib import format as npy

    array = np.asarray(array, order="C")
    with whole_file(path) as temporary, temporary.open("wb") as file:
        npy.write_array_header_1_0(file, npy.header_data_from_array_1_0(array))
        file.write(array.data)


def read_json(path: Path | str) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is not UTF-8, not JSON, or nested beyond what can be read.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _flush(path: Path) -> None:
    """Have the system write a file's content, or a folder's names, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
