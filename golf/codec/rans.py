"""Interleaved rANS over the columns of matrices: the decoder, and the tables that both sides share. Integers only.

Lanes are columns: one numpy step codes a row. A lane's state is a 48-bit integer, renormalised by 16 bits, and lives on
from matrix to matrix; probabilities have 16 bits. (32-bit states would lose 0.13 % to rounding: Duda 2013 bounds it by
the ratio of state to probability.) The context of a symbol is the mean square of what its column held so far.

A symbol m stands at the point ``n = 2 m + offset`` of a grid of half steps, with the offset 0, or 0 and 1 in turn where
a trellis says so (:mod:`golf.quant.trellis`). docs/artifact-format.md has the format byte by byte.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isqrt

import numpy as np

from golf.quant.trellis import PARITY_CHECKS, trellis

LOW = 1 << 32  # a state is at least this, and below 2^48
SLOTS = 1 << 16  # probabilities are multiples of 1 / SLOTS
FIELDS = 5  # bytes that describe a matrix
MAX_LANES, MAX_ROWS, MAX_MATRICES = 1 << 16, 1 << 20, 1 << 10  # bound the time and the memory a stream can ask for
MAX_BIN, MAX_SPAN = 144, 32
MAX_KNOTS, MAX_MASS = 64, 245_760  # scale(127): no sum of them overflows


@dataclass(frozen=True)
class Tables:
    """What a symbol costs in each context: bin of the column's energy, then offset."""

    bins: np.ndarray  # int64, by energy: the context's number times SLOTS; what lies beyond has the last one
    symbols: np.ndarray  # uint8, by context and slot
    ranges: np.ndarray  # int64, by context and symbol (of 256): frequency << 16 | first slot
    energies: np.ndarray  # int64, by context and symbol: 16 n^2


def scale(j: np.ndarray | int) -> np.ndarray:
    """0 to 8 by ones, then eight values an octave: how energies, weights, shapes and their knots are written."""
    j = np.asarray(j, np.int64)
    return np.where(j < 8, j, 8 + j % 8 << np.maximum(j // 8 - 1, 0))


def cumulative(shape: np.ndarray, offsets: int, mean: int, span: int, reach: int) -> np.ndarray:
    """First slots of a matrix's symbols, and the end of the last's: 0 to :data:`SLOTS`, ascending.

    Args:
        shape: (K,) integers, masses of ``|n| / sigma`` between the knots ``scale(0..K) / 8``; nothing lies beyond.
        offsets: 1, or 2 with a trellis.
        mean: bin of the matrix's own energy.
        span: bins on either side of it.
        reach: symbols lie in [-reach, reach), 1 to 128.

    Returns:
        (bins, offsets, 2 reach + 1) int64.
    """
    bins = np.arange(max(mean - span, 0), mean + span + 1)
    centres = (scale(bins) + scale(bins + 1) + 1) // 2
    sigma = np.array([isqrt(int(centre) << 16) for centre in centres])[:, None, None]
    points = 2 * np.arange(-reach, reach + 1) + np.arange(offsets)[:, None] - 1  # where the symbols' cells begin
    places = (np.abs(points) << 19) // sigma
    below = np.zeros_like(places)
    knots = scale(np.arange(len(shape) + 1)) << 6
    for mass, start, stop in zip(shape, knots, knots[1:], strict=False):
        below += mass * np.clip(places - start, 0, stop - start) // (stop - start)
    total = shape.sum()
    mass_until = total + np.sign(points) * below
    mass_until[..., 0], mass_until[..., -1] = 0, 2 * total  # the ends take what lies beyond them
    return mass_until * (SLOTS - 2 * reach) // (2 * total) + np.arange(2 * reach + 1)  # no symbol is without a slot


def make_tables(first: np.ndarray, mean: int, span: int, reach: int) -> Tables:
    """Tables of one matrix, from :func:`cumulative` of its parameters."""
    bins, offsets, _ = first.shape
    symbols = np.arange(-reach, reach)
    frequencies = np.diff(first).reshape(-1, 2 * reach)
    ranges, energies = np.zeros((2, len(frequencies), 256), np.int64)
    ranges[:, symbols] = frequencies << 16 | first[..., :-1].reshape(frequencies.shape)
    energies[:, symbols] = np.tile(16 * (2 * symbols + np.arange(offsets)[:, None]) ** 2, (bins, 1))
    starts = scale(np.arange(mean + span + 2 - bins, mean + span + 2))  # of the bins after each
    return Tables(
        bins=np.repeat(np.arange(bins) * offsets * SLOTS, np.diff(starts, prepend=0)),
        symbols=np.repeat(np.tile(symbols.astype(np.uint8), len(frequencies)), frequencies.reshape(-1)),
        ranges=ranges.reshape(-1),
        energies=energies.reshape(-1),
    )


def decode(coded: bytes | memoryview, model: bytes, sizes: Sequence[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Symbols of all matrices, and what the lanes carried.

    Args:
        coded: states, then 16-bit words.
        model: as :func:`parse` takes it.
        sizes: (rows, columns) of each matrix.

    Returns:
        (N,) uint8, the matrices one after the other in row-major order; (L,) uint32.

    Raises:
        ValueError: the stream is damaged.
    """
    states, shapes, fields = parse(model, len(sizes))
    offset, successor = trellis(states) if states else (np.zeros(1, np.int64), np.zeros((1, 2), np.int64))
    offset, successor = offset * SLOTS, successor.reshape(-1)
    lanes = max(columns for _, columns in sizes)
    halves = np.frombuffer(coded, "<u2", (len(coded) - 6 * lanes) // 2, 6 * lanes)
    x = np.frombuffer(coded, "<u2", 3 * lanes).reshape(3, lanes).astype(np.int64)
    x = x[0] | x[1] << 16 | x[2] << 32
    out = np.empty(sum(rows * columns for rows, columns in sizes), np.uint8)
    start = word = 0
    for (rows, columns), (shape, mean, weight, span, reach) in zip(sizes, fields, strict=True):
        tables = make_tables(cumulative(shapes[shape], 1 + bool(states), mean, span, reach), mean, span, reach)
        known = int(scale(weight))
        sums = np.full(columns, known * int(scale(mean) + scale(mean + 1)) // 2)
        state = np.zeros(columns, np.int64)
        for count in range(known, known + rows):
            lane = x[:columns]
            context = tables.bins.take(sums // count, mode="clip")
            if states:
                context += offset.take(state)
            slot = lane & 0xFFFF
            symbol = tables.symbols.take(context | slot)
            entry = context >> 8 | symbol
            found = tables.ranges.take(entry)
            lane = (found >> 16) * (lane >> 16) + slot - (found & 0xFFFF)
            short = (lane < LOW).nonzero()[0]
            if word + len(short) > len(halves):
                raise ValueError("it ends early")
            lane[short] = lane[short] << 16 | halves[word : word + len(short)]
            word += len(short)
            x[:columns] = lane
            sums += tables.energies.take(entry)
            if states:
                state = successor.take(2 * state | symbol & 1)
            out[start : start + columns] = symbol
            start += columns
    if word != len(halves) or np.any(x >> 32 != 1):
        raise ValueError("its lanes do not end as they began")
    return out, (x & 0xFFFFFFFF).astype(np.uint32)


def parse(model: bytes, matrices: int) -> tuple[int, list[np.ndarray], np.ndarray]:
    """States of the trellis (0: none), shapes, and (matrices, 5) shape, mean, weight, span and reach.

    Raises:
        ValueError: it says what no encoder writes.
    """
    states, count = model[0], model[1]
    shapes, start = [], 2
    for _ in range(count):
        shapes.append(scale(np.frombuffer(model, np.uint8, model[start], start + 1)))
        start += 1 + model[start]
    fields = np.frombuffer(model, np.uint8, offset=start).reshape(FIELDS, matrices).T.astype(np.int64)
    shape, mean, weight, span, reach = fields.T
    good = (shape < count) & (mean + span <= MAX_BIN) & (weight > 0) & (span <= MAX_SPAN) & (reach > 0) & (reach <= 128)
    small = all(len(masses) <= MAX_KNOTS and 0 < masses.max(initial=0) <= MAX_MASS for masses in shapes)
    if (states and states not in PARITY_CHECKS) or not good.all() or not small:
        raise ValueError("its tables are none")
    return states, shapes, fields
