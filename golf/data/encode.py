"""From verified text or published shards to the three splits, the byte table and the index.

Text becomes BOS and the ids of each document, no EOS, in the documents' order. Every document is decoded again: it
must give the model's own normalised text, and its tokens must count that text's UTF-8 bytes. The one exception is a
space mark that follows BOS directly (a model with a dummy prefix): the canonical rules count no byte for it.

Transformed text is normalised first, so that what comes back is known: the tokens must decode to the transformed text,
that must turn back into the normalised text, and the bytes of its sidecar must be those of the normalised text.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from golf.data import caseops
from golf.data.shards import list_shards, read_shard
from golf.data.sidecar import TokenBytes
from golf.data.tokenizer import SPACE_MARK, load_sentencepiece
from golf.data.transform import marker_ids
from golf.runtime.errors import DataError

BATCH_BYTES = 1_000_000  # text handed to a process at once
PARALLEL_FROM = 16_000_000  # bytes of text that are worth starting processes for
_COUNT_TOKENS = 1 << 22

_worker: Encoder | None = None


class Encoder:
    """A SentencePiece model and the byte counts of its pieces."""

    def __init__(self, path: Path | str, threads: int = 1, transform: str = "none") -> None:
        self.path = Path(path)
        self.threads = threads
        self.model: Any = load_sentencepiece(path)
        self.bos_id = int(self.model.bos_id())
        self.transformed = TokenBytes(self.model) if transform != "none" else None
        size = int(self.model.vocab_size())
        self._bytes = np.array([self._piece_bytes(index) for index in range(size)], dtype=np.int64)

    def _piece_bytes(self, index: int) -> int:
        """Bytes of a piece where no boundary stands before it: a space mark counts its space."""
        model = self.model
        if model.is_control(index) or model.is_unknown(index) or model.is_unused(index):
            return 0
        if model.is_byte(index):
            return 1
        piece = model.id_to_piece(index)
        return len(piece.removeprefix(SPACE_MARK).encode()) + piece.startswith(SPACE_MARK)

    def encode(self, texts: list[str], first: int = 0) -> list[np.ndarray]:
        """Each text as BOS and its ids, uint16; texts that normalise to nothing give no tokens at all.

        Args:
            first: number of the first text, for messages.

        Raises:
            DataError: a document does not survive the round trip, or its bytes are not countable.
        """
        normal = [self._normalized(text).replace(SPACE_MARK, " ") for text in texts]
        if self.transformed:
            needed = caseops.apply(normal)
            texts = [text.replace(" ", SPACE_MARK) for text in needed]
        else:
            needed = normal
        ids = self.model.encode(texts, num_threads=self.threads)
        decoded = self.model.decode(ids, num_threads=self.threads)
        restored = caseops.undo(decoded) if self.transformed else decoded
        encoded = []
        for number, tokens in enumerate(ids):
            if tokens:
                self._check(first + number, tokens, decoded[number], needed[number])
                self._check_restored(first + number, tokens, restored[number], normal[number])
            encoded.append(np.array([self.bos_id, *tokens] if tokens else [], dtype=np.uint16))
        return encoded

    def _normalized(self, text: str) -> str:
        """The model's normal form; for a transform one that normalising again, as encoding does, leaves as it is.

        Normalising is not idempotent: it makes two letters of a ligature, and a mark behind it joins the second.
        """
        normal = self.model.normalize(text)
        while self.transformed and not text.isascii() and (again := self.model.normalize(normal)) != normal:
            normal = again
        return str(normal)

    def _check(self, number: int, tokens: list[int], decoded: str, needed: str) -> None:
        if decoded != needed and not (self._space_first(tokens) and " " + decoded == needed):
            raise self._broken("does not decode to its normalised text", number, decoded, needed)

    def _check_restored(self, number: int, tokens: list[int], restored: str, normal: str) -> None:
        """Hold what came back against the normalised text, and the bytes of the tokens against what came back."""
        space_first = self._space_first(tokens)
        if restored != normal and not (space_first and " " + restored == normal):
            raise self._broken("does not come back from its transform", number, restored, normal)
        text = restored.removeprefix(" ") if space_first else restored
        if self.transformed:
            counted = int(self.transformed.count(np.array([self.bos_id, *tokens])).sum())
        else:
            counted = int(self._bytes[tokens].sum()) - space_first
        if counted != len(text.encode()):
            raise DataError(
                f"{self.path}: document {number}: found {counted:,} bytes in its tokens, needed the "
                f"{len(text.encode()):,} of its text: some piece holds a space mark inside",
                hint="train another tokenizer with split_by_whitespace",
            )

    def _space_first(self, tokens: list[int]) -> bool:
        return bool(self.model.id_to_piece(tokens[0]).startswith(SPACE_MARK))

    def _broken(self, what: str, number: int, found: str, needed: str) -> DataError:
        pairs = zip(found, needed, strict=False)
        place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(found), len(needed)))
        around = slice(max(place - 10, 0), place + 20)
        return DataError(
            f"{self.path}: document {number} {what}: found {found[around]!r}, needed {needed[around]!r}",
            hint="use a tokenizer with byte_fallback",
        )


def encode_documents(
    model: Path, documents: Iterable[str], *, processes: int = 1, transform: str = "none"
) -> Iterator[tuple[list[np.ndarray], int]]:
    """Batches of encoded documents in order, each with the bytes of text that went in.

    At most twice as many batches as ``processes`` are in memory at a time.

    Raises:
        DataError: as :meth:`Encoder.encode`.
    """
    if processes <= 1:
        encoder = Encoder(model, transform=transform)
        for first, size, texts in _batches(documents):
            yield encoder.encode(texts, first), size
        return
    waiting: deque[tuple[Future[list[np.ndarray]], int]] = deque()
    with ProcessPoolExecutor(
        processes, mp_context=get_context("spawn"), initializer=_start, initargs=(str(model), transform)
    ) as pool:
        try:
            for first, size, texts in _batches(documents):
                waiting.append((pool.submit(_encode, texts, first), size))
                if len(waiting) >= 2 * processes:
                    future, done = waiting.popleft()
                    yield future.result(), done
            while waiting:
                future, done = waiting.popleft()
                yield future.result(), done
        finally:
            pool.shutdown(cancel_futures=True)


def _start(path: str, transform: str) -> None:
    global _worker  # noqa: PLW0603 - one model a process
    _worker = Encoder(path, transform=transform)


def _encode(texts: list[str], first: int) -> list[np.ndarray]:
    assert _worker is not None
    return _worker.encode(texts, first)


def _batches(documents: Iterable[str]) -> Iterator[tuple[int, int, list[str]]]:
    texts: list[str] = []
    first = size = 0
    for text in documents:
        texts.append(text)
        size += len(text.encode())
        if size >= BATCH_BYTES:
            yield first, size, texts
            first, size, texts = first + len(texts), 0, []
    if texts:
        yield first, size, texts


def stream_bytes(model: Path, shards: list[Path], sidecar_folder: Path | None = None) -> int:
    """Bytes of all targets of a split by the canonical rules; by the sidecars of ``sidecar_folder`` if it has some."""
    sidecars = list_shards(sidecar_folder, "val", sidecars=True) if sidecar_folder else []
    if sidecars:
        counts = [read_shard(path) for path in sidecars]
        return sum(int(part.sum(dtype=np.int64)) for part in counts) - int(counts[0][0] if counts[0].size else 0)
    import torch

    from golf.data.bytecount import ByteTable

    table = ByteTable.from_sentencepiece(model, markers=marker_ids(load_sentencepiece(model)))
    total = 0
    before = np.zeros(0, dtype=np.int64)  # the last token so far: the context of the next target
    for path in shards:
        tokens = read_shard(path)
        for start in range(0, tokens.size, _COUNT_TOKENS):
            part = np.concatenate([before, tokens[start : start + _COUNT_TOKENS].astype(np.int64)])
            total += int(table.count(torch.from_numpy(part)).sum())
            before = part[-1:]
    return total


def validation_documents(texts: Iterable[str], share: float) -> set[bytes]:
    """Digests of the documents to split off: the share whose hashes are smallest, at least one document.

    Chosen by content, so that repeated documents fall on the same side, and mixed over the whole corpus.

    Raises:
        DataError: there is only one document.
    """
    digests = sorted(text_digest(text) for text in texts)
    distinct = len(set(digests))
    if distinct < 2:
        raise DataError(
            f"data/raw: found {distinct} different document{'s' * (distinct != 1)}, needed 2 to split some off for "
            "validation",
            hint="put validation text into data/source/val (data.val_path)",
        )
    count = min(max(1, round(share * len(digests))), len(digests))
    chosen = set(digests[:count])
    return chosen if len(chosen) < distinct else chosen - {digests[-1]}


def text_digest(text: str) -> bytes:
    """Hash of a document's text, white space at its ends aside."""
    return hashlib.blake2b(text.strip().encode(), digest_size=16).digest()
