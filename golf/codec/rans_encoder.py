"""Interleaved rANS, the encoder: what each matrix is told by (:mod:`golf.codec.rans`), and the states and words.

The shapes are fitted in floating point, here only: what ships is integers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from golf.codec.rans import LOW, MAX_BIN, MAX_SPAN, cumulative, make_tables, scale
from golf.quant.trellis import trellis

BLOCK = 64  # rows measured at a time: they stay in the cache
KNOTS = 48  # up to 32 deviations
ROUNDS = 12  # of expectation maximisation; the first few give nearly all
SHAPE_BYTES = 40  # about what one more shape costs; a matrix that gains less takes another's
MAX_SHAPES = 255


@dataclass(frozen=True)
class Matrix:
    """A matrix as the coder sees it: all but its shape."""

    entries: np.ndarray  # uint16 (R, C): context and symbol
    counts: np.ndarray  # int64 (bins, offsets, 256): how often each stands there
    mean: int
    weight: int
    span: int
    reach: int

    @property
    def conditional_bytes(self) -> float:
        """Empirical entropy given the context."""
        totals = np.broadcast_to(self.counts.sum(-1, keepdims=True), self.counts.shape)
        seen = self.counts > 0
        return float((self.counts[seen] * np.log2(totals[seen] / self.counts[seen])).sum() / 8)

    def size(self, shape: np.ndarray) -> float:
        """What the matrix takes when coded with ``shape``."""
        first = cumulative(scale(shape), self.counts.shape[1], self.mean, self.span, self.reach)
        found = self.counts[..., np.arange(-self.reach, self.reach)]
        return float((found * (16 - np.log2(np.diff(first)))).sum() / 8)


def measure(symbols: np.ndarray, states: int) -> Matrix:
    """What the coder tells of a matrix of symbols.

    Args:
        symbols: (R, C) int8, neither dimension 0.
        states: of the trellis that they belong to; 0: none.
    """
    offset, offsets = _offsets(symbols, states), 2 if states else 1
    points = symbols.view(np.uint8) + (offset.astype(np.uint16) << 8)
    levels = 2 * np.arange(256).astype(np.int8).astype(np.int64) + np.arange(offsets)[:, None]
    squares = (16 * levels**2).reshape(-1)
    sums = sum(squares.take(points[start : start + BLOCK]).sum(axis=0) for start in range(0, len(points), BLOCK))
    fourth = float(np.bincount(points.reshape(-1), minlength=len(squares)) @ squares.astype(np.float64) ** 2)
    mean = int(_bin_of(np.array(int(sums.sum()) // symbols.size), MAX_BIN))
    prior = _prior_weight(sums / len(points), fourth / symbols.size, len(points))
    weight = int(_bin_of(np.array(prior), 255))
    bins = _bins(squares, points, mean, weight)
    span = min(max(int(bins.max()) - mean, mean - int(bins.min())), MAX_SPAN, MAX_BIN - mean)
    low = max(mean - span, 0)
    np.clip(bins, low, mean + span, out=bins)
    entries = (bins - np.uint8(low)).astype(np.uint16) * (256 * offsets)
    entries += points
    extent = (mean + span + 1 - low, offsets, 256)
    counts = np.bincount(entries.reshape(-1), minlength=np.prod(extent)).reshape(extent)
    reach = max(1, -int(symbols.min()), int(symbols.max()) + 1)
    return Matrix(entries, counts, mean, weight, span, reach)


def _bins(squares: np.ndarray, points: np.ndarray, mean: int, weight: int) -> np.ndarray:
    """The bin of each column's energy as the decoder knows it before a row: (R, C) uint8."""
    known = int(scale(weight))
    sums = np.full(points.shape[1], known * int(scale(mean) + scale(mean + 1)) // 2)
    bins = np.empty(points.shape, np.uint8)
    for start in range(0, len(points), BLOCK):
        own = squares.take(points[start : start + BLOCK])
        until = np.cumsum(own, axis=0) + sums
        sums = until[-1].copy()
        until -= own
        until //= known + start + np.arange(len(until))[:, None]
        bins[start : start + BLOCK] = _bin_of(until, MAX_BIN)
    return bins


def fit_shapes(matrices: Sequence[Matrix]) -> tuple[list[np.ndarray], list[int]]:
    """Shapes, as codes of :func:`golf.codec.rans.scale`, and which of them each matrix takes.

    The largest matrix has its own; the others, by size, take the best there is unless one of their own saves more
    than it costs. In the end every shape is fitted to all that take it.
    """
    shapes: list[np.ndarray] = []
    choice = [0] * len(matrices)
    for i in sorted(range(len(matrices)), key=lambda i: -matrices[i].entries.size):
        own = _fit([matrices[i]])
        costs = [matrices[i].size(shape) for shape in shapes]
        best = min(costs, default=float("inf"))
        if len(shapes) < MAX_SHAPES and matrices[i].size(own) + SHAPE_BYTES < best:
            shapes.append(own)
            choice[i] = len(shapes) - 1
        else:
            choice[i] = costs.index(best)
    users = [[matrices[i] for i in range(len(matrices)) if choice[i] == number] for number in range(len(shapes))]
    return [_fit(group) for group in users], choice


def describe(states: int, matrices: Sequence[Matrix], shapes: Sequence[np.ndarray], choice: Sequence[int]) -> bytes:
    """What :func:`golf.codec.rans.parse` reads."""
    parts = [bytes([states, len(shapes)])]
    parts += [bytes([len(shape)]) + shape.astype(np.uint8).tobytes() for shape in shapes]
    fields = [choice, *([getattr(m, name) for m in matrices] for name in ("mean", "weight", "span", "reach"))]
    return b"".join((*parts, *map(bytes, fields)))


def encode(
    matrices: Sequence[Matrix], shapes: Sequence[np.ndarray], choice: Sequence[int], carried: np.ndarray
) -> bytes:
    """The lanes' states and words.

    Args:
        matrices: in the decoder's order.
        shapes: see :func:`fit_shapes`.
        choice: see :func:`fit_shapes`.
        carried: (L,) uint32, which the decoder finds in the lanes at the end; L is the greatest number of columns.
    """
    x = LOW + carried.astype(np.int64)
    words: list[np.ndarray] = []
    for matrix, number in zip(reversed(matrices), reversed(choice), strict=True):
        told = matrix.mean, matrix.span, matrix.reach
        ranges = make_tables(cumulative(scale(shapes[number]), matrix.counts.shape[1], *told), *told).ranges
        columns = matrix.entries.shape[1]
        for row in matrix.entries[::-1]:
            found = ranges.take(row)
            frequency = found >> 16
            lane = x[:columns]
            full = (lane >= frequency << 32).nonzero()[0]
            words.append(lane[full].astype("<u2"))
            lane[full] >>= 16
            quotient = lane // frequency
            # lane % frequency + first + quotient * 65536, with one multiplication
            x[:columns] = quotient * (65536 - frequency) + lane + (found & 0xFFFF)
    states = np.stack((x, x >> 16, x >> 32)).astype("<u2")
    return states.tobytes() + b"".join(chunk.tobytes() for chunk in reversed(words))


def _bin_of(values: np.ndarray, limit: int) -> np.ndarray:
    """The largest j up to ``limit`` with ``scale(j) <= value``."""
    starts = scale(np.arange(limit + 2))
    top = min(int(values.max()) + 1, int(starts[limit]) + 1)
    stops = np.minimum(starts[1:], top)
    return np.repeat(np.arange(limit + 1), np.diff(stops, prepend=0)).take(values, mode="clip")


def _offsets(symbols: np.ndarray, states: int) -> np.ndarray:
    if not states:
        return np.zeros((1, 1), np.int64)
    offset, successor = trellis(states)
    found = np.empty(symbols.shape, np.int64)
    state = np.zeros(symbols.shape[1], np.int64)
    for row, parity in zip(found, symbols & 1, strict=True):
        offset.take(state, out=row)
        state = successor.reshape(-1).take(2 * state + parity)
    return found


def _prior_weight(means: np.ndarray, fourth: float, rows: int) -> int:
    """How many rows the matrix's mean counts for when a column's own energy is learnt.

    With v the variance of the columns' true energies and k that of a square about its column's, both relative to the
    squared mean, the linear estimate of least error weighs the mean as k / v rows.

    Args:
        means: (C,) mean squares of the columns.
        fourth: mean of the squared squares.
        rows: that the means are over.
    """
    if len(means) == 1 or not fourth:
        return 1
    within = fourth / float((means**2).mean()) - 1
    between = float(means.var() / means.mean() ** 2) - within / rows
    return int(np.clip(within / max(between, 1e-4), 2, 4096))


def _fit(matrices: Sequence[Matrix]) -> np.ndarray:
    """The shape that makes what the matrices hold most likely, as codes: expectation maximisation over the knots."""
    overlaps, counts = map(np.concatenate, zip(*map(_cells, matrices), strict=True))
    masses = counts @ overlaps
    for _ in range(ROUNDS):
        masses *= (counts / np.maximum(overlaps @ masses, 1e-12)) @ overlaps
        masses /= masses.sum()
    levels = scale(np.arange(128))
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, masses / masses.max() * levels[-1])
    return codes[: np.flatnonzero(codes)[-1] + 1]


def _cells(matrix: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Of each bin and level that occurs: the share of each knot's mass that falls there, and how often it occurs."""
    bins, offset, symbol = np.nonzero(matrix.counts)
    level = 2 * symbol.astype(np.uint8).view(np.int8).astype(np.int64) + offset
    energies = bins + max(matrix.mean - matrix.span, 0)
    sigma = np.sqrt((scale(energies) + scale(energies + 1)) / 2) / 4
    knots = scale(np.arange(KNOTS + 1)) / 8
    edges = (level + np.array([[-1], [1]])) / sigma
    below = np.clip(np.abs(edges)[..., None] - knots[:-1], 0, np.diff(knots)) / np.diff(knots)
    low, high = np.sign(edges)[..., None] * below
    return (high - low) / 2, matrix.counts[bins, offset, symbol].astype(np.float64)
