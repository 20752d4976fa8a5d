"""``data/raw``: documents or shards as they came, and the manifest that they are held against from then on."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from golf.data.text import parse_line, read_lines
from golf.runtime.errors import DataError, MissingInput
from golf.runtime.files import read_json, write_json

MANIFEST = "manifest.json"
FORMAT = 1
FILE_BYTES = 256_000_000  # bytes of JSON lines in one file: enough files to keep every core busy

Entry = dict[str, Any]  # {name, split: train | val | val_bytes | tokenizer, bytes, sha256, documents?, tokens?, …}


def write_text(folder: Path, split: str, documents: Iterable[str], *, file_bytes: int = FILE_BYTES) -> list[Entry]:
    """Write ``documents`` as ``SPLIT-NNNNN.jsonl`` and return their manifest entries; no documents, no file."""
    entries: list[Entry] = []
    stream = None
    digest = hashlib.sha256()
    try:
        for text in documents:
            line = (json.dumps({"text": text}, ensure_ascii=False) + "\n").encode()
            if stream is None or entries[-1]["bytes"] + len(line) > file_bytes:
                if stream is not None:
                    stream.close()
                    entries[-1]["sha256"] = digest.hexdigest()
                name = f"{split}-{len(entries):05d}.jsonl"
                entries.append(
                    {"name": name, "split": split, "bytes": 0, "sha256": "", "documents": 0, "text_bytes": 0}
                )
                stream = (folder / name).open("wb")
                digest = hashlib.sha256()
            stream.write(line)
            digest.update(line)
            entries[-1]["bytes"] += len(line)
            entries[-1]["documents"] += 1
            entries[-1]["text_bytes"] += len(text.encode())
    finally:
        if stream is not None:
            stream.close()
    if entries:
        entries[-1]["sha256"] = digest.hexdigest()
    return entries


def place(source: Path, target: Path, *, link: bool) -> None:
    """Put the file ``source`` at ``target``: a copy, or with ``link`` a hard link where the file system allows one.

    The user's own files are copied: through a link, editing one in place would change the graph's data unseen.
    """
    target.unlink(missing_ok=True)
    source = source.resolve()  # a link to a link of the hub's cache would dangle
    if link:
        try:
            os.link(source, target)
            return
        except OSError as error:
            if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
                raise
    shutil.copyfile(source, target)


def sha256(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(folder: Path, kind: str, source: str, files: list[Entry], **more: Any) -> None:
    """Write the manifest: kind ``text`` or ``shards``, and whatever ``more`` says of the source."""
    content = {"format": FORMAT, "kind": kind, "source": source, **more, "files": files}
    write_json(folder / MANIFEST, content)


def read_manifest(folder: Path | str) -> dict[str, Any]:
    """The manifest of ``folder``.

    Raises:
        MissingInput, DataError: there is none; it is not one.
    """
    path = Path(folder) / MANIFEST
    hint = "dvc repro --force fetch"
    if not path.is_file():
        raise MissingInput(f"{path}: no such file", hint="dvc repro fetch")
    try:
        manifest = read_json(path)
    except ValueError as error:
        raise DataError(f"{path}: not JSON: {error}", hint=hint) from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: found another format, needed format {FORMAT}", hint=hint)
    if manifest.get("kind") not in ("text", "shards") or not isinstance(manifest.get("files"), list):
        raise DataError(f"{path}: found kind {manifest.get('kind')!r}, needed text or shards, and files", hint=hint)
    for key, kind in (("source", str), ("vocab_size", int), ("stats", dict)):
        if not isinstance(manifest.get(key, kind()), kind):
            raise DataError(f"{path}: {key}: found {manifest[key]!r}, needed {kind.__name__}", hint=hint)
    names: set[str] = set()
    for entry in manifest["files"]:
        if not _is_entry(entry) or entry["name"] in names:
            raise DataError(
                f"{path}: found the file entry {entry!r}, needed name (once), split, bytes and sha256", hint=hint
            )
        names.add(entry["name"])
    return {"source": "", **manifest}


def _is_entry(entry: Any) -> bool:
    """Whether ``entry`` names a file inside the folder, and holds nothing of another type than it should."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(key), str) for key in ("name", "split", "sha256")):
        return False
    counts = [entry.get("bytes"), *(entry.get(key, 0) for key in ("documents", "text_bytes", "tokens"))]
    return Path(entry["name"]).name == entry["name"] != ".." and all(type(count) is int for count in counts)


def raw_documents(folder: Path | str, split: str) -> Iterator[str]:
    """The documents of a split of text, in order; none when the split has none."""
    for path in sorted(Path(folder).glob(f"{split}-*.jsonl")):
        for number, line in enumerate(read_lines(path), 1):
            yield parse_line(line, f"{path}:{number}")
