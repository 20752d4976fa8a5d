"""For :mod:`golf.train.diagnose`: what happened, without where to look."""

from __future__ import annotations

from typing import Any


def diagnosis(run: Any, error: Exception) -> str:
    """Nothing more than the error says."""
    return ""
