"""A step's batch as micro-batches on the device, read ahead while a GPU computes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import NamedTuple

import torch
from torch import Tensor

from golf.data.loader import Loader, Rows
from golf.data.vocabulary import check_ids
from golf.model.attention import Documents
from golf.train.distributed import Ranks

READ_AHEAD = 2  # steps
Forward = Callable[..., Tensor]  # tokens, targets (B, T) int64, documents=… -> nll (B, T)


class Batch(NamedTuple):
    """A micro-batch: inputs and targets, int64 (rows, tokens); where documents begin, if they are kept apart."""

    tokens: Tensor
    targets: Tensor
    documents: Documents | None

    def nll(self, forward: Forward) -> Tensor:
        """(rows, tokens): what ``forward`` gives for it."""
        kept_apart = {} if self.documents is None else {"documents": self.documents}
        return forward(self.tokens, self.targets, **kept_apart)

    def tensors(self) -> list[Tensor]:
        """All of its tensors."""
        return [self.tokens, self.targets, *([] if self.documents is None else [self.documents.starts])]

    def copy(self) -> Batch:
        """The same in memory of its own."""
        documents = self.documents
        own = None if documents is None else documents._replace(starts=documents.starts.clone())
        return Batch(self.tokens.clone(), self.targets.clone(), own)


class Request(NamedTuple):
    """Rows of the loader, over all ranks; each rank has its equal part, in order."""

    first: int
    rows: int
    seq_len: int


class Feed:
    """``feed.micro_batches(request, rows)`` for steps in order; used in a ``with`` block, which ends its thread.

    Tokens travel as int32, in one piece a step, and become int64 where they are used.

    Args:
        loader: of the rows.
        ranks: who takes which part, and the device they go to. For a GPU a thread reads and pins ``READ_AHEAD``
            steps meanwhile; a CPU has no core to spare for that.
        vocab_size: tokens beyond it are refused here: a GPU would fail on them in words of its own.

    Attributes:
        waited: seconds that the host waited for data, in all.
        pairs: query and key positions that met in attention, in all of this rank's rows.
    """

    def __init__(self, loader: Loader, ranks: Ranks, vocab_size: int) -> None:
        self._loader, self._ranks, self._vocab_size = loader, ranks, vocab_size
        self._pool = ThreadPoolExecutor(1, "feed") if ranks.device.type == "cuda" else None
        self._ahead: deque[tuple[Request, Future[Rows]]] = deque()
        self.waited, self.pairs = 0.0, 0

    def micro_batches(self, request: Request, rows: int) -> list[Batch]:
        """This rank's part of ``request``, ``rows`` rows of the loader at a time."""
        started = time.perf_counter()
        found = self._read(request) if self._pool is None else self._read_ahead(request)
        self.waited += time.perf_counter() - started
        self.pairs += attended(found)
        device = self._ranks.device
        tokens = found.tokens.to(device, non_blocking=True)
        micro = rows * self._loader.row_tokens // (tokens.shape[1] - 1)
        inputs, targets = tokens[:, :-1].to(torch.int64).split(micro), tokens[:, 1:].to(torch.int64).split(micro)
        if found.starts is None:
            return [Batch(*pair, None) for pair in zip(inputs, targets, strict=True)]
        starts = found.starts.to(device, non_blocking=True)
        documents = [Documents(own, found.longest) for own in starts]
        return [Batch(*parts) for parts in zip(inputs, targets, documents, strict=True)]

    def _read_ahead(self, request: Request) -> Rows:
        """What was read before for ``request``, or is now; a change of plan costs its reading time, no data."""
        assert self._pool is not None
        if not self._ahead or self._ahead[0][0] != request:
            for _, future in self._ahead:
                future.cancel()
            self._ahead = deque([(request, self._pool.submit(self._read, request))])
        _, found = self._ahead.popleft()
        last = self._ahead[-1][0] if self._ahead else request
        while len(self._ahead) < READ_AHEAD:
            last = last._replace(first=last.first + last.rows)
            self._ahead.append((last, self._pool.submit(self._read, last)))
        return found.result()

    def _read(self, request: Request) -> Rows:
        share = request.rows // self._ranks.count
        rows = self._loader.read(request.first + self._ranks.index * share, share, request.seq_len)
        check_ids(rows.tokens, self._vocab_size, f"row {request.first}")
        if self._pool is None:
            return rows
        return rows._replace(
            tokens=rows.tokens.pin_memory(), starts=None if rows.starts is None else rows.starts.pin_memory()
        )

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)


def attended(rows: Rows) -> int:
    """Pairs of a query and a key not after it, over all segments: what causal attention computes."""
    if rows.starts is None:
        length = rows.tokens.shape[1] - 1
        return rows.tokens.shape[0] * (length * (length + 1) // 2)
    lengths = rows.starts.diff(dim=1).to(torch.int64)
    return int((lengths * (lengths + 1) // 2).sum())
