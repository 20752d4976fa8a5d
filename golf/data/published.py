"""What is known of the published FineWeb shards: their totals, and which of a listing's files make up a variant."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from golf.runtime.errors import ConfigError, DataError

VAL_DOCUMENTS = 50_000
TARGET_BYTES = 151_080_000  # of the whole validation split, whatever the vocabulary
TARGET_BYTES_TOLERANCE = 0.0005  # builds and tail handling differ by less

# Scored validation tokens as the records log them: the split's tokens without the first, cut to whole sequences.
# The split itself is up to one sequence longer. Two builds of sp4096 are around.
VAL_TARGETS: dict[str, tuple[int, ...]] = {
    "sp1024": (62_021_632,),
    "sp4096": (45_508_608, 45_514_752),
    "sp8192": (40_540_160,),
    "sp8192_lossless_caps_caseops_v1_reserved": (47_851_520,),
}
LONGEST_SEQUENCE = 2048  # tokens, of the records that logged these


def is_whole_val(variant: str, tokens: int) -> bool | None:
    """Whether ``tokens`` can be the whole validation split of ``variant``; None where its total is not known."""
    known = VAL_TARGETS.get(variant)
    if known is None:
        return None
    return any(targets < tokens <= targets + LONGEST_SEQUENCE for targets in known)


@dataclass(frozen=True)
class Layout:
    """The files of one variant, by their paths in the listing, and what the dataset says of itself."""

    train: list[str]
    val: list[str]
    sidecars: list[str]
    tokenizer: str | None
    stats: dict[str, int] = field(default_factory=dict)
    vocab_size: int | None = None


def find_manifest(names: Iterable[str]) -> str | None:
    """The dataset's ``manifest.json``: the one nearest the top."""
    found = [name for name in names if PurePosixPath(name).name == "manifest.json"]
    return min(found, key=lambda name: (name.count("/"), name), default=None)


def parse_manifest(content: bytes, where: str) -> dict[str, Any]:
    """The dataset's manifest.

    Raises:
        DataError: it is not one.
    """
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise DataError(f"{where}: not JSON: {error}", hint="dvc repro --force fetch") from None
    entries = manifest.get("datasets") if isinstance(manifest, dict) else None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise DataError(f"{where}: found no list `datasets`, needed the manifest of a published dataset")
    return manifest


def choose(
    names: Iterable[str], manifest: dict[str, Any] | None, variant: str, train_shards: int, where: str
) -> Layout:
    """Which of ``names`` (paths relative to the dataset's top) are the variant's.

    With a manifest its counts and tokenizer hold; without one the folder ``fineweb10B_<variant>`` does, or, where no
    such folder is, shards that lie flat.

    Raises:
        ConfigError: unknown variant, or more training shards asked for than there are.
        DataError: shards that the manifest counts are missing.
    """
    names = sorted(names)
    dataset = f"fineweb10B_{variant}"
    entry: dict[str, Any] = {}
    if manifest is not None:
        entries = {str(item.get("name")): item for item in manifest["datasets"]}
        if dataset not in entries:
            raise ConfigError(
                f"data.variant: {where} has no {dataset}; it has {', '.join(sorted(entries)) or 'nothing'}"
            )
        entry = entries[dataset]
    inside = [name for name in names if PurePosixPath(name).parent.name == dataset]
    if not inside and manifest is None:
        folders = sorted({PurePosixPath(n).parent.name for n in names if "fineweb10B_" in PurePosixPath(n).parent.name})
        if folders:
            raise ConfigError(f"data.variant: {where} has no {dataset}; it has {', '.join(folders)}")
        inside = [name for name in names if name.endswith(".bin")]
    train, val = _split(inside, "train"), _split(inside, "val")
    stated = entry.get("stats")
    stats = {str(k): v for k, v in stated.items() if type(v) is int} if isinstance(stated, dict) else {}
    if len(val) < max(stats.get("files_val", 0), 1):
        raise DataError(
            f"{where}: {dataset}: found {len(val)} val shards, needed {max(stats.get('files_val', 0), 1)}",
            hint="dvc repro --force fetch, or see data.revision",
        )
    if len(train) < train_shards:
        raise ConfigError(
            f"data.train_shards: found {train_shards}, {where} has {len(train)} training shards of {dataset}",
            hint=f"dvc exp run -S data.train_shards={max(len(train), 1)}",
        )
    tokenizer, vocab_size = _tokenizer(names, manifest, entry, variant, where)
    sidecars = [name for name in inside if "_bytes_" in name and re.search(r"(?:^|[_/])val_", name)]
    return Layout(train[:train_shards], val, sidecars, tokenizer, stats, vocab_size)


def _split(names: list[str], split: str) -> list[str]:
    pattern = re.compile(rf"(?:^|_){split}_.+\.bin$")
    return [name for name in names if pattern.search(PurePosixPath(name).name) and "_bytes_" not in name]


def _tokenizer(
    names: list[str], manifest: dict[str, Any] | None, entry: dict[str, Any], variant: str, where: str
) -> tuple[str | None, int | None]:
    models = [name for name in names if name.endswith(".model")]
    sizes = [entry.get("vocab_size")]
    wanted = None
    stated = (manifest or {}).get("tokenizers")
    for item in stated if isinstance(stated, list) else []:
        if isinstance(item, dict) and item.get("name") == entry.get("tokenizer_name"):
            wanted = item.get("model_path")
            sizes.append(item.get("vocab_size"))
    vocab_size = next((size for size in sizes if type(size) is int and size > 0), None)
    if isinstance(wanted, str):
        matching = [name for name in models if name == wanted or name.endswith("/" + wanted.lstrip("/"))]
        if not matching:
            raise DataError(f"{where}: found no {wanted}, which its manifest names as the tokenizer")
        return matching[0], vocab_size
    size = re.match(r"sp(\d+)", variant)
    by_name = [name for name in models if size and f"_{size[1]}_" in PurePosixPath(name).name]
    chosen = by_name if len(by_name) == 1 else models
    return (chosen[0] if len(chosen) == 1 else None), vocab_size
