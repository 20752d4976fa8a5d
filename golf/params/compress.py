"""Lossless coding of the quantised weights."""

from dataclasses import dataclass
from typing import ClassVar

from golf.params.base import Section


@dataclass(frozen=True)
class Compress(Section):
    """Every codec is tried on every layout of every stream; the smallest is kept."""

    SECTION: ClassVar[str] = "compress"

    codecs: tuple[str, ...] = ("rans", "brotli", "lzma", "zstd")  # rans: int8 matrices, in one stream that they share
    layouts: tuple[str, ...] = ("row", "column", "split")  # row-major, column-major, bytes of a word apart

    def __post_init__(self) -> None:
        for key, known in (("codecs", {"rans", "brotli", "lzma", "zstd"}), ("layouts", {"row", "column", "split"})):
            value = getattr(self, key)
            self.require(bool(value) and set(value) <= known, key, f"some of {sorted(known)}", f"[{min(known)}]")
