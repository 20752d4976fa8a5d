"""Token shards: 256 little-endian int32 of header, then uint16 tokens.

The header holds the magic number, the version and the token count; its other 253 words are zero. A sidecar
(``*_bytes_*.bin``) has the same layout and holds a byte count for every token of the shard it is named after.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from golf.runtime.errors import DataError, MissingInput
from golf.runtime.files import read_json, whole_file

MAGIC = 20240520
VERSION = 1
HEADER_WORDS = 256
HEADER_BYTES = 4 * HEADER_WORDS
MAX_TOKENS = 2**31 - 1
INDEX = "shards.json"


def header_bytes(count: int) -> bytes:
    """The 1,024 bytes that stand before ``count`` tokens."""
    header = np.zeros(HEADER_WORDS, dtype="<i4")
    header[:3] = MAGIC, VERSION, count
    return header.tobytes()


def write_shard(path: Path | str, tokens: np.ndarray) -> None:
    """Write ``tokens`` (1-D, integers of 0 to 65,535) as one shard, whole or not at all.

    Raises:
        DataError: the tokens do not fit the format.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or tokens.dtype.kind not in "iu":
        raise DataError(f"{path}: found a {tokens.ndim}-D array of {tokens.dtype}, needed 1-D integers")
    if tokens.size > MAX_TOKENS:
        raise DataError(f"{path}: {tokens.size:,} tokens; a shard holds at most {MAX_TOKENS:,}")
    if tokens.dtype != np.uint16 and tokens.size and (tokens.min() < 0 or tokens.max() > 0xFFFF):
        raise DataError(f"{path}: tokens of {tokens.min()} to {tokens.max()}; a shard holds 0 to 65535")
    with whole_file(path) as temporary, temporary.open("wb") as file:
        file.write(header_bytes(tokens.size))
        # not .tofile(): its last block goes through a C buffer, and a disk that is full by then cuts it unnoticed
        file.write(np.ascontiguousarray(tokens, dtype="<u2").data)


def parse_header(header: bytes, size: int, path: Path | str) -> int:
    """The token count that ``header`` states, held against the file's ``size`` in bytes.

    Raises:
        DataError: wrong magic, version or length.
    """
    hint = "bring the file again: dvc repro --force fetch"
    if len(header) < HEADER_BYTES:
        raise DataError(f"{path}: found {size:,} bytes, needed a header of {HEADER_BYTES:,}", hint=hint)
    words = np.frombuffer(header[:HEADER_BYTES], dtype="<i4")
    magic, version, count = (int(word) for word in words[:3])
    if magic != MAGIC:
        raise DataError(f"{path}: found magic {magic}, needed {MAGIC}: not a token shard", hint=hint)
    if version != VERSION:
        raise DataError(f"{path}: found shard version {version}, needed {VERSION}", hint=hint)
    needed = HEADER_BYTES + 2 * count
    if count < 0 or size != needed:
        state = "truncated" if count >= 0 and size < needed else "padded"
        raise DataError(
            f"{path}: {state}: found {size:,} bytes, needed {needed:,} for the {count:,} tokens of its header",
            hint=hint,
        )
    return count


def read_header(path: Path | str) -> int:
    """The number of tokens in a shard.

    Raises:
        MissingInput: there is no such file.
        DataError: wrong magic, version or length.
    """
    path = Path(path)
    if not path.is_file():
        raise MissingInput(f"{path}: no such shard", hint="dvc repro tokenize")
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    return parse_header(header, path.stat().st_size, path)


def read_shard(path: Path | str) -> np.ndarray:
    """The tokens of a shard, uint16 (T,), memory-mapped and read-only."""
    count = read_header(path)
    if count == 0:  # an empty map is refused by the operating system
        return np.zeros(0, dtype="<u2")
    return np.memmap(path, dtype="<u2", mode="r", offset=HEADER_BYTES, shape=(count,))


def list_shards(folder: Path | str, split: str, *, sidecars: bool = False) -> list[Path]:
    """The shards of ``split`` in ``folder``, sorted by name; or their byte sidecars.

    ``fineweb_train_000000.bin`` and ``train_000000.bin`` both belong to ``train``.
    """
    pattern = re.compile(rf"(?:^|_){re.escape(split)}_.+\.bin$")
    paths = (path for path in Path(folder).glob("*.bin") if pattern.search(path.name))
    return sorted(path for path in paths if ("_bytes_" in path.name) == sidecars)


def sidecar_name(name: str, split: str = "val") -> str:
    """The file name of a shard's byte sidecar: ``fineweb_val_bytes_000000.bin`` for ``fineweb_val_000000.bin``."""
    return re.sub(rf"(^|_){re.escape(split)}_", rf"\g<1>{split}_bytes_", name, count=1)


def read_split(folder: Path | str, split: str) -> np.ndarray:
    """All tokens of ``split``, uint16 (T,): a map of its one shard, or its shards put together in memory.

    Raises:
        MissingInput: ``folder`` holds no shard of ``split``.
        DataError: a shard is not what its header says.
    """
    return _join(folder, split, sidecars=False)


def read_sidecar(folder: Path | str, split: str = "val") -> np.ndarray | None:
    """Bytes of every token of ``split``, uint16 (T,), or None when the split has no sidecars."""
    return _join(folder, split, sidecars=True) if list_shards(folder, split, sidecars=True) else None


def _join(folder: Path | str, split: str, *, sidecars: bool) -> np.ndarray:
    paths = list_shards(folder, split, sidecars=sidecars)
    if not paths:
        raise MissingInput(f"{folder}: no shard of the split {split!r}", hint="dvc repro tokenize")
    parts = [read_shard(path) for path in paths]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def load_index(folder: Path | str) -> dict[str, Any]:
    """The content of ``shards.json``: vocabulary, BOS and the totals of each split.

    Raises:
        MissingInput: there is none.
        DataError: it is not such an index.
    """
    path = Path(folder) / INDEX
    if not path.is_file():
        raise MissingInput(f"{path}: no such file", hint="dvc repro tokenize")
    try:
        index = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}", hint="dvc repro --force tokenize") from None
    for name, kind in (("vocab_size", int), ("bos_id", int), ("splits", dict)):
        found = index.get(name) if isinstance(index, dict) else None
        if type(found) is not kind:
            raise DataError(
                f"{path}: {name}: found {found!r}, needed {kind.__name__}", hint="dvc repro --force tokenize"
            )
    return index
