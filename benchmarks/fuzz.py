"""Damaged artifacts against the decoder: each must be refused with one DataError, soon, and in little memory.

    python -m benchmarks.fuzz                 # 60 seconds
    python -m benchmarks.fuzz --seconds 600   # writes benchmarks/results/fuzz.json

Artifacts with every codec are truncated, extended, flipped, overwritten and spliced; headers and the model of the rANS
stream are changed behind a right checksum, so that what stands behind it is tried too. A case that is neither
refused nor (where no checksum was made for it) decoded to the arrays that went in, that takes over 10 seconds, or over
twice the bytes that it declares and 32 MB for tables and one piece, ends the run with the seed that makes it.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import time
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from golf.codec.checksum import crc32c
from golf.codec.codecs import encode as encode_stream
from golf.codec.container import _read_header, decode, encode
from golf.codec.lanes import FRAME
from golf.runtime.errors import DataError, FairwayError, run_main
from golf.runtime.files import write_json

RESULT = Path("benchmarks/results/fuzz.json")
TABLES = 32 << 20  # bytes that a decoder may take whatever the arrays' size: tables (20 MB), a piece (8 MB)
SLOWEST = 10.0  # seconds
LIMIT = 1 << 22  # bytes of arrays: as a caller who knows his model's size would set it
NUMBERS = (0, 1, 2, 3, 127, 128, 255, 256, 65_535, 65_536, 1 << 20, (1 << 31) - 1, 1 << 31, 1 << 32, 1 << 62, -1)
Arrays = dict[str, np.ndarray]


def artifacts() -> list[tuple[bytes, Arrays]]:
    """One for each codec, and two with lanes."""
    random = np.random.default_rng(0)
    arrays: Arrays = {
        "a.0.codes": random.normal(0, 2.4, (48, 64)).round().astype(np.int8),
        "a.1.codes": random.normal(0, 2.4, (48, 64)).round().astype(np.int8),
        "a.0.steps": random.random(300).astype(np.float16),
        "a.1.columns": random.integers(-4, 4, 64).astype(np.int8),
        "gain": random.normal(0, 1, (40, 50)).astype(np.float32),
    }
    made = []
    for codecs, trellis in ((["rans"], 0), (["rans"], 8), (["brotli"], 0), (["lzma"], 0), (["zstd"], 0)):
        made.append((encode({"trellis": trellis}, arrays, codecs, trellis=trellis)[0], arrays))
    return made


def bytes_changed(random: np.random.Generator, data: bytes, other: bytes) -> bytes:
    """``data`` truncated, extended, flipped, overwritten, or with a piece of itself or of ``other`` in it."""
    damaged = bytearray(data)
    kind = random.integers(6)
    place = int(random.integers(max(len(data), 1)))
    size = int(random.integers(1, 65))
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data + random.bytes(size)
    if kind == 2:
        for _ in range(random.integers(1, 9)):
            damaged[random.integers(len(damaged))] ^= 1 << random.integers(8)
    elif kind == 3:
        damaged[place : place + size] = random.choice([b"\0", b"\xff"]) * len(damaged[place : place + size])
    elif kind == 4:
        start = int(random.integers(max(len(other), 1)))
        damaged[place : place + size] = other[start : start + size]
    else:
        damaged[place : place + size] = random.bytes(size)
    return bytes(damaged)


def value_changed(random: np.random.Generator, value: Any) -> Any:
    """JSON with one thing in it replaced, left out or doubled."""
    if isinstance(value, (list, dict)) and value and random.random() < 0.9:
        keys = range(len(value)) if isinstance(value, list) else list(value)
        key = keys[random.integers(len(keys))]
        changed: Any = value.copy()
        if isinstance(changed, list) and random.random() < 0.1:
            changed.insert(int(random.integers(len(changed))), changed[key])
        elif random.random() < 0.1:
            del changed[key]
        else:
            changed[key] = value_changed(random, value[key])
        return changed
    choices: list[Any] = [
        *NUMBERS,
        None,
        True,
        1.5,
        "",
        "row",
        "column",
        "split",
        "rans",
        "zstd",
        "int8",
        "float64",
        [],
        {},
    ]
    return choices[random.integers(len(choices))]


def header_changed(random: np.random.Generator, blob: bytes, body: bytes | None = None) -> bytes:
    """The artifact with another index, or another body, and every checksum of the header right."""
    import brotli

    size = struct.unpack_from("<I", blob, 6)[0]
    coded = blob[18 : 18 + size]
    document = json.loads(brotli.decompress(coded) if blob[5] else coded)
    if body is None:
        document["streams"] = value_changed(random, document["streams"])
        body = blob[18 + size :]
    else:
        document["streams"][0][2] += len(body) - len(blob) + 18 + size
    text = json.dumps(document).encode()
    fixed = struct.pack("<4sBBII", b"GOLF", 1, 0, len(text), len(text))
    return fixed + struct.pack("<I", crc32c(text, crc32c(fixed))) + text + body


def model_changed(random: np.random.Generator, blob: bytes) -> bytes:
    """The artifact with another model in its rANS stream, framed as it should be."""
    import brotli

    body = blob[18 + struct.unpack_from("<I", blob, 6)[0] :]
    packed, _ = FRAME.unpack_from(body)
    model = bytearray(brotli.decompress(body[4 : 4 + packed]))
    for _ in range(random.integers(1, 4)):
        model[random.integers(len(model))] = random.integers(256)
    coded = encode_stream("brotli", bytes(model))
    return header_changed(random, blob, FRAME.pack(len(coded), len(model)) + coded + body[4 + packed :])


def case(seed: int, made: list[tuple[bytes, Arrays]]) -> tuple[str, bytes, Arrays]:
    """Its kind, a damaged artifact, and the arrays of the whole one."""
    random = np.random.default_rng(seed)
    number = int(random.integers(len(made)))
    blob, arrays = made[number]
    kind = random.random()
    if kind < 0.4:
        return "bytes", bytes_changed(random, blob, made[random.integers(len(made))][0]), arrays
    if kind < 0.75 or number > 1:
        return "header", header_changed(random, blob), arrays
    return "model", model_changed(random, blob), arrays


def attempt(blob: bytes, arrays: Arrays) -> tuple[str, float, int]:
    """What became of it, the seconds, and the greatest memory traced.

    Raises:
        FairwayError: other arrays came out of it.
    """
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    start = time.perf_counter()
    outcome = "refused"
    try:
        _, found = decode(blob, LIMIT)
    except DataError:
        pass
    else:
        outcome = "decoded"
        for name, array in found.items():
            if name in arrays and array.shape == arrays[name].shape and array.tobytes() != arrays[name].tobytes():
                raise FairwayError(f"other values in {name}")
    return outcome, time.perf_counter() - start, tracemalloc.get_traced_memory()[1] - before


def declared(blob: bytes) -> int:
    """Bytes of arrays that the index declares; 0 where there is none, or where they are refused for it."""
    try:
        size = sum(spec.bytes for stream in _read_header(blob)[1] for spec in stream.specs)
    except DataError:
        return 0
    return size if size <= LIMIT else 0


def main() -> None:
    """Try for the seconds asked for, print the counts and write the result of a long run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60.0, help="how long (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="of the first case (default: 0)")
    parsed = parser.parse_args()
    made = artifacts()
    counts: Counter[str] = Counter()
    slowest, largest, seed = 0.0, 0, parsed.seed
    tracemalloc.start()
    end = time.monotonic() + parsed.seconds
    while time.monotonic() < end:
        kind, blob, arrays = case(seed, made)
        try:
            outcome, seconds, peak = attempt(blob, arrays if kind == "bytes" else {})
        except Exception as error:  # whatever is no DataError is what this looks for
            raise FairwayError(f"fuzz: seed {seed} ({kind}): {type(error).__name__}: {error}") from error
        most = 2 * declared(blob) + TABLES
        if seconds > SLOWEST or peak > most:
            took = f"{seconds:.1f} s, {peak:,} bytes"
            raise FairwayError(f"fuzz: seed {seed} ({kind}): {took}; needed {SLOWEST} s, {most:,} bytes")
        counts[f"{kind} {outcome}"] += 1
        slowest, largest, seed = max(slowest, seconds), max(largest, peak), seed + 1
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    result = {"cases": seed - parsed.seed, **dict(sorted(counts.items())), "slowest_s": round(slowest, 3)}
    result |= {"largest_peak_bytes": largest, "process_peak_bytes": peak, "seconds": parsed.seconds}
    print(json.dumps(result, indent=1))
    if parsed.seconds >= 600:
        write_json(RESULT, result)


if __name__ == "__main__":
    run_main("benchmarks.fuzz", main)
