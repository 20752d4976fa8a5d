"""The rate of large matrix products, which tells a slow or shared chip from a whole one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence

import torch

GPU_SIZE, CPU_SIZE = 8192, 768  # rows and columns: on a GPU what docs/gpu.md measured, on a CPU some milliseconds
BATCH = 20  # products between two looks at a GPU's clock


def rates(devices: Sequence[torch.device], seconds: float) -> list[float]:
    """TFLOP/s of square products on each device, all of them busy at once for ``seconds``, as in a run.

    bf16 with fp32 sums on GPUs, fp32 on a CPU; 2 n³ FLOPs a product. The median of batches: the first ones run before
    the chip is warm, and a run is long.
    """
    batches = [_batch(device) for device in devices]
    for batch in batches:
        batch()()
    found: list[list[float]] = [[] for _ in devices]
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or not found[0]:
        waits = [batch() for batch in batches]  # a GPU's products are queued here, and waited for below
        for rate, wait in zip(found, waits, strict=True):
            rate.append(wait())
    return [statistics.median(rate) for rate in found]


def _batch(device: torch.device) -> Callable[[], Callable[[], float]]:
    """A function that starts a batch of products, and gives one that waits for it and tells its TFLOP/s."""
    on_gpu = device.type == "cuda"
    size, count = (GPU_SIZE, BATCH) if on_gpu else (CPU_SIZE, 1)
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16 if on_gpu else torch.float32) for _ in "ab")
    out = torch.empty_like(a)
    work = 2 * size**3 * count / 1e12

    def start_on_cpu() -> Callable[[], float]:
        begin = time.perf_counter()
        torch.mm(a, b, out=out)
        rate = work / (time.perf_counter() - begin)
        return lambda: rate

    def start_on_gpu() -> Callable[[], float]:
        with torch.cuda.device(device):
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in "be")
            begin.record()
            for _ in range(count):
                torch.mm(a, b, out=out)
            end.record()

        def wait() -> float:
            end.synchronize()
            return work / (begin.elapsed_time(end) / 1000)

        return wait

    return start_on_gpu if on_gpu else start_on_cpu
