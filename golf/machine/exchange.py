"""An all-reduce between the ranks of this machine, with a time limit: a hang is a line, not an hour.

The ranks meet as those of a run do (:mod:`golf.train.connect`), with the same NCCL settings.
"""

from __future__ import annotations

import dataclasses
import importlib
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from golf.params.hardware import Hardware
from golf.runtime.errors import Exit, FairwayError
from golf.runtime.files import read_json, write_json

ELEMENTS = {"cuda": 2**26, "cpu": 2**18}  # fp32 numbers that every rank holds
RUNS = 5
SPARE = 20.0  # seconds beyond the limit: a spawned rank imports torch first, and one that hangs says so itself
Body = Callable[[Hardware, Path], None]


def exchange(hardware: Hardware, ranks: int, limit: float, *, on_gpu: bool, body: Body | None = None) -> dict[str, Any]:
    """Sum numbers over ``ranks`` processes, by NCCL on GPUs and by gloo on CPUs.

    Args:
        hardware: its ``nccl`` settings and device.
        ranks: processes, one a GPU.
        limit: seconds for the first exchange.
        on_gpu: whether each has a GPU; where not, processes are forked, before this one has started any thread.
        body: what a rank does; a test's own.

    Returns:
        ``backend``, ``ranks``, ``seconds`` until the last rank was through, ``gb_per_s`` (bytes of one rank's numbers
        over the time of a sum).

    Raises:
        FairwayError: it took too long, or a rank failed; exit code 75.
    """
    importlib.import_module("golf.train.connect")  # once, before the processes are forked

    limited = dataclasses.replace(hardware, nccl_timeout=limit)
    context: Any = multiprocessing.get_context("spawn" if on_gpu else "fork")
    with tempfile.TemporaryDirectory(prefix="fairway-exchange-") as name:
        folder, begin, port = Path(name), time.perf_counter(), _free_port()
        workers = [
            context.Process(target=_rank, args=(index, ranks, port, limited, folder, body or all_reduce), daemon=True)
            for index in range(ranks)
        ]
        for worker in workers:
            worker.start()
        try:
            for worker in workers:
                worker.join(max(0.0, begin + limit + SPARE - time.perf_counter()))
            _hold(workers, folder, limited)
            found = read_json(folder / "0.json")
        finally:
            for worker in workers:
                if worker.is_alive():
                    worker.kill()
    return {"backend": "nccl" if on_gpu else "gloo", "ranks": ranks, **found, "seconds": time.perf_counter() - begin}


def all_reduce(hardware: Hardware, folder: Path) -> None:
    """One rank: meet, sum, and note the rate beside the word of a failure."""
    import torch
    import torch.distributed as dist

    from golf.train.connect import connect

    with connect(hardware, folder / "failure.json") as ranks:
        numbers = torch.ones(ELEMENTS[ranks.device.type], device=ranks.device)
        if ranks.count == 1:
            return write_json(folder / "0.json", {"gb_per_s": 0.0})
        dist.all_reduce(numbers)
        float(numbers[0])  # waits
        begin = time.perf_counter()
        for _ in range(RUNS):
            dist.all_reduce(numbers)
        float(numbers[0])
        taken = (time.perf_counter() - begin) / RUNS
        write_json(folder / f"{ranks.index}.json", {"gb_per_s": numbers.numel() * 4 / taken / 1e9})


def _rank(index: int, ranks: int, port: int, hardware: Hardware, folder: Path, body: Body) -> None:
    own = {"RANK": index, "LOCAL_RANK": index, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in own.items()} | {"MASTER_ADDR": "127.0.0.1"}
    body(hardware, folder)


def _hold(workers: list[Any], folder: Path, hardware: Hardware) -> None:
    failure = folder / "failure.json"
    if failure.is_file():
        raise FairwayError(str(read_json(failure)["message"]), code=Exit.RETRY)
    hung = [str(index) for index, worker in enumerate(workers) if worker.is_alive()]
    if hung:
        settings = ", ".join(f"{name}={value}" for name, value in (hardware.nccl or {}).items()) or "none"
        raise FairwayError(
            f"no all-reduce within {hardware.nccl_timeout:g} s: rank {', '.join(hung)} of {len(workers)} hangs; "
            f"hardware.nccl: {settings}",
            hint="hardware.nccl with NCCL_DEBUG: INFO, which names the interface",
            code=Exit.RETRY,
        )
    ended = [f"{index} with {worker.exitcode}" for index, worker in enumerate(workers) if worker.exitcode]
    if ended:
        raise FairwayError(
            f"ranks of the all-reduce ended: {', '.join(ended)}", hint="python -m golf.machine.probe", code=Exit.RETRY
        )


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
