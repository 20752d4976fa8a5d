"""From arrays to streams and back: which arrays are coded together, and in which order their bytes stand."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from golf.runtime.errors import DataError

DTYPES = tuple(
    f"{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64) if (kind, bits) != ("float", 8)
)
LAYOUTS = ("row", "column", "split")
MAX_DIMENSIONS = 8
# Arrays below this share a stream with those whose names differ only in numbers: one codec header, one checksum and
# one set of statistics for all of them. Above it every array's own statistics gain more than that costs.
SHARED_BELOW = 16_384
# A stream that would be smaller than this joins the other small ones of its dtype: its index entry would cost more.
SMALL = 1024


@dataclass(frozen=True)
class ArraySpec:
    """What the index says of an array."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def itemsize(self) -> int:
        """Bytes an item."""
        return int(np.dtype(self.dtype).itemsize)

    @property
    def bytes(self) -> int:
        """Bytes of the array."""
        return prod(self.shape) * self.itemsize


def spec_of(name: str, array: np.ndarray) -> ArraySpec:
    """The index entry of ``array``.

    Raises:
        DataError: the container has no such dtype, or the array has too many dimensions.
    """
    if array.dtype.name not in DTYPES or array.ndim > MAX_DIMENSIONS:
        raise DataError(
            f"array {name}: found {array.dtype.name} with {array.ndim} dimensions, "
            f"needed one of {', '.join(DTYPES)} with at most {MAX_DIMENSIONS}"
        )
    return ArraySpec(name, array.dtype.name, tuple(map(int, array.shape)))


def plan(specs: Sequence[ArraySpec]) -> list[list[ArraySpec]]:
    """Group arrays into streams, in order of first appearance."""
    groups: dict[tuple[object, ...], list[ArraySpec]] = {}
    for spec in specs:
        alone = spec.bytes >= SHARED_BELOW
        kind = (spec.dtype, len(spec.shape) == 2)
        groups.setdefault((spec.name,) if alone else (_pattern(spec), *kind), []).append(spec)
    streams: dict[tuple[object, ...], list[ArraySpec]] = {}
    for key, group in groups.items():
        small = sum(spec.bytes for spec in group) < SMALL
        streams.setdefault(key[1:] if small else key, []).extend(group)
    return list(streams.values())


def stream_name(specs: Sequence[ArraySpec]) -> str:
    """The array's name, or the names' common pattern, or how many there are."""
    if len(specs) == 1:
        return specs[0].name
    patterns = {_pattern(spec) for spec in specs}
    return patterns.pop() if len(patterns) == 1 else f"{len(specs)} small {specs[0].dtype}"


def _pattern(spec: ArraySpec) -> str:
    return re.sub(r"\d+", "*", spec.name)


def in_rows(array: np.ndarray) -> np.ndarray:
    """``array`` contiguous in row-major order, little-endian: copied only where it is not."""
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<"))


def layouts_of(specs: Sequence[ArraySpec], layouts: Sequence[str]) -> list[str]:
    """Those of ``layouts`` that can differ from ``row`` here; ``row`` itself when none of them can."""
    able = {"row": True}
    able["column"] = all(len(spec.shape) == 2 for spec in specs) and any(min(spec.shape) > 1 for spec in specs)
    able["split"] = specs[0].itemsize > 1
    return [layout for layout in layouts if able[layout]] or ["row"]


def lay(specs: Sequence[ArraySpec], arrays: Mapping[str, np.ndarray], layout: str) -> bytes:
    """The bytes of a stream: its arrays one after the other, in ``layout``."""
    if layout == "column":
        return b"".join(in_rows(arrays[spec.name].T).tobytes() for spec in specs)
    data = b"".join(in_rows(arrays[spec.name]).tobytes() for spec in specs)
    if layout == "split":
        data = np.frombuffer(data, np.uint8).reshape(-1, specs[0].itemsize).T.tobytes()
    return data


def unlay(specs: Sequence[ArraySpec], data: np.ndarray, layout: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Invert :func:`lay`: the arrays whose bytes ``data`` (uint8) holds row by row, and views of it to be filled one
    after the other with the bytes of a stream in ``layout``.
    """
    arrays, places, start = [], [data], 0
    for spec in specs:
        items = data[start : start + spec.bytes].view(np.dtype(spec.dtype).newbyteorder("<"))
        arrays.append(items.reshape(spec.shape))
        start += spec.bytes
    if layout == "split":
        places = [data.reshape(-1, specs[0].itemsize).T]
    elif layout == "column":
        places = [array[..., None].view(np.uint8).swapaxes(0, 1) for array in arrays]
    return arrays, places


def entropy_bytes(array: np.ndarray) -> float:
    """Order-0 empirical entropy in bytes: of the items where they are bytes, else of each byte of a word apart."""
    columns = in_rows(array).view(np.uint8).reshape(-1, array.dtype.itemsize)
    bits = 0.0
    for i in range(columns.shape[1]):
        counts = np.bincount(columns[:, i], minlength=256)
        counts = counts[counts > 0]
        bits -= float((counts * np.log2(counts / counts.sum())).sum())
    return bits / 8
