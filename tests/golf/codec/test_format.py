"""docs/artifact-format.md is enough: a second decoder, written from its text alone, in integers of Python."""

import json
from math import isqrt
from typing import Any

import brotli
import numpy as np
import pytest

from golf.codec.container import encode

CHECKS = {4: (0o5, 0o2), 8: (0o13, 0o4), 16: (0o23, 0o4), 32: (0o45, 0o10)}


def number(data: bytes) -> int:
    return int.from_bytes(data, "little")


def scale(j: int) -> int:
    return j if j < 8 else (8 + j % 8) << (j // 8 - 1)


def first_slots(shape: bytes, b: int, o: int, reach: int) -> list[int]:
    sigma = isqrt(((scale(b) + scale(b + 1) + 1) // 2) << 16)
    t = [scale(k) << 6 for k in range(len(shape) + 1)]
    total = sum(map(scale, shape))
    slots = []
    for m in range(-reach, reach + 1):
        p = 2 * m + o - 1
        place = (abs(p) << 19) // sigma
        below = sum(
            scale(q) * min(max(place - t[k], 0), t[k + 1] - t[k]) // (t[k + 1] - t[k]) for k, q in enumerate(shape)
        )
        f = {-reach: 0, reach: 2 * total}.get(m, total + (below if p > 0 else -below))
        slots.append(f * (65536 - 2 * reach) // (2 * total) + m + reach)
    return slots


def rans(coded: bytes, shapes: list[list[int]]) -> tuple[list[list[list[int]]], bytes]:
    packed = number(coded[:2])
    model, states = brotli.decompress(coded[4 : 4 + packed]), coded[4 + packed :]
    assert len(model) == number(coded[2:4])
    s, count, *_ = model
    at, laws = 2, []
    for _ in range(count):
        laws.append(model[at + 1 : at + 1 + model[at]])
        at += 1 + model[at]
    fields = [model[at + i * len(shapes) : at + (i + 1) * len(shapes)] for i in range(5)]
    lanes = max(columns for _, columns in shapes)
    halves = [number(states[i : i + 2]) for i in range(0, len(states), 2)]
    x = [halves[i] | halves[lanes + i] << 16 | halves[2 * lanes + i] << 32 for i in range(lanes)]
    words = iter(halves[3 * lanes :])
    h0, h1 = CHECKS.get(s, (0, 0))
    matrices = []
    for (rows, columns), law, mean, weight, span, reach in zip(shapes, *fields, strict=True):
        low, high = max(mean - span, 0), mean + span
        slots = {(b, o): first_slots(laws[law], b, o, reach) for b in range(low, high + 1) for o in range(1 + (s > 0))}
        sums = [scale(weight) * (scale(mean) + scale(mean + 1)) // 2] * columns
        state, matrix = [0] * columns, []
        for i in range(rows):
            row = []
            for c in range(columns):
                energy, o = sums[c] // (scale(weight) + i), state[c] % 2
                first = slots[max((b for b in range(low, high + 1) if scale(b) <= energy), default=low), o]
                slot = x[c] % 65536
                k = max(k for k in range(2 * reach) if first[k] <= slot)
                x[c] = (first[k + 1] - first[k]) * (x[c] >> 16) + slot - first[k]
                if x[c] < 1 << 32:
                    x[c] = x[c] << 16 | next(words)
                m = k - reach
                sums[c] += 16 * (2 * m + o) ** 2
                state[c] = (state[c] >> 1) ^ (o * (h0 >> 1)) ^ (m % 2 * (h1 >> 1))
                row.append(m)
            matrix.append(row)
        matrices.append(matrix)
    assert next(words, None) is None
    return matrices, b"".join((u - (1 << 32)).to_bytes(4, "little") for u in x)


def read(blob: bytes) -> tuple[Any, dict[str, Any]]:
    """Metadata and arrays, as lists, of an artifact with ``rans`` and ``stored`` streams."""
    coded = blob[18 : 18 + number(blob[6:10])]
    header = json.loads(coded if blob[5] == 0 else brotli.decompress(coded))
    rest, arrays = blob[18 + len(coded) :], {}
    for i, (codec, layout, size, _, specs) in enumerate(header["streams"]):
        stream, rest = rest[:size], rest[size:]
        if codec == "rans":
            matrices, carried = rans(stream, [shape for _, _, shape in specs])
            follow = sum(entry[2] for entry in header["streams"][i + 1 :])
            assert not any(carried[follow:])
            rest = carried[:follow] + rest
            arrays.update({name: matrix for (name, _, _), matrix in zip(specs, matrices, strict=True)})
        else:
            assert (codec, layout) == ("stored", "row")
            for name, dtype, shape in specs:
                count = int(np.prod(shape)) * np.dtype(dtype).itemsize
                arrays[name], stream = np.frombuffer(stream[:count], dtype).reshape(shape).tolist(), stream[count:]
    assert not rest
    return header["metadata"], arrays


@pytest.mark.parametrize("trellis", [0, *CHECKS])
@pytest.mark.parametrize("scales", [3, 500])  # fewer bytes than the lanes carry, and more
def test_the_second_decoder_reads_what_ours_wrote(trellis: int, scales: int) -> None:
    random = np.random.default_rng(trellis)
    arrays: dict[str, np.ndarray] = {
        "a.codes": random.normal(0, 2.4, (90, 32)).round().astype(np.int8),
        "a.steps": random.random(scales).astype(np.float16),
        "b.codes": random.normal(0, np.linspace(0.1, 9, 48), (60, 48)).round().astype(np.int8),
        "c.codes": random.integers(-3, 4, (70, 16)).astype(np.int8),
    }
    metadata = {"trellis": trellis}
    blob, reports = encode(metadata, arrays, ["rans"], trellis=trellis)
    assert sum(report.codec == "rans" for report in reports) > 1
    assert read(blob) == (metadata, {name: array.tolist() for name, array in arrays.items()})
