"""For :mod:`golf.train.flops`: no device's peak is known."""

from __future__ import annotations

from typing import Any


def peak_flops(name: str) -> None:
    """Not known, so that no utilisation is told."""


def count_work(model: Any) -> None:
    """Nothing asks for it where no peak is known."""
