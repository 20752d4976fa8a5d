"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed.

The temporary name ends in ``.partial``: what a killed process leaves is ignored by Git and DVC and safe to delete.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success flush it and rename it to ``path``, else remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
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
    temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent))
    old = temporary.with_name(temporary.name.replace(PARTIAL, f".old{PARTIAL}"))
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
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)


def _swap(temporary: Path, path: Path, old: Path) -> None:
    """Put ``temporary`` at ``path`` and what was there at ``old``; where that fails, all stays."""
    moved = path.is_symlink() or path.exists()
    if moved:
        path.rename(old)
    try:
        temporary.rename(path)
    except OSError:
        if moved:
            old.rename(path)
        raise


def write_bytes(path: Path | str, content: bytes) -> None:
    """Write ``content`` to ``path``, whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path | str, value: Any) -> None:
    """Write ``value`` as indented JSON with a final newline, whole or not at all. NaN is refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def read_json(path: Path | str) -> Any:
    """Read a JSON file."""
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _flush(path: Path) -> None:
    """Have the system write a file's content, or a folder's names, to the disk now."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
