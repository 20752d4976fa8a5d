"""Matrices that share a rANS stream, inside the container."""

import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest

from golf.codec.checksum import crc32c
from golf.codec.container import decode, encode
from golf.codec.report import SHARED
from golf.runtime.errors import DataError

Arrays = dict[str, np.ndarray]


def bell(rows: int, columns: int, spread: float = 2.4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, spread, (rows, columns)).round().astype(np.int8)


def model(steps: int = 400) -> Arrays:
    random = np.random.default_rng(9)
    return {
        "a.0.codes": bell(256, 64, seed=1),
        "a.0.steps": random.random(steps).astype(np.float16),
        "a.1.codes": bell(256, 64, seed=2),
        "embed": bell(300, 64, 9.0),
        "gain": random.integers(0, 256, 70).astype(np.uint8),
        "wide": bell(300, 96, seed=3),
    }


@pytest.fixture(scope="module")
def blob() -> bytes:
    return encode({"bits": 6}, model())[0]


@pytest.mark.parametrize("trellis", [0, 4, 8])
@pytest.mark.parametrize("steps", [1, 200, 4000])  # the lanes carry all that follows, about all, its beginning
def test_it_comes_back(trellis: int, steps: int) -> None:
    arrays = model(steps)
    coded, reports = encode({}, arrays, ["rans", "brotli"], trellis=trellis)
    _, found = decode(coded)
    assert found.keys() == arrays.keys()
    assert all(found[k].dtype == arrays[k].dtype and (found[k] == arrays[k]).all() for k in arrays)
    assert all(array.flags.writeable and array.flags.c_contiguous for array in found.values())
    assert encode({}, arrays, ["rans", "brotli"], trellis=trellis)[0] == coded
    lines = {report.name: report.codec for report in reports}
    assert lines["a.0.codes"] == lines["embed"] == lines[SHARED] == "rans"


def test_the_lines_of_the_report_add_up_to_the_file(blob: bytes) -> None:
    _, reports = encode({"bits": 6}, model())
    header = 18 + struct.unpack_from("<I", blob, 6)[0]
    assert sum(report.coded_bytes for report in reports) == len(blob) - header
    lines = {report.name: report for report in reports}
    for name in ("a.0.codes", "embed", "wide"):
        line = lines[name]
        assert line.coded_bytes == line.tried["rans/row"] == min(line.tried.values())
        assert 0.98 < line.conditional_bytes / line.entropy_bytes <= 1
        assert line.seconds.keys() == line.tried.keys()
    assert lines[SHARED].coded_bytes < 6 * 96


def test_it_is_never_larger_than_without() -> None:
    random = np.random.default_rng(0)
    for arrays in (
        model(),
        {"copies": np.tile(bell(1, 200), (100, 1))},
        {"tiny": bell(3, 40)},
        {"one wide row": bell(1, 60_000)},
        {"noise": random.integers(-128, 128, (200, 100)).astype(np.int8)},
    ):
        assert len(encode({}, arrays)[0]) <= len(encode({}, arrays, ["brotli", "lzma", "zstd"])[0])


def test_a_matrix_whose_lanes_do_not_pay_stays_alone() -> None:
    narrow = {f"{i}": bell(400, 64, seed=i) for i in range(4)}
    reports = encode({}, narrow | {"wide": bell(2, 9000)})[1]
    lines = {report.name: report.codec for report in reports}
    assert lines["0"] == "rans"
    assert lines["wide"] != "rans"


def test_what_is_no_int8_matrix_stays_alone() -> None:
    arrays = {
        "flat": bell(1, 20_000)[0],
        "cube": bell(200, 100).reshape(20, 10, 100),
        "wide": bell(200, 100).astype("i2"),
    }
    assert not [report for report in encode({}, arrays)[1] if report.codec == "rans"]


@pytest.mark.parametrize("states", [1, 7, -4, 8.0, 8.5, "8", None, True, [8], {}])
def test_a_trellis_that_is_none_is_refused(states: Any) -> None:
    with pytest.raises(DataError, match=r"trellis of .* states, needed 0 or one of 4, 8, 16, 32"):
        encode({}, {"a": bell(64, 64)}, ["rans"], trellis=states)


def test_truncations_and_flipped_bits(blob: bytes) -> None:
    random = np.random.default_rng(0)
    for cut in random.integers(0, len(blob), 25):
        with pytest.raises(DataError):
            decode(blob[:cut])
    for place in random.integers(0, len(blob), 60):
        damaged = bytearray(blob)
        damaged[place] ^= 1 << random.integers(8)
        with pytest.raises(DataError):
            decode(bytes(damaged))


def forge(streams: list[Any], body: bytes) -> bytes:
    text = json.dumps({"metadata": {}, "streams": streams}).encode()
    fixed = struct.pack("<4sBBII", b"GOLF", 1, 0, len(text), len(text))
    return fixed + struct.pack("<I", crc32c(text, crc32c(fixed))) + text + body


def entry(shape: list[int], size: int, *, layout: str = "row", dtype: str = "int8", name: str = "a") -> list[Any]:
    return ["rans", layout, size, 0, [[name, dtype, shape]]]


@pytest.mark.parametrize(
    "lie",
    [
        entry([4, 0], 4),
        entry([0, 4], 4),
        entry([4], 4),
        entry([2, 2, 2], 4),
        entry([4, 4], 4, dtype="uint8"),
        entry([4, 4], 4, dtype="float16"),
        entry([4, 4], 4, layout="column"),
        entry([1, 1 << 20], 4),
        entry([1 << 21, 16], 4),
        ["rans", "row", 4, 0, [[f"a{i}", "int8", [1, 1]] for i in range(3000)]],
    ],
    ids=lambda lie: str(lie)[:50],
)
def test_what_the_coder_never_takes_is_refused_by_the_index(lie: list[Any]) -> None:
    with pytest.raises(DataError, match="artifact index: stream 0"):
        decode(forge([lie], b"abcd"))


def test_only_the_first_stream_may_have_lanes() -> None:
    stored = ["stored", "row", 4, 0, [["b", "int8", [4]]]]
    with pytest.raises(DataError, match="artifact index: stream 1"):
        decode(forge([stored, entry([4, 4], 40)], bytes(44)))


@pytest.mark.parametrize("body", [b"", b"ab", b"\0\0\0\0", b"\5\0\5\0", b"\xff\xff\xff\xff", bytes(3000), bytes(3001)])
def test_a_stream_without_lanes_or_tables(body: bytes) -> None:
    with pytest.raises(DataError, match="artifact stream a"):
        decode(forge([entry([1000, 256], len(body))], body))


def test_a_large_claim_costs_nothing() -> None:
    tracemalloc.start()
    with pytest.raises(DataError, match="do not hold 1,024 lanes"):
        decode(forge([entry([1 << 20, 1024], 4)], b"abcd"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1 << 20
