"""For :mod:`golf.codec.report`: the smallest of what was tried, and nothing of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class StreamReport:
    """There is none."""


class Tried:
    """What was tried for a group of arrays: the fewest bytes."""

    coded: bytes | None = None

    def add(self, codec: str, layout: str, coded: bytes, seconds: float) -> None:
        """``coded`` is what a codec made of a layout."""
        if self.coded is None or len(coded) < len(self.coded):
            self.codec, self.layout, self.coded = codec, layout, coded


def note_shared(tried: Sequence[Tried], sizes: Mapping[int, float], seconds: Mapping[int, float]) -> None:
    """Nobody asks for it."""


def reports_of(
    groups: Any, arrays: Any, tried: Sequence[Tried], shared: Any, shared_bytes: int, seconds: float
) -> list[StreamReport]:
    """None."""
    return []
