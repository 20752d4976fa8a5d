"""One process, or one rank of torchrun: who it is, and what the ranks tell each other.

Gradients and losses travel over NCCL on GPUs. Decisions (the clock) travel as CPU numbers over a gloo group of their
own, so that agreeing on them never makes the host wait for a GPU.
"""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from golf.optim.exchange import Pending
from golf.params.hardware import Hardware
from golf.runtime.device import prepare, uses_gpu
from golf.runtime.errors import ConfigError, Exit, FairwayError

MEETING_SECONDS = 120.0  # for all ranks to arrive at the first barrier
COLLECTIVE_SECONDS = 600.0  # for any later exchange: compilation may hold one rank up for minutes


def started_by_torchrun() -> bool:
    """Whether this process is a rank that torchrun started. torchrun has no other way to say so."""
    return "RANK" in os.environ


def world_size() -> int:
    """Ranks that torchrun started; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Ranks:
    """Where this process stands among its ``count`` peers, and the device it computes on."""

    index: int
    count: int
    device: torch.device
    control: Any = None  # the gloo group for CPU numbers; None when alone

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.index == 0

    def mean_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor, in place, by its mean over ranks. All ranks give the same shapes in the same order."""
        if self.count == 1:
            return
        import torch.distributed as dist

        for tensor in tensors:
            dist.all_reduce(tensor)
            tensor.div_(self.count)

    def sum_(self, tensor: Tensor) -> Pending:
        """See :class:`golf.optim.exchange.Peers`."""
        import torch.distributed as dist

        return _started(dist.all_reduce(tensor, async_op=True))

    def sum_shares(self, whole: Tensor, share: Tensor) -> Pending:
        """See :class:`golf.optim.exchange.Peers`."""
        import torch.distributed as dist

        # Torch 2.13 gave the operation a new name and warns of the old one.
        scatter = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
        return _started(scatter(share, whole, async_op=True))

    def gather_shares(self, share: Tensor, whole: Tensor) -> Pending:
        """See :class:`golf.optim.exchange.Peers`."""
        import torch.distributed as dist

        gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
        return _started(gather(whole, share, async_op=True))

    def take_from_first_(self, tensors: Mapping[str, Tensor]) -> None:
        """Overwrite each tensor, in place, by the first rank's."""
        if self.count == 1:
            return
        import torch.distributed as dist

        for name in sorted(tensors):
            tensor = tensors[name]
            dist.broadcast(tensor, 0, group=self.control if tensor.device.type == "cpu" else None)

    def first_says(self, value: float) -> float:
        """The first rank's ``value``, on every rank. Waits for peers, never for a GPU."""
        if self.count == 1:
            return value
        import torch.distributed as dist

        said = torch.tensor([value], dtype=torch.float64)
        dist.broadcast(said, 0, group=self.control)
        return float(said)

    def meet(self, seconds: float = COLLECTIVE_SECONDS) -> None:
        """Wait until every rank is here.

        Raises:
            FairwayError: one did not come in time; exit code 75.
        """
        if self.count == 1:
            return
        import torch.distributed as dist

        try:
            dist.monitored_barrier(self.control, timeout=datetime.timedelta(seconds=seconds))
        except RuntimeError as error:
            text = " ".join(str(error).split())
            raise FairwayError(f"rank {self.index}: a rank is missing: {text}", code=Exit.RETRY) from None


def _started(work: Pending | None) -> Pending:
    assert work is not None, "this process is of no group"
    return work


@contextmanager
def join(hardware: Hardware) -> Iterator[Ranks]:
    """The process group that torchrun started, by NCCL on GPUs and gloo elsewhere; alone without torchrun.

    Raises:
        ConfigError: this rank has no GPU of its own.
        FairwayError: not every rank came in time; exit code 75.
    """
    index, local = int(os.environ.get("RANK", "0")), int(os.environ.get("LOCAL_RANK", "0"))
    if uses_gpu(hardware):
        if local >= torch.cuda.device_count():
            raise ConfigError(
                f"rank {local} of this machine has no GPU: found {torch.cuda.device_count()}, needed one a rank",
                hint="dvc exp run -S hardware.processes=0",
            )
        torch.cuda.set_device(local)
    device = prepare(hardware)
    if world_size() == 1:
        yield Ranks(0, 1, device)
        return
    import torch.distributed as dist

    limit = datetime.timedelta(seconds=COLLECTIVE_SECONDS)
    if device.type == "cuda":
        dist.init_process_group("nccl", device_id=device, timeout=limit)
        ranks = Ranks(index, world_size(), device, dist.new_group(backend="gloo", timeout=limit))
    else:
        dist.init_process_group("gloo", timeout=limit)
        ranks = Ranks(index, world_size(), device, dist.group.WORLD)
    try:
        ranks.meet(MEETING_SECONDS)
        yield ranks
        ranks.meet()
    finally:
        dist.destroy_process_group()
        # The last reference ends gloo's threads. One that outlives Python, still holding a tensor, aborts the process.
        object.__setattr__(ranks, "control", None)
