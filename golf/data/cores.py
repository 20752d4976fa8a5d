"""How many cores there are to use."""

from __future__ import annotations

import os


def available_cores() -> int:
    """Cores that this process may use: a container's or a scheduler's share, where the system tells."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
