"""One pass over a file: its SHA-256 and what its content says, each byte read once.

Threads are enough for shards, since hashing and numpy release the interpreter's lock; lines of JSON are parsed in
processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from golf.data.shards import HEADER_BYTES, parse_header
from golf.data.text import parse_line
from golf.runtime.errors import DataError

_BUFFER = 1 << 20  # bytes: the checks after the hash find them in the core's cache
KEY_TOKENS = 8


@dataclass
class ShardScan:
    """What one shard, or sidecar, holds."""

    path: Path
    size: int  # bytes
    sha256: str
    problem: str = ""  # of the header or the length; the rest is empty then
    tokens: int = 0
    largest: int = -1  # token; -1 in an empty shard
    first: int = -1
    starts: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=np.int64))  # places of BOS


@dataclass
class TextScan:
    """What one file of JSON lines holds."""

    path: Path
    size: int  # bytes
    sha256: str
    problem: str = ""
    documents: int = 0
    text_bytes: int = 0
    digests: list[bytes] = field(default_factory=list)  # of each document, 16 bytes


def scan_shard(path: Path, bos_id: int) -> ShardScan:
    """Hash the file, find its largest token and its document starts."""
    size = path.stat().st_size
    digest = hashlib.sha256()
    buffer = bytearray(_BUFFER)
    view = memoryview(buffer)
    starts: list[np.ndarray] = []
    largest, place = -1, 0
    with path.open("rb", buffering=0) as file:
        header = file.read(HEADER_BYTES)
        digest.update(header)
        scan = ShardScan(path, size, "")
        try:
            scan.tokens = parse_header(header, size, path.name)
        except DataError as error:
            scan.problem = str(error)
        while count := file.readinto(view):
            digest.update(view[:count])
            if scan.problem:
                continue
            while count % 2 and (more := file.read(1)):  # a short read may cut a token
                digest.update(more)
                buffer[count] = more[0]
                count += 1
            tokens = np.frombuffer(view[:count], dtype="<u2")
            largest = max(largest, int(tokens.max()))
            if place == 0:
                scan.first = int(tokens[0])
            starts.append(np.flatnonzero(tokens == bos_id) + place)
            place += tokens.size
    scan.sha256 = digest.hexdigest()
    scan.largest = largest
    if starts:
        scan.starts = np.concatenate(starts)
    return scan


def scan_text(path: Path) -> TextScan:
    """Hash the file and every document in it."""
    scan = TextScan(path, path.stat().st_size, "")
    whole = hashlib.sha256()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            whole.update(line)
            if scan.problem:
                continue
            try:
                text = parse_line(line, f"{path.name}:{number}").strip().encode()
            except DataError as error:
                scan.problem = str(error)
                continue
            if not text:
                scan.problem = f"{path.name}:{number}: found an empty document, needed text"
            scan.documents += 1
            scan.text_bytes += len(text)
            scan.digests.append(hashlib.blake2b(text, digest_size=16).digest())
    scan.sha256 = whole.hexdigest()
    return scan


class Documents:
    """The documents of a split: its shards as one stream, cut at each BOS; a document may reach over shards."""

    def __init__(self, shards: list[np.ndarray], starts: list[np.ndarray]) -> None:
        self.shards = shards
        self.ends = np.cumsum([shard.size for shard in shards], dtype=np.int64)
        self.starts_by_shard = starts
        offsets = self.ends - np.array([shard.size for shard in shards], dtype=np.int64)
        self.starts = np.concatenate([s + o for s, o in zip(starts, offsets, strict=True)] or [np.zeros(0, np.int64)])
        total = int(self.ends[-1]) if shards else 0
        self.lengths = np.diff(self.starts, append=total)

    def tokens(self, start: int, length: int) -> np.ndarray:
        """``length`` tokens from place ``start`` on, at most up to the end."""
        parts = []
        shard = int(np.searchsorted(self.ends, start, side="right"))
        while length > 0 and shard < len(self.shards):
            begin = start - int(self.ends[shard]) + self.shards[shard].size
            part = self.shards[shard][begin : begin + length]
            parts.append(part)
            start, length, shard = start + part.size, length - part.size, shard + 1
        return np.concatenate(parts) if parts else np.zeros(0, dtype=np.uint16)

    def keys(self) -> np.ndarray:
        """A 64-bit key of each document from its length and first tokens: equal documents have equal keys."""
        heads = np.zeros((self.starts.size, KEY_TOKENS), dtype=np.uint64)
        first = 0
        for shard, starts, end in zip(self.shards, self.starts_by_shard, self.ends, strict=True):
            places = starts[:, None] + np.arange(KEY_TOKENS)
            block = heads[first : first + starts.size]
            inside = places < shard.size
            block[inside] = shard[places[inside]]
            for row in np.flatnonzero(~inside.all(axis=1)):
                head = self.tokens(int(starts[row]) + int(end) - shard.size, KEY_TOKENS)
                block[row, : head.size] = head
            first += starts.size
        heads[np.arange(KEY_TOKENS) >= self.lengths[:, None]] = 0  # what follows a short document is not its own
        key = self.lengths.astype(np.uint64)
        for column in range(KEY_TOKENS):
            key = (key ^ heads[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(29)
        return key

    def digest(self, index: int) -> bytes:
        """The hash of one document's tokens."""
        tokens = self.tokens(int(self.starts[index]), int(self.lengths[index]))
        return hashlib.blake2b(np.ascontiguousarray(tokens, dtype="<u2").tobytes(), digest_size=16).digest()


def shared_documents(val: Documents, train: Documents) -> list[int]:
    """Indexes of the documents of ``val`` that stand in ``train`` too, word for word; empty ones aside."""
    val_keys, train_keys = val.keys(), train.keys()
    suspects = np.flatnonzero(np.isin(train_keys, val_keys))
    digests = {train.digest(int(index)) for index in suspects}
    candidates = np.flatnonzero(np.isin(val_keys, train_keys[suspects]) & (val.lengths > 1))
    return [int(index) for index in candidates if val.digest(int(index)) in digests]
