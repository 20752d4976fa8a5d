"""For :mod:`golf.train.connect`: who waits too long at the ranks' first exchange shows where, and ends."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from golf.params.hardware import Hardware
from golf.train.distributed import Ranks, join, world_size


@contextmanager
def connect(hardware: Hardware, failure: Path | None = None) -> Iterator[Ranks]:
    """The process group, with NCCL's settings of ``hardware``, once its ranks have exchanged a number."""
    os.environ.update(hardware.nccl or {})
    if world_size() > 1:
        faulthandler.dump_traceback_later(hardware.nccl_timeout, exit=True)
    with join(hardware) as ranks:
        number = torch.ones((), device=ranks.device)
        ranks.mean_([number])
        float(number)  # waits for it
        faulthandler.cancel_dump_traceback_later()
        yield ranks
