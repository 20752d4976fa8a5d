"""A stream as documents, documents as groups of rows that are scored together, rows as pieces that grow.

Rows of a group stand at the same place of their documents, so a piece is one rectangle of tokens. A group's documents
are of like length, longest first: those that still run are always its first rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from golf.params.eval import Eval

PIECE = 1024  # targets that an H200 would read while it reads one piece of a single document, in recorded steps


class Document(NamedTuple):
    """Inputs [start, stop) of the stream; the targets are [start + 1, stop + 1)."""

    start: int
    stop: int

    @property
    def length(self) -> int:
        """Its targets, as many as its inputs."""
        return self.stop - self.start


class Stream(NamedTuple):
    """What is scored, on the model's device."""

    tokens: Tensor  # (T,) int64
    following: Tensor  # (N, T) int64: what is scored behind each token: the one that follows; a hint
    scores: Tensor  # (N, T) float64: log-probabilities of these; the last place is no target's


def split(tokens: Tensor, bos_id: int) -> list[Document]:
    """The documents of tokens (T,): each from its BOS; the next document's BOS is its last target.

    So every target of the stream is one document's. What stands before the first BOS is a document too.
    """
    last = tokens.numel() - 1
    starts = (tokens[:last] == bos_id).nonzero().flatten().tolist()
    if not starts or starts[0] > 0:
        starts.insert(0, 0)
    return [Document(*pair) for pair in zip(starts, [*starts[1:], last], strict=True)]


def by_length(tokens: Tensor, bos_id: int) -> Tensor:
    """(T,) int64: where the tokens of ``tokens`` (T,) stand, document by document, the longest first.

    The last document stays the last, for no BOS says where it ends.
    """
    *documents, last = split(tokens, bos_id)
    documents.sort(key=lambda document: -document.length)
    return torch.cat([torch.arange(*document) for document in (*documents, (last.start, tokens.numel()))])


def phases(documents: Sequence[Document], size: int) -> list[list[Document]]:
    """Documents in their order, in runs of ``size`` targets or, to the end of the last document, more; 0: one run.

    Where a run ends follows from what stands before, so a stream that ends early has the same runs.
    """
    runs: list[list[Document]] = [[]]
    held = 0
    for document in documents:
        if 0 < size <= held:
            runs.append([])
            held = 0
        runs[-1].append(document)
        held += document.length
    return runs


def group(documents: Sequence[Document], rows: int) -> list[list[Document]]:
    """Groups of at most ``rows`` documents, the longest first, within a group and among them."""
    ordered = sorted(documents, key=lambda document: (-document.length, document.start))
    return [ordered[first : first + rows] for first in range(0, len(ordered), rows)]


@dataclass(frozen=True)
class Pieces:
    """How a row is cut: pieces of ``first`` tokens, later ones longer, by ``growth`` of what stands before them.

    A piece is a whole multiple of ``first``, and a grown one at most a quarter of ``window``, tokens that are seen at
    once. Where a piece begins depends on nothing but the place in the document: a document that ends early is cut as
    its part of a longer one.
    """

    first: int
    growth: float
    window: int

    def __call__(self, length: int) -> Iterator[tuple[int, int]]:
        """The pieces [start, stop) of a row of that many tokens; the last one reaches to its end or beyond."""
        start = 0
        while start < length:
            grown = min(int(start * self.growth), self.window // 4) // self.first * self.first
            stop = start + max(self.first, grown)
            yield start, stop
            start = stop


def pieces(config: Eval, learns: bool) -> Pieces:
    """How rows are cut: as adapters learn, or as large as a window's half allows."""
    first = config.lora_chunk_tokens if learns else config.seq_len // 2
    return Pieces(first, config.lora_chunk_growth * learns, config.seq_len)


def deal(groups: Sequence[list[Document]], ranks: int, cut: Pieces) -> list[list[list[Document]]]:
    """The groups of each rank: in their order, each to the rank that has the least to do so far.

    A group costs its targets and, for each of its pieces, which come one after the other, ``PIECE`` more: dealt out by
    targets alone, four GPUs waited half of their time for the one with the longest document.
    """
    hands: list[list[list[Document]]] = [[] for _ in range(ranks)]
    loads = [0] * ranks
    for members in groups:
        rank = loads.index(min(loads))
        hands[rank].append(members)
        loads[rank] += targets(members) + PIECE * len(list(cut(members[0].length)))
    return hands


def targets(members: Sequence[Document]) -> int:
    """How many targets the documents have."""
    return sum(document.length for document in members)
