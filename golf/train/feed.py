"""A step's batch as micro-batches on the device, read ahead while a GPU computes."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

import torch
from torch import Tensor

from golf.data.loader import TrainLoader

Batch = tuple[Tensor, Tensor]  # inputs, targets: int64 (windows, seq_len)


class Feed:
    """``feed.micro_batches(step)`` for consecutive steps; used in a ``with`` block, which ends its thread.

    Args:
        loader: this rank's batches.
        micro_windows: windows of a micro-batch; divides the rank's windows a step.
        device: where they go. For a GPU the next step is read and pinned by a thread meanwhile; a CPU has no core
            to spare for that.
    """

    def __init__(self, loader: TrainLoader, micro_windows: int, device: torch.device) -> None:
        self._loader, self._micro_windows, self._device = loader, micro_windows, device
        self._pool = ThreadPoolExecutor(1, "feed") if device.type == "cuda" else None
        self._ahead: tuple[int, Future[Batch]] | None = None

    def micro_batches(self, step: int) -> list[Batch]:
        """This rank's share of ``step``, in micro-batches of ``micro_windows`` windows."""
        inputs, targets = self._batch(step)
        parts = zip(inputs.split(self._micro_windows), targets.split(self._micro_windows), strict=True)
        return list(parts)

    def _batch(self, step: int) -> Batch:
        if self._pool is None:
            return self._loader.batch(step)
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = (step, self._pool.submit(self._read, step))
        inputs, targets = self._ahead[1].result()
        self._ahead = (step + 1, self._pool.submit(self._read, step + 1))
        return inputs.to(self._device, non_blocking=True), targets.to(self._device, non_blocking=True)

    def _read(self, step: int) -> Batch:
        inputs, targets = self._loader.batch(step)
        return inputs.pin_memory(), targets.pin_memory()

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
