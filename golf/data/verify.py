"""Hold every byte of ``data/raw`` against its format, its manifest and the published constants."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from golf.data.cores import available_cores
from golf.data.published import (
    TARGET_BYTES,
    TARGET_BYTES_TOLERANCE,
    VAL_DOCUMENTS,
    VAL_TARGETS,
    is_whole_val,
)
from golf.data.raw import MANIFEST, Entry, read_manifest, sha256
from golf.data.scan import Documents, ShardScan, TextScan, scan_shard, scan_text, shared_documents
from golf.data.shards import read_shard, sidecar_name
from golf.data.sidecar import TokenBytes
from golf.data.tokenizer import load_sentencepiece
from golf.data.transform import marker_ids
from golf.runtime.errors import FairwayError
from golf.runtime.progress import Progress

BOS = 1
LARGE_SHARD = 10_000_000  # tokens; without one document start in so many, the BOS tokens are missing
PUBLISHED_OVERLAP = 0.01  # share of validation documents that the published web text may repeat by itself
_PROCESSES_FROM = 32_000_000  # bytes of text that are worth starting processes for


@dataclass
class Verdict:
    """Totals of what was read, and one line for each defect."""

    numbers: dict[str, Any] = field(default_factory=dict)
    defects: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def defect(self, file: str, what: str, found: object, needed: object) -> None:
        """Add the line of one defect."""
        self.defects.append(f"{file}: {what}: found {found}, needed {needed}")


def verify(folder: Path | str = "data/raw") -> Verdict:
    """Read everything in ``folder`` once and report totals and defects.

    Raises:
        MissingInput, DataError: there is no manifest, or it is not one.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    verdict = Verdict()
    entries = _present(folder, manifest, verdict)
    vocab_size, bos_id = _vocabulary(folder, manifest, verdict)
    shards = [entry for entry in entries if entry["name"].endswith(".bin")]
    texts = [entry for entry in entries if entry["name"].endswith(".jsonl")]
    others = [entry for entry in entries if entry not in shards and entry not in texts]
    shard_scans, text_scans = _scan(folder, shards, texts, bos_id)
    both: list[tuple[Entry, ShardScan | TextScan]] = [*shard_scans, *text_scans]
    for entry, scan in both:
        _against_manifest(entry, scan.sha256, scan.size, verdict)
    for entry in others:
        path = folder / entry["name"]
        _against_manifest(entry, sha256(path), path.stat().st_size, verdict)
    _check_shards(shard_scans, vocab_size, bos_id, verdict)
    _check_sidecars(folder, shard_scans, verdict)
    _check_text(text_scans, verdict)
    _check_duplicates([*shard_scans, *text_scans], verdict)
    overlap = _check_overlap(shard_scans, text_scans, manifest, verdict)
    if manifest["source"] == "fineweb" and manifest.get("validation") != "own":
        _check_published(folder, manifest, shard_scans, verdict)
    verdict.numbers = _numbers(folder, entries, shard_scans, text_scans, overlap)
    return verdict


def _present(folder: Path, manifest: dict[str, Any], verdict: Verdict) -> list[Entry]:
    named = {entry["name"]: entry for entry in manifest["files"]}
    here = {path.name for path in folder.iterdir() if path.is_file() and path.name != MANIFEST}
    for name in sorted(set(named) - here):
        verdict.defect(name, "missing file", "nothing", f"the {named[name]['bytes']:,} bytes of the manifest")
    for name in sorted(here - set(named)):
        verdict.defect(name, "file unknown to the manifest", name, "only files that fetch brought")
    if not any(entry["split"] == "train" for entry in manifest["files"]):
        verdict.defect(MANIFEST, "no training data", "no file of the split train", "at least one")
    return [entry for name, entry in sorted(named.items()) if name in here]


def _vocabulary(folder: Path, manifest: dict[str, Any], verdict: Verdict) -> tuple[int | None, int]:
    """Size and BOS of the tokenizer that came with the shards; (None, 1) without one."""
    path = folder / "tokenizer.model"
    if not path.is_file():
        return manifest.get("vocab_size"), BOS
    try:
        model = load_sentencepiece(path)
    except FairwayError as error:
        verdict.defects.append(str(error))
        return manifest.get("vocab_size"), BOS
    stated = manifest.get("vocab_size")
    if stated and stated != model.vocab_size():
        verdict.defect(
            path.name, "vocabulary", f"{model.vocab_size():,} tokens", f"{stated:,} (the dataset's manifest)"
        )
    return int(model.vocab_size()), int(model.bos_id())


def _scan(
    folder: Path, shards: list[Entry], texts: list[Entry], bos_id: int
) -> tuple[list[tuple[Entry, ShardScan]], list[tuple[Entry, TextScan]]]:
    cores = available_cores()
    text_bytes = sum(entry["bytes"] for entry in texts)
    total = sum(entry["bytes"] for entry in shards) + text_bytes
    shard_scans: list[ShardScan] = []
    text_scans: list[TextScan] = []
    with Progress("verify", max(total / 1e6, 1e-6)) as bar:

        def collect(scans: Iterable[Any], into: list[Any]) -> None:
            for scan in scans:
                into.append(scan)
                bar.advance(scan.size / 1e6, scan.path.name)

        with ThreadPoolExecutor(cores) as pool:
            collect(pool.map(lambda entry: scan_shard(folder / entry["name"], bos_id), shards), shard_scans)
        paths = [folder / entry["name"] for entry in texts]
        if text_bytes > _PROCESSES_FROM and cores > 1 and len(paths) > 1:
            with ProcessPoolExecutor(min(cores, len(paths)), mp_context=get_context("spawn")) as processes:
                collect(processes.map(scan_text, paths), text_scans)
        else:
            collect(map(scan_text, paths), text_scans)
    return list(zip(shards, shard_scans, strict=True)), list(zip(texts, text_scans, strict=True))


def _against_manifest(entry: Entry, digest: str, size: int, verdict: Verdict) -> None:
    name = entry["name"]
    if size != entry["bytes"]:
        verdict.defect(name, "length changed", f"{size:,} bytes", f"{entry['bytes']:,} (manifest)")
    elif digest != entry["sha256"]:
        verdict.defect(name, "checksum changed", f"SHA-256 {digest}", f"{entry['sha256']} (manifest)")


def _check_shards(scans: list[tuple[Entry, ShardScan]], vocab_size: int | None, bos_id: int, verdict: Verdict) -> None:
    seen: set[str] = set()
    for entry, scan in scans:
        name, split = entry["name"], entry["split"]
        if scan.problem:
            verdict.defects.append(scan.problem)
            seen.add(split)
            continue
        if split == "val_bytes":
            continue
        if vocab_size is not None and scan.largest >= vocab_size:
            tokens = read_shard(scan.path)
            place = int((tokens >= vocab_size).argmax())
            verdict.defect(
                name, "token outside the vocabulary", f"{tokens[place]} at token {place:,}", f"0 to {vocab_size - 1}"
            )
        if scan.tokens == 0:
            verdict.defect(name, "empty shard", "0 tokens", "at least 1")
        elif split not in seen and scan.first != bos_id:
            verdict.defect(name, "missing BOS", f"{scan.first} as the first token", f"{bos_id} before each document")
        elif scan.tokens >= LARGE_SHARD and scan.starts.size == 0:
            verdict.defect(name, "missing BOS", f"no {bos_id} in {scan.tokens:,} tokens", "one before each document")
        seen.add(split)


def _check_sidecars(folder: Path, scans: list[tuple[Entry, ShardScan]], verdict: Verdict) -> None:
    counter = _marker_bytes(folder / "tokenizer.model")
    sidecars = {entry["name"]: scan for entry, scan in scans if entry["split"] == "val_bytes"}
    if not sidecars:
        return
    for entry, scan in scans:
        if entry["split"] != "val":
            continue
        name = sidecar_name(entry["name"])
        sidecar = sidecars.pop(name, None)
        if sidecar is None:
            verdict.defect(name, "missing sidecar", "nothing", f"bytes of the tokens of {entry['name']}")
        elif not (sidecar.problem or scan.problem):
            if sidecar.tokens != scan.tokens:
                verdict.defect(
                    name, "sidecar's length", f"{sidecar.tokens:,} tokens", f"{scan.tokens:,} ({entry['name']})"
                )
            elif (counted := read_shard(sidecar.path)[scan.starts]).any():
                verdict.defect(name, "bytes of a BOS", f"{counted.max()}", "0: it stands for no text")
            elif counter and (defect := counter.defect(read_shard(scan.path), read_shard(sidecar.path))):
                verdict.defect(name, *defect)
    for name in sidecars:
        verdict.defect(name, "sidecar without its shard", name, "a validation shard of the same number")


def _marker_bytes(path: Path) -> TokenBytes | None:
    """What counts the bytes of transformed text; None where there is no tokenizer, or it knows no markers."""
    try:
        model = load_sentencepiece(path)
    except FairwayError:  # none, or a defect of its own
        return None
    return TokenBytes(model) if marker_ids(model) else None


def _check_text(scans: list[tuple[Entry, TextScan]], verdict: Verdict) -> None:
    for entry, scan in scans:
        if scan.problem:
            verdict.defects.append(scan.problem)
        elif scan.documents != entry.get("documents", scan.documents):
            verdict.defect(entry["name"], "documents", f"{scan.documents:,}", f"{entry['documents']:,} (manifest)")


def _check_duplicates(scans: list[tuple[Entry, Any]], verdict: Verdict) -> None:
    first: dict[str, str] = {}
    for entry, scan in scans:
        if entry["split"] == "val_bytes":
            continue
        if scan.sha256 in first:
            verdict.defect(entry["name"], "duplicated", f"the bytes of {first[scan.sha256]}", "each file once")
        first.setdefault(scan.sha256, entry["name"])


def _documents(scans: list[tuple[Entry, ShardScan]], split: str) -> Documents | None:
    chosen = [scan for entry, scan in scans if entry["split"] == split]
    if not chosen or any(scan.problem for scan in chosen):
        return None
    return Documents([read_shard(scan.path) for scan in chosen], [scan.starts for scan in chosen])


def _check_overlap(
    shards: list[tuple[Entry, ShardScan]],
    texts: list[tuple[Entry, TextScan]],
    manifest: dict[str, Any],
    verdict: Verdict,
) -> int | None:
    """How many validation documents stand in the training data; None where the two cannot be compared here."""
    val, train = _documents(shards, "val"), _documents(shards, "train")
    if val is not None and train is not None:
        total, shared = val.starts.size, len(shared_documents(val, train))
    else:
        known = {digest for entry, scan in texts if entry["split"] == "train" for digest in scan.digests}
        own = [digest for entry, scan in texts if entry["split"] == "val" for digest in scan.digests]
        if not known or not own:
            return None
        total, shared = len(own), sum(digest in known for digest in own)
    if shared == 0:
        return 0
    line = f"{shared:,} of {total:,} validation documents stand in the training data"
    if manifest["source"] == "fineweb" and shared <= PUBLISHED_OVERLAP * total:
        verdict.notes.append(f"{line}: repeated web pages, as published")
    else:
        verdict.defect("val", "overlap", line, "none: their scores would be memory")
    return shared


def _check_published(
    folder: Path, manifest: dict[str, Any], scans: list[tuple[Entry, ShardScan]], verdict: Verdict
) -> None:
    val = [(entry, scan) for entry, scan in scans if entry["split"] == "val"]
    if not val or any(scan.problem for _, scan in val):
        return
    variant, stats = str(manifest.get("variant")), manifest.get("stats") or {}
    documents = sum(scan.starts.size for _, scan in val)
    tokens = sum(scan.tokens for _, scan in val)
    where = "val" if len(val) > 1 else val[0][0]["name"]
    if documents != VAL_DOCUMENTS:
        what = "partial validation split" if documents < VAL_DOCUMENTS else "validation split"
        verdict.defect(where, what, f"{documents:,} documents", f"the {VAL_DOCUMENTS:,} of the published set")
    if is_whole_val(variant, tokens) is False:
        known = " or ".join(f"{targets:,}" for targets in VAL_TARGETS[variant])
        what = "partial validation split" if tokens < min(VAL_TARGETS[variant]) else "validation split"
        verdict.defect(where, what, f"{tokens:,} tokens", f"{known} targets and up to one sequence more ({variant})")
    elif is_whole_val(variant, tokens) and documents == VAL_DOCUMENTS:
        _check_target_bytes(folder, val, where, verdict)
    for key, found in (("docs_val", documents), ("tokens_val", tokens)):
        if key in stats and stats[key] != found:
            verdict.defect(where, key, f"{found:,}", f"{stats[key]:,} (the dataset's manifest)")


def _check_target_bytes(folder: Path, val: list[tuple[Entry, ShardScan]], where: str, verdict: Verdict) -> None:
    """Bytes of the whole validation split by the canonical rules, or by its sidecars."""
    from golf.data.encode import stream_bytes  # imports torch: only here

    if not (folder / "tokenizer.model").is_file():
        return
    found = stream_bytes(folder / "tokenizer.model", [scan.path for _, scan in val], folder)
    if abs(found - TARGET_BYTES) > TARGET_BYTES_TOLERANCE * TARGET_BYTES:
        verdict.defect(where, "bytes of the validation text", f"{found:,}",
                       f"{TARGET_BYTES:,} within {TARGET_BYTES_TOLERANCE:.2%}")  # fmt: skip


def _numbers(
    folder: Path,
    entries: list[Entry],
    shards: list[tuple[Entry, ShardScan]],
    texts: list[tuple[Entry, TextScan]],
    overlap: int | None,
) -> dict[str, Any]:
    def documents(split: str) -> int:
        return sum(scan.starts.size for entry, scan in shards if entry["split"] == split) + sum(
            scan.documents for entry, scan in texts if entry["split"] == split
        )

    tokens = {
        split: sum(scan.tokens for entry, scan in shards if entry["split"] == split) for split in ("train", "val")
    }
    numbers: dict[str, Any] = {
        "files": len(entries),
        "bytes": sum(scan.size for _, scan in shards) + sum(scan.size for _, scan in texts),
        "text_bytes": sum(scan.text_bytes for _, scan in texts),
        "train_documents": documents("train"),
        "val_documents": documents("val"),
        "train_tokens": tokens["train"],
        "val_tokens": tokens["val"],
    }
    if overlap is not None:
        numbers["val_documents_in_train"] = overlap
    return numbers | {"manifest_sha256": sha256(folder / MANIFEST)}
