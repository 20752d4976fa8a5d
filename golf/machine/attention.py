"""How fast each attention implementation of this machine is; whether right: ``python -m benchmarks.attention``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from golf.model.attention import HOW_TO_GET, NAMES, Documents, choose_backend, implementation, prepare
from golf.runtime.errors import ConfigError

ON_GPU, ON_CPU = (32, 2048, 8, 4, 64), (2, 128, 4, 2, 16)  # rows, tokens, query heads, key/value heads, channels
DOCUMENT = 512  # tokens, where attention stays within documents; pages of FineWeb have 750 on average (8,192 ids)
WARM_UP, RUNS = 3, 10
REASON_LENGTH = 160  # characters


def speeds(wanted: str, device: torch.device, *, masked: bool) -> dict[str, Any]:
    """The implementation that a run takes here and why, and a row for each that there is.

    Args:
        wanted: ``hardware.attention``.
        device: where to run.
        masked: whether attention stays within documents, ``model.document_mask``: what is fast on whole rows may
            then be the slowest by far.

    Returns:
        ``chosen``, ``reason`` and ``rows``: each ``name`` with ``milliseconds`` and ``tflops``, or with ``missing`` and
        ``get``. On a GPU forward and backward, 12 FLOPs a pair that sees each other, head and channel; on a CPU, where
        there is nothing to choose, forward alone, 4: the first backward pass of a process costs half a second.

    Raises:
        ConfigError: the implementation that hardware.attention forces cannot run here.
    """
    chosen, reason = choose_backend(wanted, device)
    names = [name for name in NAMES if name != "flex"]  # fast only when compiled, which takes longer than all of this
    return {"chosen": chosen, "reason": reason, "rows": [_row(name, device, masked) for name in names]}


def _row(name: str, device: torch.device, masked: bool) -> dict[str, Any]:
    try:
        choose_backend(name, device)
    except ConfigError as error:
        obstacle = str(error).removeprefix(f"hardware.attention={name}: ").partition(". Try: ")[0]
        return {"name": name, "missing": obstacle, "get": HOW_TO_GET[name].removesuffix(", or hardware.attention=auto")}
    try:
        return {"name": name} | _measure(name, device, masked)
    except Exception as error:  # of whatever kind a foreign kernel raises
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return {"name": name, "missing": text[:REASON_LENGTH], "get": f"python -m benchmarks.attention --only {name}"}


def _measure(name: str, device: torch.device, masked: bool) -> dict[str, float]:
    on_gpu = device.type == "cuda"
    rows, tokens, heads, kv_heads, width = ON_GPU if on_gpu else ON_CPU
    dtype = torch.bfloat16 if on_gpu else torch.float32
    q, k, v = (
        torch.randn(rows, tokens, count, width, device=device, dtype=dtype, requires_grad=True)
        for count in (heads, kv_heads, kv_heads)
    )
    length = min(DOCUMENT, tokens) if masked else tokens
    starts = torch.arange(0, rows * tokens + 1, length, dtype=torch.int32, device=device)
    documents = prepare(name, Documents(starts, length) if masked else None, rows, tokens)
    compute, flow = implementation(name), torch.randn_like(q)

    def run() -> None:
        y = compute(q, k, v, documents)
        if on_gpu:
            torch.autograd.grad(y, (q, k, v), flow)

    taken = _seconds_on_gpu(run) if on_gpu else _seconds(run)
    flops = (12 if on_gpu else 4) * rows * tokens * (length + 1) // 2 * heads * width
    return {"milliseconds": round(1000 * taken, 3), "tflops": round(flops / taken / 1e12, 3)}


def _seconds(run: Callable[[], None]) -> float:
    """The median of single runs."""
    taken = []
    for _ in range(WARM_UP + RUNS):
        begin = time.perf_counter()
        run()
        taken.append(time.perf_counter() - begin)
    return statistics.median(taken[WARM_UP:])


def _seconds_on_gpu(run: Callable[[], None]) -> float:
    """The mean of runs that are queued together: waited for one by one, the host's launches would count."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for number in range(WARM_UP + RUNS):
        if number == WARM_UP:
            begin.record()
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1000 / RUNS
