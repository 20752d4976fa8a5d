"""Bring the data of every source into one folder with one manifest."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from golf.data.cores import available_cores
from golf.data.docstrings import corpus
from golf.data.hub import Published, from_hub, from_mirror, is_mirror
from golf.data.raw import Entry, place, sha256, write_manifest, write_text
from golf.data.shards import list_shards, read_header, sidecar_name
from golf.data.text import JSONL, SUFFIXES, TEXT, limited, read_documents, text_files
from golf.params.data import Data
from golf.runtime.errors import ConfigError, DataError, MissingInput
from golf.runtime.files import whole_directory


def fetch(config: Data, folder: Path | str = "data/raw", *, endpoint: str | None = None) -> dict[str, int]:
    """Fill ``folder`` from ``config.source``, whole or not at all, and return its totals.

    Args:
        endpoint: of the hub; None takes the setting of ``huggingface_hub``.

    Returns:
        files, bytes (of the files), documents (0 for shards: verify counts them).

    Raises:
        FairwayError: the source is missing, damaged, empty or out of reach.
    """
    own = _own_validation(Path(config.val_path))
    with whole_directory(folder) as temporary:
        more: dict[str, Any] = {}
        if config.source == "fineweb":
            published = _published(config, endpoint)
            entries = _place_published(published, temporary, own_val=bool(own))
            more = _origin(config, published) | {"validation": "own" if own else "published"}
            kind = "shards"
        else:
            entries = write_text(temporary, "train", _training_text(config))
            if not entries:
                raise DataError(
                    f"data.source {config.source}: no document with any text", hint=f"ls {config.path}, see data.path"
                )
            kind = "text"
        entries += _place_own(own, temporary)
        write_manifest(temporary, kind, config.source, entries, **more)
    return {
        "files": len(entries),
        "bytes": sum(entry["bytes"] for entry in entries),
        "documents": sum(entry.get("documents", 0) for entry in entries),
    }


def _training_text(config: Data) -> Iterator[str]:
    if config.source == "docstrings":
        documents: Iterator[str] = iter(corpus())
    else:
        suffixes = SUFFIXES[config.source]
        files = text_files(config.path, suffixes)
        if not files:
            raise MissingInput(
                f"{config.path}: no {' or '.join(suffixes)} file in this folder (data.source {config.source})",
                hint=f"put some there, or dvc exp run -S data.path=FOLDER (-S data.source="
                f"{'text' if config.source == 'jsonl' else 'jsonl'} reads the other kind)",
            )
        documents = read_documents(files)
    stopped = yield from limited(documents, config.max_documents, config.max_bytes)
    if stopped and config.source != "docstrings":
        print(f"fetch: stopped at data.max_documents {config.max_documents:,}, data.max_bytes {config.max_bytes:,} "
              "(0: all)", file=sys.stderr, flush=True)  # fmt: skip


def _own_validation(path: Path) -> list[Path]:
    """The files of ``data.val_path``: all shards, or all text; none when only a README is there."""
    if path.is_file() and path.suffix == ".bin":
        read_header(path)
        sidecar = path.with_name(sidecar_name(path.name))
        return [path, sidecar] if sidecar != path and sidecar.is_file() else [path]
    if path.is_dir():
        shards = list_shards(path, "val") or sorted(p for p in path.glob("*.bin") if "_bytes_" not in p.name)
        text = text_files(path, (*JSONL, *TEXT))
        if shards and text:
            raise ConfigError(f"data.val_path: {path} holds shards and text, needed one of them")
        for shard in shards:
            read_header(shard)
        return shards + list_shards(path, "val", sidecars=True) if shards else text
    return text_files(path, (*JSONL, *TEXT, ".bin"))


def _place_own(files: list[Path], folder: Path) -> list[Entry]:
    if not files:
        return []
    if files[0].suffix != ".bin":
        entries = write_text(folder, "val", read_documents(files))
        if not entries:
            raise DataError(f"data.val_path: {files[0].parent}: no document with any text", hint="remove the files")
        return entries
    counters = {"val": 0, "val_bytes": 0}
    entries = []
    for file in files:
        split = "val_bytes" if "_bytes_" in file.name else "val"
        name = f"{split}_{counters[split]:06d}.bin"
        counters[split] += 1
        place(file, folder / name, link=False)
        entries.append(_entry(folder / name, split))
    return entries


def _published(config: Data, endpoint: str | None) -> Published:
    folder = Path(config.path)
    if is_mirror(folder):
        return from_mirror(folder, config.variant, config.train_shards)
    return from_hub(config.repo, config.revision, config.variant, config.train_shards, endpoint=endpoint)


def _place_published(published: Published, folder: Path, *, own_val: bool) -> list[Entry]:
    layout = published.layout
    wanted = [(name, "train") for name in layout.train]
    if not own_val:
        wanted += [(name, "val") for name in layout.val] + [(name, "val_bytes") for name in layout.sidecars]
    if layout.tokenizer is None:
        raise DataError(
            f"data.variant: no single tokenizer .model goes with these shards ({next(iter(published.files), '')})",
            hint="put the .model beside them",
        )
    wanted.append((layout.tokenizer, "tokenizer"))

    def bring(item: tuple[str, str]) -> Entry:
        name, split = item
        target = folder / ("tokenizer.model" if split == "tokenizer" else Path(name).name)
        place(published.files[name], target, link=bool(published.commit))  # the hub's cache never changes a file
        return _entry(target, split)

    with ThreadPoolExecutor(available_cores()) as pool:  # hashing releases the interpreter's lock
        return list(pool.map(bring, wanted))


def _entry(path: Path, split: str) -> Entry:
    entry: Entry = {"name": path.name, "split": split, "bytes": path.stat().st_size, "sha256": sha256(path)}
    if path.suffix == ".bin":
        try:
            entry["tokens"] = read_header(path)
        except DataError:
            entry["tokens"] = 0  # verify names every such defect at once
    return entry


def _origin(config: Data, published: Published) -> dict[str, Any]:
    origin: dict[str, Any] = {"variant": config.variant, "stats": published.layout.stats}
    if published.commit:
        origin |= {"repo": config.repo, "revision": published.commit}
    if published.layout.vocab_size:
        origin["vocab_size"] = published.layout.vocab_size
    return origin
