"""GPU time by kind of kernel, and the rate of products that a chip reaches."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch

# The first pattern that a kernel's name matches names its part.
PARTS = (
    ("attention", r"flash|fmha|sdpa|attention"),
    ("products", r"gemm|nvjet|cutlass|xmma|cublas|_scaled_mm|wgmma|matmul"),
    ("communication", r"nccl"),
    ("compiled element-wise", r"^triton_"),
    ("copies and fills", r"memcpy|memset|copy_kernel|fill"),
    ("our kernels", r"^_[a-z0-9_]+$"),
    ("optimizer's element-wise", r"multi_tensor|foreach"),
)
SIDE = 8192
PRODUCTS = 20
LONGEST, WIDTH = 24, 90  # kernels that are listed, and characters of their names


def by_part(step: Callable[[], None]) -> dict[str, float]:
    """Milliseconds of the GPU's kernels in one ``step``, by part, and the longest kernels by name."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        step()
        torch.cuda.synchronize()
    parts: dict[str, float] = {}
    kernels: dict[str, float] = {}
    for event in profiler.events():
        ms = event.device_time_total / 1000
        if ms > 0:
            parts[part_of(event.name)] = parts.get(part_of(event.name), 0.0) + ms
            kernels[event.name[:WIDTH]] = kernels.get(event.name[:WIDTH], 0.0) + ms
    longest = dict(sorted(kernels.items(), key=lambda item: -item[1])[:LONGEST])
    ordered = dict(sorted(parts.items(), key=lambda item: -item[1]))
    return {**{f"{name}": round(ms, 3) for name, ms in ordered.items()},
            **{f"  {name}": round(ms, 3) for name, ms in longest.items()}}  # fmt: skip


def part_of(kernel: str) -> str:
    """The part that a kernel's name belongs to."""
    return next((part for part, pattern in PARTS if re.search(pattern, kernel, re.IGNORECASE)), "other")


def product_rate(device: torch.device) -> float:
    """FLOP/s of bf16 products of 8192 x 8192 matrices."""
    a, b = (torch.randn(SIDE, SIDE, device=device, dtype=torch.bfloat16) for _ in range(2))
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    for _ in range(3):
        a @ b
    begin.record()
    for _ in range(PRODUCTS):
        a @ b
    end.record()
    torch.cuda.synchronize()
    return 2.0 * SIDE**3 * PRODUCTS / (begin.elapsed_time(end) / 1000)
