"""For :mod:`golf.runtime.files`: whole or absent as there, in fewer words."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

PARTIAL = ".partial"


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A path beside ``path``, which is flushed and renamed to it in the end, or removed; errors name ``path``."""
    temporary = path.with_name(path.name + PARTIAL)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_directory(path: Path) -> Iterator[Path]:
    """A folder beside ``path``, which takes its place in the end, or is removed; its files are whole themselves."""
    temporary = path.with_name(path.name + PARTIAL)
    try:
        yield temporary
        shutil.rmtree(path, ignore_errors=True)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_bytes(path: Path, content: bytes) -> None:
    """Write ``content`` to ``path``."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as JSON. NaN is refused."""
    write_bytes(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def write_npy(path: Path, array: np.ndarray) -> None:
    """Write ``array`` as ``.npy``; through memory, since a full disk cuts ``np.save``'s last block unnoticed."""
    import numpy as np

    content = io.BytesIO()
    with whole_file(path) as temporary:
        np.save(content, array)
        temporary.write_bytes(content.getvalue())


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ValueError: it is not UTF-8, not JSON, or nested beyond what can be read.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None
