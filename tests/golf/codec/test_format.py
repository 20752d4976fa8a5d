"""docs/artifact-format.md is enough: a second decoder, written from its text alone, in integers of Python."""

import json
import lzma
from dataclasses import replace
from math import isqrt, prod
from typing import Any

import brotli
import numpy as np
import pytest
import torch
import zstandard

from golf.codec.container import encode
from golf.codec.model import encode_model
from golf.model.weights import tensor_groups
from golf.params.compress import Compress
from golf.quant.fast import quantize_fast, round_alone
from golf.quant.quantized import QuantizedModel, dequantize_model
from golf.quant.steps import Scheme
from tests.golf.quant import tiny

OCTAVE = [128, 140, 152, 166, 181, 197, 215, 235]
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


def unpacked(codec: str, stream: bytes, size: int) -> bytes:
    if codec == "brotli":
        return brotli.decompress(stream)
    if codec == "zstd":
        engine = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
        return engine.decompress(stream, max_output_size=size)
    if codec == "lzma":
        lc, lp, pb = stream[0] % 9, stream[0] // 9 % 5, stream[0] // 45
        window = min(max(size // 2, 1 << 16), 1 << 26)
        known = {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": window}
        return lzma.decompress(stream[1:], format=lzma.FORMAT_RAW, filters=[known])
    assert codec == "stored"
    return stream


def read(blob: bytes) -> tuple[Any, dict[str, Any]]:
    """Metadata and arrays, as lists, of an artifact."""
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
            item = np.dtype(specs[0][1]).itemsize
            total = sum(prod(shape) * item for _, _, shape in specs)
            data = unpacked(codec, stream, total)
            assert len(data) == total
            if layout == "split":
                data = b"".join(data[i :: total // item] for i in range(total // item))
            for name, dtype, shape in specs:
                count = prod(shape) * item
                array, data = np.frombuffer(data[:count], dtype), data[count:]
                arrays[name] = (array.reshape(shape[::-1]).T if layout == "column" else array.reshape(shape)).tolist()
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


def power(eighths: int) -> float:
    return OCTAVE[eighths % 8] * 2.0 ** (eighths // 8 - 7)


def weights(metadata: Any, arrays: dict[str, Any]) -> dict[str, np.ndarray]:
    """The weights of a model, in fp32; in fp64 until the one rounding."""
    states, found = metadata.get("trellis", 0), {}
    h0, h1 = CHECKS.get(states, (0, 0))
    for name, array in arrays.items():
        if name.endswith(".codes"):
            matrix = name.removesuffix(".codes")
            steps, exponents = arrays[matrix + ".steps"], arrays.get(matrix + ".columns", [0] * len(array[0]))
            logarithmic = isinstance(steps[0], int)
            state, rows = [0] * len(exponents), []
            for codes, step in zip(array, steps, strict=True):
                levels = [code + s % 2 / 2 for code, s in zip(codes, state, strict=True)]
                state = [
                    (s >> 1) ^ (s % 2 * (h0 >> 1)) ^ (m % 2 * (h1 >> 1)) for s, m in zip(state, codes, strict=True)
                ]
                size = power(step - 24 * 8) if logarithmic else step
                rows.append([level * size * power(2 * j) for level, j in zip(levels, exponents, strict=True)])
            found[matrix] = np.array(rows, np.float32)
        elif not name.endswith((".steps", ".columns")):
            found[name] = np.array(array, np.float32)
    return found


def model(scheme: Scheme | None) -> QuantizedModel:
    """By rows; or with every matrix as ``scheme`` says, and columns that have steps of their own."""
    groups = tensor_groups(tiny.model())
    torch.manual_seed(1)
    state = {name: value + torch.randn_like(value) for name, value in tiny.state().items()}
    plain = quantize_fast(state, groups, 6, 12.85, 8, 12.85, spec=tiny.SPEC)
    if scheme is None:
        return plain
    tensors = dict(plain.tensors)
    for name, group in groups.items():
        if group != "control":
            one = round_alone(state[name], scheme, name=name)
            tensors[name] = replace(one, columns=torch.randint(-9, 10, one.codes.shape[1:], dtype=torch.int8))
    return QuantizedModel(tiny.SPEC, tensors)


@pytest.mark.parametrize("scheme", [None, Scheme(6, 12.85, True), *(Scheme(5, 12.85, True, s) for s in CHECKS)])
@pytest.mark.parametrize("codecs", [("rans", "brotli"), ("lzma",), ("zstd",)])
def test_the_second_decoder_has_our_weights(scheme: Scheme | None, codecs: tuple[str, ...]) -> None:
    quantized = model(scheme)
    found = weights(*read(encode_model(quantized, Compress(codecs=codecs))[0]))
    expected = dequantize_model(quantized)
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].shape == tuple(weight.shape)
        assert (found[name] == weight.numpy()).all(), name
