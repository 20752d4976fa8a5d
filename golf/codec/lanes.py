"""The matrices of an artifact that share one rANS stream: which can, and the stream's frame.

    2  bytes of the model as brotli has it      (little-endian, as every number)
    2  bytes of the model
       the model, see golf.codec.rans.parse
       6 bytes a lane: the states, all low halves of 16 bits first; then the words, 16 bits each

The lanes carry the beginning of what follows the stream: 4 bytes each ride in the states that the encoder begins with.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from golf.codec.codecs import decode as decode_stream
from golf.codec.rans import MAX_LANES, MAX_MATRICES, MAX_ROWS
from golf.codec.rans import decode as decode_lanes
from golf.codec.streams import ArraySpec, unlay
from golf.runtime.errors import DataError

RANS = "rans"
FRAME = struct.Struct("<HH")
STATE, CARRIED = 6, 4  # bytes a lane


def fits(specs: Sequence[ArraySpec]) -> bool:
    """Whether the coder takes these arrays: int8 matrices, not empty, within what bounds a decoder's time."""
    return (
        0 < len(specs) <= MAX_MATRICES
        and all(spec.dtype == "int8" and len(spec.shape) == 2 and 0 not in spec.shape for spec in specs)
        and lanes_of(specs) <= MAX_LANES
        and sum(spec.shape[0] for spec in specs) <= MAX_ROWS
    )


def lanes_of(specs: Sequence[ArraySpec]) -> int:
    """The greatest number of columns."""
    return max(spec.shape[1] for spec in specs)


def read(specs: Sequence[ArraySpec], coded: bytes | memoryview, where: str) -> tuple[list[np.ndarray], bytes]:
    """The matrices, and what the lanes carried: 4 bytes each.

    Raises:
        DataError: the stream is damaged.
    """
    size = FRAME.unpack_from(coded) if len(coded) >= FRAME.size else (len(coded), 0)
    states = FRAME.size + size[0]
    if len(coded) < states + STATE * lanes_of(specs) or (len(coded) - states) % 2:
        raise DataError(f"{where}: {len(coded):,} bytes do not hold {lanes_of(specs):,} lanes and their tables")
    model = decode_stream("brotli", coded[FRAME.size : states], size[1], where)
    try:
        symbols, carried = decode_lanes(coded[states:], bytes(model), [spec.shape for spec in specs])
    except (ValueError, IndexError) as error:
        raise DataError(f"{where}: not a rans stream of {sum(s.bytes for s in specs):,} bytes: {error}") from None
    return unlay(specs, symbols, "row")[0], carried.astype("<u4").tobytes()
