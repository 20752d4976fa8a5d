"""How fast each attention implementation of this machine is; whether right: ``python -m benchmarks.attention``."""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch

from golf.model.attention import HOW_TO_GET, NAMES, choose_backend, implementation
from golf.runtime.errors import ConfigError

ON_GPU, ON_CPU = (16, 2048, 8, 4, 64), (2, 128, 4, 2, 16)  # rows, tokens, query heads, key/value heads, channels
WARM_UP, RUNS = 3, 10
REASON_LENGTH = 160  # characters


def speeds(wanted: str, device: torch.device) -> dict[str, Any]:
    """The implementation that a run takes here and why, and a row for each that there is.

    Args:
        wanted: ``hardware.attention``.
        device: where to run.

    Returns:
        ``chosen``, ``reason`` and ``rows``: each ``name`` with ``milliseconds`` and ``tflops``, or with ``missing`` and
        ``get``. On a GPU forward and backward, 12 FLOPs a pair that sees each other, head and channel; on a CPU, where
        there is nothing to choose, forward alone, 4: the first backward pass of a process costs half a second.

    Raises:
        ConfigError: the implementation that hardware.attention forces cannot run here.
    """
    chosen, reason = choose_backend(wanted, device)
    return {"chosen": chosen, "reason": reason, "rows": [_row(name, device) for name in NAMES if name != "flex"]}
    # flex is fast only when compiled, which takes longer than all of this


def _row(name: str, device: torch.device) -> dict[str, Any]:
    try:
        choose_backend(name, device)
    except ConfigError as error:
        obstacle = str(error).removeprefix(f"hardware.attention={name}: ").partition(". Try: ")[0]
        return {"name": name, "missing": obstacle, "get": HOW_TO_GET[name].removesuffix(", or hardware.attention=auto")}
    try:
        return {"name": name} | _measure(name, device)
    except Exception as error:  # of whatever kind a foreign kernel raises
        text = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return {"name": name, "missing": text[:REASON_LENGTH], "get": f"python -m benchmarks.attention --only {name}"}


def _measure(name: str, device: torch.device) -> dict[str, float]:
    on_gpu = device.type == "cuda"
    rows, tokens, heads, kv_heads, width = ON_GPU if on_gpu else ON_CPU
    dtype = torch.bfloat16 if on_gpu else torch.float32
    q, k, v = (
        torch.randn(rows, tokens, count, width, device=device, dtype=dtype, requires_grad=True)
        for count in (heads, kv_heads, kv_heads)
    )
    compute, flow = implementation(name), torch.randn_like(q)
    seconds = []
    for number in range(WARM_UP + RUNS):
        begin = time.perf_counter()
        y = compute(q, k, v, None)
        if on_gpu:
            torch.autograd.grad(y, (q, k, v), flow)
            torch.cuda.synchronize(device)
        if number >= WARM_UP:
            seconds.append(time.perf_counter() - begin)
    taken = statistics.median(seconds)
    flops = (12 if on_gpu else 4) * rows * (tokens * (tokens + 1) // 2) * heads * width
    return {"milliseconds": round(1000 * taken, 3), "tflops": round(flops / taken / 1e12, 3)}
