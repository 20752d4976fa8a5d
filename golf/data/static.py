"""The static part of an audit: what the files show by themselves, in numpy, with no model run.

Nothing here calls what it checks: bytes are counted from the tokenizer's pieces, not by
:class:`golf.data.bytecount.ByteTable`, and the score is summed from the file of log-probabilities again.
docs/rules.md says which fault of the public record each check names.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from golf.data.overlap import GRAM, JUDGED, REPEATED, overlap
from golf.data.published import TARGET_BYTES, TARGET_BYTES_TOLERANCE, VAL_DOCUMENTS, is_whole_val
from golf.data.shards import list_shards, load_index, read_shard, read_sidecar
from golf.data.tokenizer import SPACE_MARK, load_sentencepiece

CHECKS = ("overlap", "split", "bos", "byte-table")
SAME_LIMIT = 0.01  # share of validation documents that web text repeats word for word by itself
REPEATED_LIMIT = 0.02  # share that stands in the training text but for a frame; at least one may
SEEN_LIMIT = 0.5  # share of n-grams; documentation, which repeats its phrases, comes to 0.23 by itself
LONGEST = 10_000_000  # tokens without a BOS: they are missing
TOLERANCE = 1e-9  # of a sum of scores, relative
_BLOCK = 1 << 22

Outcome = tuple[bool, str]
"""Passed, and one line of evidence."""


@dataclass(frozen=True)
class Files:
    """What is checked: three splits, their index, and what the tokenizer says of each token."""

    splits: Mapping[str, list[np.ndarray]]  # uint16 (T,) a shard
    sidecar: np.ndarray | None  # uint16 (T,): bytes of the validation tokens
    index: Mapping[str, Any]  # shards.json
    manifest: Mapping[str, Any]  # of the raw data
    pieces: Mapping[str, np.ndarray]  # base, leading_space, boundary of each token, recomputed
    table: Mapping[str, np.ndarray]  # the same as the evaluation reads them

    @classmethod
    def read(cls, shards: Path, tokenizer: Path, manifest: Mapping[str, Any]) -> Files:
        """Map the shards of ``shards``; ``tokenizer`` is the folder with tokenizer.model and bytes.safetensors.

        Raises:
            MissingInput, DataError: a file is missing, or not what its name says.
        """
        from safetensors.numpy import load_file

        splits = {
            name: [read_shard(path) for path in list_shards(shards, name)] for name in ("train", "heldout", "val")
        }
        table = load_file(tokenizer / "bytes.safetensors")
        model = load_sentencepiece(tokenizer / "tokenizer.model")
        pieces = recompute(model, max(model.vocab_size(), table["base"].size))
        return cls(splits, read_sidecar(shards), load_index(shards), manifest, pieces, table)

    @classmethod
    def read_scored(cls, shards: Path, tokenizer: Path) -> Files:
        """What :func:`score` needs, alone; the byte table is taken as it is, for :func:`byte_table` holds it."""
        from safetensors.numpy import load_file

        val = [read_shard(path) for path in list_shards(shards, "val")]
        table = load_file(tokenizer / "bytes.safetensors")
        return cls({"val": val}, read_sidecar(shards), {}, {}, table, table)


def check_files(files: Files) -> dict[str, Outcome]:
    """Every check of :data:`CHECKS`, in that order."""
    return {"overlap": shares(files), "split": split(files), "bos": bos(files), "byte-table": byte_table(files)}


def recompute(model: Any, size: int) -> dict[str, np.ndarray]:
    """The columns of a byte table from the pieces of a SentencePieceProcessor, by the canonical rules.

    Args:
        model: the processor.
        size: entries of each column, as many as it has pieces or more; ids beyond them are boundaries without bytes.
    """
    known = range(model.vocab_size())
    silent = [model.is_control(token) or model.is_unknown(token) or model.is_unused(token) for token in known]
    texts = [
        "" if mute else "?" if model.is_byte(token) else model.id_to_piece(token)
        for token, mute in zip(known, silent, strict=True)
    ]
    space = [text[:1] == SPACE_MARK for text in texts]
    base = [len(text.encode()) - len(SPACE_MARK.encode()) * first for text, first in zip(texts, space, strict=True)]
    rest = size - len(texts)
    return {
        "base": np.pad(np.array(base, np.int64), (0, rest)),
        "leading_space": np.pad(np.array(space, bool), (0, rest)),
        "boundary": np.pad(np.array(silent, bool), (0, rest), constant_values=True),
    }


def shares(files: Files) -> Outcome:
    """Validation documents and their 13-grams are not in the training text, more than text repeats itself."""
    found = overlap(files.splits["val"], [*files.splits["train"], *files.splits["heldout"]], files.index["bos_id"])
    seen = found.seen / max(found.grams, 1)
    line = (
        f"{found.same:,} of {found.documents:,} validation documents stand in the training text, {found.repeated:,} of "
        f"{found.judged:,} with {REPEATED:.0%} of their {GRAM}-grams; {found.seen:,} of {found.grams:,} {GRAM}-grams"
        f"{f' (1 of {found.sampled} looked for)' * (found.sampled > 1)}: {seen:.2%}"
    )
    if found.same > SAME_LIMIT * found.documents:
        return False, f"{line}; whole documents: needed {SAME_LIMIT:.0%} or less"
    if found.repeated > max(REPEATED_LIMIT * found.judged, 1):
        return False, f"{line}; documents of {JUDGED} or more {GRAM}-grams: needed {REPEATED_LIMIT:.0%} or less"
    return seen <= SEEN_LIMIT, f"{line}, limit {SEEN_LIMIT:.0%}"


def split(files: Files) -> Outcome:
    """Every split is whole: its files, tokens and bytes are those of the index, and of the published set if it is."""
    totals = {}
    for name, shards in files.splits.items():
        stated = files.index["splits"][name]
        totals[name] = tokens = sum(shard.size for shard in shards)
        if (len(shards), tokens) != (len(stated["files"]), stated["tokens"]):
            return False, (
                f"{name}: {tokens:,} tokens in {len(shards)} shards, needed {stated['tokens']:,} in "
                f"{len(stated['files'])} (shards.json)"
            )
    found, stated = count_bytes(files), files.index["splits"]["val"]["bytes"]
    line = f"val: {totals['val']:,} tokens, {found:,} bytes"
    if found != stated:
        return False, f"{line}, needed {stated:,} bytes (shards.json)"
    if files.manifest["source"] != "fineweb" or files.manifest.get("validation") == "own":
        return True, f"{line}, as written; no published totals are claimed"
    documents, variant = files.index["splits"]["val"]["documents"], str(files.manifest.get("variant"))
    if documents != VAL_DOCUMENTS or is_whole_val(variant, totals["val"]) is False:
        return False, f"{line}, {documents:,} documents: not the {VAL_DOCUMENTS:,} of the published set ({variant})"
    if abs(found - TARGET_BYTES) > TARGET_BYTES_TOLERANCE * TARGET_BYTES:
        return False, f"{line}, needed {TARGET_BYTES:,} within {TARGET_BYTES_TOLERANCE:.2%}: the published set"
    return True, f"{line}, {documents:,} documents: the published set"


def bos(files: Files) -> Outcome:
    """Every document of every split begins with a BOS."""
    mark, counted = files.index["bos_id"], []
    for name, shards in files.splits.items():
        first = next((int(shard[0]) for shard in shards if shard.size), None)
        if first is not None and first != mark:
            return False, f"{name}: begins with token {first}, needed a BOS ({mark})"
        documents, longest = _documents(shards, mark)
        stated = files.index["splits"][name]["documents"]
        if documents != stated:
            return False, f"{name}: {documents:,} BOS, needed {stated:,}, one a document (shards.json)"
        if longest > LONGEST:
            return False, f"{name}: {longest:,} tokens without a BOS, needed one before each document"
        counted.append(f"{name} {documents:,}, the longest {longest:,} tokens")
    return True, f"documents: {'; '.join(counted)}"


def _documents(shards: list[np.ndarray], mark: int) -> tuple[int, int]:
    """How often a stream holds ``mark``, and the most tokens from one to the next."""
    documents, longest, rest = 0, 0, 0  # rest: tokens since the last one
    for shard in shards:
        starts = np.flatnonzero(shard == mark)
        gaps = np.diff(np.concatenate(([-rest], starts, [shard.size])))
        documents, longest, rest = documents + starts.size, max(longest, int(gaps.max())), int(gaps[-1])
    return documents, longest


def byte_table(files: Files) -> Outcome:
    """The byte table that the evaluation reads is the tokenizer's, and a sidecar counts nothing at a BOS."""
    for name, column in files.pieces.items():
        if files.table[name].shape != column.shape:
            return False, f"{files.table[name].size:,} tokens in it, the tokenizer has {column.size:,}"
        wrong = np.flatnonzero(files.table[name] != column)
        if wrong.size:
            token = int(wrong[0])
            return False, (
                f"{name} of token {token}: {files.table[name][token]}, the tokenizer's is {column[token]}; "
                f"{wrong.size:,} of {column.size:,} tokens differ"
            )
    line = f"{files.pieces['base'].size:,} tokens as recomputed from the tokenizer"
    if files.sidecar is None:
        return True, line
    tokens = np.concatenate(files.splits["val"])
    if files.sidecar.size != tokens.size or files.sidecar[tokens == files.index["bos_id"]].any():
        return False, f"byte sidecar: {files.sidecar.size:,} counts for {tokens.size:,} tokens, needed 0 at each BOS"
    return True, f"{line}; the sidecar counts nothing at a BOS"


def score(files: Files, nll: np.ndarray, report: Mapping[str, Any]) -> Outcome:
    """The reported score is the sum of the per-token log over the bytes of its targets.

    Args:
        files: whose validation split was scored.
        nll: (N,) nats.
        report: the evaluation's.
    """
    targets = sum(shard.size for shard in files.splits["val"]) - 1
    if nll.shape != (targets,) or not np.isfinite(nll).all() or float(nll.min()) < 0:
        return False, f"the log holds {nll.shape} scores, needed {targets:,}, finite and 0 or more"
    nats, size = float(nll.sum(dtype=np.float64)), count_bytes(files)
    found = {"tokens": targets, "bytes": size, "nats_per_token": nats / targets, "bpb": nats / math.log(2) / size}
    for name, value in found.items():
        if not math.isclose(report[name], value, rel_tol=TOLERANCE):
            return False, f"{name}: reported {report[name]!r}, the log gives {value!r}"
    return True, f"{nats:.3f} nats over {size:,} bytes: {found['bpb']:.6f} bpb, as reported"


def count_bytes(files: Files) -> int:
    """Bytes of all validation targets: of the sidecar where there is one, else by the recomputed table."""
    if files.sidecar is not None:
        return int(files.sidecar[1:].sum(dtype=np.int64))
    base, space, boundary = (files.pieces[name] for name in ("base", "leading_space", "boundary"))
    total = 0
    for before, now in _pairs(files.splits["val"]):
        total += int(base[now].sum(dtype=np.int64)) + int((space[now] & ~boundary[before]).sum())
    return total


def _pairs(shards: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Blocks of the stream: each target, and the token before it."""
    last = np.zeros(0, np.uint16)
    for shard in shards:
        for first in range(0, shard.size, _BLOCK):
            block = np.concatenate((last, shard[first : first + _BLOCK]))
            yield block[:-1], block[1:]
            last = block[-1:]
