import json
import struct
import tracemalloc
from typing import Any

import numpy as np
import pytest

from golf.codec.checksum import crc32c
from golf.codec.codecs import decode_into
from golf.codec.codecs import encode as encode_stream
from golf.codec.container import decode, encode, read_metadata
from golf.codec.streams import DTYPES, entropy_bytes, lay, spec_of, unlay
from golf.runtime.errors import DataError

Arrays = dict[str, np.ndarray]


def same(a: Arrays, b: Arrays) -> bool:
    return a.keys() == b.keys() and all(
        a[k].dtype == b[k].dtype and a[k].shape == b[k].shape and a[k].tobytes() == b[k].tobytes() for k in a
    )


def random_array(random: np.random.Generator, dtype: str, dimensions: int) -> np.ndarray:
    shape = tuple(int(n) for n in random.choice([0, 1, 2, 3, 5, 17], size=dimensions, p=[0.1, 0.2, 0.2, 0.2, 0.2, 0.1]))
    kind = random.integers(3)
    if kind == 0:
        return np.zeros(shape, dtype)
    if kind == 1:
        return random.normal(0, 3, shape).round().astype(np.int8).astype(dtype)
    count = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(random.bytes(count), dtype).reshape(shape)  # NaN, infinities and all


@pytest.mark.parametrize("seed", range(25))
def test_what_goes_in_comes_out(seed: int) -> None:
    random = np.random.default_rng(seed)
    arrays: Arrays = {}
    for number in range(random.integers(0, 12)):
        name = f"{random.choice(['blocks', 'é', ''])}.{number}.{random.choice(['codes', 'steps'])}"
        arrays[name] = random_array(random, str(random.choice(DTYPES)), int(random.integers(0, 4)))
        if arrays[name].ndim == 2 and random.integers(2):
            arrays[name] = arrays[name].T  # not contiguous
    metadata = {"seed": seed, "text": "π\0", "list": [1, 2.5, None, True], "deep": {"a": {}}}
    blob, reports = encode(metadata, arrays)
    found, decoded = decode(blob)
    assert found == metadata
    assert same(arrays, decoded)
    assert sum(report.arrays for report in reports) == len(arrays)
    assert encode(metadata, arrays)[0] == blob
    for array in decoded.values():
        assert array.flags.writeable
        assert array.flags.c_contiguous


@pytest.fixture(scope="module")
def small() -> tuple[bytes, Arrays]:
    random = np.random.default_rng(5)
    arrays = {
        "a.0.codes": random.integers(-5, 6, (6, 9)).astype(np.int8),
        "a.1.codes": random.integers(-5, 6, (6, 9)).astype(np.int8),
        "a.0.steps": random.random(6).astype(np.float16),
        "noise": random.integers(0, 256, (3, 4, 5)).astype(np.uint8),
        "scalar": np.array(7, np.int32),
    }
    return encode({"bits": 6}, arrays)[0], arrays


def test_truncation_at_every_byte(small: tuple[bytes, Arrays]) -> None:
    blob, _ = small
    for cut in range(len(blob)):
        with pytest.raises(DataError):
            decode(blob[:cut])


def test_every_flipped_bit(small: tuple[bytes, Arrays]) -> None:
    blob, _ = small
    for place in range(len(blob)):
        for bit in range(8):
            damaged = bytearray(blob)
            damaged[place] ^= 1 << bit
            with pytest.raises(DataError):
                decode(bytes(damaged))


@pytest.mark.parametrize("tail", [b"\0", b"GOLF", b"x" * 1000])
def test_trailing_bytes(small: tuple[bytes, Arrays], tail: bytes) -> None:
    with pytest.raises(DataError, match="declared"):
        decode(small[0] + tail)


@pytest.mark.parametrize("blob", [b"", b"G", b"PK\3\4" + b"\0" * 30, b"GOLF", b"\0" * 100])
def test_foreign_files(blob: bytes) -> None:
    with pytest.raises(DataError, match="artifact"):
        decode(blob)


def test_another_version_is_named(small: tuple[bytes, Arrays]) -> None:
    with pytest.raises(DataError, match="format version 2, this program reads 1"):
        decode(small[0][:4] + b"\2" + small[0][5:])


def forge(document: Any, body: bytes = b"", *, codec: int = 0, raw: int | None = None) -> bytes:
    """An artifact whose header says ``document``, with right checksums of the header."""
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    fixed = struct.pack("<4sBBII", b"GOLF", 1, codec, len(text), len(text) if raw is None else raw)
    return fixed + struct.pack("<I", crc32c(text, crc32c(fixed))) + text + body


def entry(shape: Any, *, codec: Any = "stored", layout: Any = "row", size: Any = 0, dtype: Any = "int8") -> list[Any]:
    return [codec, layout, size, 0, [["a", dtype, shape]]]


LIES: list[Any] = [
    entry([1 << 40]),
    entry([1 << 62, 1 << 62]),
    entry([0, 1 << 62]),
    entry([1 << 29], dtype="float64"),
    entry([-1]),
    entry([1.5]),
    entry([True]),
    entry(["3"]),
    entry(3),
    entry([1] * 9),
    entry([4], size=5),
    entry([4], size=-4),
    entry([4], size="4"),
    entry([4], size=1 << 70),
    entry([4], dtype="object"),
    entry([4], dtype="<i4"),
    entry([4], layout="diagonal"),
    entry([4], layout="column"),
    entry([4], codec="rot13", size=4),
    entry([4], codec=None),
    entry([4], codec="brotli"),
    ["stored", "row", 0, 0, []],
    ["stored", "row", 0, 0, [["a", "int8", [1]], ["a", "int8", [1]]]],
    ["stored", "row", 3, 0, [["a", "int8", [1]], ["b", "int16", [1]]]],
    ["stored", "row", 0, 0],
    ["stored", "row", 0, "0", [["a", "int8", [0]]]],
    {"codec": "stored"},
    None,
    7,
]


@pytest.mark.parametrize("lie", LIES, ids=[str(lie)[:60] for lie in LIES])
def test_an_index_that_lies(lie: Any) -> None:
    with pytest.raises(DataError):
        decode(forge({"metadata": {}, "streams": [lie]}, b"abcd"))


@pytest.mark.parametrize("shape", [[0, 1 << 62], [0, 1 << 40, 1 << 40], [1 << 31, 0]])
def test_an_empty_dimension_hides_no_impossible_one(shape: list[int]) -> None:
    """Everything else about it is right: no bytes declared, none there, and the checksum of none."""
    assert decode(forge({"metadata": {}, "streams": [entry([0, 3])]}))[1]["a"].shape == (0, 3)
    with pytest.raises(DataError, match="artifact index: stream 0"):
        decode(forge({"metadata": {}, "streams": [entry(shape)]}))


def test_two_streams_of_one_name() -> None:
    with pytest.raises(DataError, match="new arrays"):
        decode(forge({"metadata": {}, "streams": [entry([2], size=2), entry([2], size=2)]}, b"abcd"))


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[",
        b"[" * 100_000,
        b"nul",
        b"\xff\xfe",
        b"[]",
        b"{}",
        b'{"metadata": 3}',
        b'{"metadata": {}}',
        b"9" * 9999,
    ],
)
def test_a_header_that_is_none(document: bytes) -> None:
    with pytest.raises(DataError, match="artifact"):
        decode(forge(document))


def test_a_header_larger_than_allowed_is_not_decoded() -> None:
    with pytest.raises(DataError, match="may be decoded"):
        decode(forge(b"{}", raw=1 << 31, codec=1))


def test_the_sum_of_many_streams_is_bounded_too() -> None:
    streams = [["brotli", "row", 0, 0, [[f"a{i}", "int8", [1 << 28]]]] for i in range(5)]
    with pytest.raises(DataError, match="declares 1,342,177,280 bytes"):
        decode(forge({"metadata": {}, "streams": streams}))


def test_the_caller_may_bound_it_further(small: tuple[bytes, Arrays]) -> None:
    with pytest.raises(DataError, match="needed at most 100"):
        decode(small[0], limit=100)


def peak_of_decoding(blob: bytes) -> tuple[Arrays, int]:
    """The arrays, and the most bytes that decoding them had allocated at a time."""
    tracemalloc.start()
    found = decode(blob)[1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return found, peak


@pytest.mark.parametrize("layout", ["row", "column", "split"])
@pytest.mark.parametrize("codec", ["rans", "brotli", "lzma", "zstd"])
@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_decoding_takes_less_than_twice_the_declared_bytes(codec: str, layout: str, dtype: str) -> None:
    """Even of an artifact that is one matrix: nothing is decoded first and put in its order afterwards."""
    matrix = np.random.default_rng(1).normal(0, 2.4, (2048, 2048)).round().astype(dtype)
    blob, reports = encode({}, {"codes": matrix}, [codec], [layout])
    assert (codec, dtype) == ("rans", "float16") or codec in {report.codec for report in reports}
    found, peak = peak_of_decoding(blob)
    assert same({"codes": matrix}, found)
    assert peak < 2 * matrix.nbytes


@pytest.mark.parametrize("layout", ["row", "column"])
@pytest.mark.parametrize("codec", ["rans", "brotli", "lzma", "zstd"])
def test_decoding_many_matrices_takes_less_than_twice_the_declared_bytes(codec: str, layout: str) -> None:
    random = np.random.default_rng(1)
    arrays = {f"{i}.codes": random.normal(0, 2.4, (512, 1024)).round().astype(np.int8) for i in range(8)}
    blob, reports = encode({}, arrays, [codec], [layout])
    assert codec in {report.codec for report in reports}
    found, peak = peak_of_decoding(blob)
    assert same(arrays, found)
    assert peak < 2 * sum(array.nbytes for array in arrays.values())


@pytest.mark.parametrize("shapes", [[(1, 300_000)], [(300_000, 1)], [(2, 150_000), (0, 3), (150_000, 2)], [(700, 999)]])
@pytest.mark.parametrize("codec", ["stored", "brotli", "lzma", "zstd"])
def test_columns_end_where_no_piece_does(codec: str, shapes: list[tuple[int, int]]) -> None:
    """Streams of several pieces, whose ends fall within columns, between arrays, and in empty ones."""
    random = np.random.default_rng(2)
    arrays = {f"a{i}": random.integers(-99, 99, shape).astype(np.int16) for i, shape in enumerate(shapes)}
    specs = [spec_of(name, array) for name, array in arrays.items()]
    for layout in ("row", "column", "split"):
        coded = encode_stream(codec, lay(specs, arrays, layout))
        found, places = unlay(specs, np.empty(sum(spec.bytes for spec in specs), np.uint8), layout)
        decode_into(codec, coded, places, "stream")
        assert same(arrays, dict(zip(arrays, found, strict=True)))


def test_only_the_metadata(small: tuple[bytes, Arrays]) -> None:
    assert read_metadata(small[0][:-1]) == {"bits": 6}


def test_each_stream_takes_the_smallest_and_says_what_others_cost() -> None:
    random = np.random.default_rng(0)
    columns = np.repeat(random.integers(-30, 30, (1, 300)), 200, axis=0).astype(np.int8)
    arrays = {"columns": columns, "floats": random.normal(0, 1, 9000).astype(np.float32)}
    arrays["noise"] = random.integers(0, 256, 20_000).astype(np.uint8)
    reports = {report.name: report for report in encode({}, arrays)[1]}
    for report in reports.values():
        assert report.coded_bytes == min(report.tried.values()) == report.tried[f"{report.codec}/{report.layout}"]
    assert reports["floats"].layout == "split"
    assert reports["noise"].codec == "stored"
    assert set(reports["columns"].tried) == {"stored/row", "rans/row"} | {
        f"{codec}/{layout}" for codec in ("brotli", "lzma", "zstd") for layout in ("row", "column")
    }
    only = encode({}, arrays, ["zstd"], ["row"])[1]
    assert {key for report in only for key in report.tried} == {"stored/row", "zstd/row"}


def test_small_arrays_of_one_pattern_share_a_stream() -> None:
    arrays = {f"blocks.{i}.gain": np.ones(400, np.float16) for i in range(3)} | {
        "one": np.ones(3, np.float16),
        "blocks.0.big": np.ones((200, 200), np.int8),
        "blocks.1.big": np.ones((200, 200), np.int8),
    }
    names = [report.name for report in encode({}, arrays)[1]]
    assert names == ["blocks.*.gain", "one", "blocks.0.big", "blocks.1.big"]


def test_what_cannot_be_stored_is_refused() -> None:
    with pytest.raises(DataError, match="array a: found complex64"):
        encode({}, {"a": np.zeros(3, np.complex64)})
    with pytest.raises(DataError, match="object"):
        encode({}, {"a": np.array([None])})
    for metadata in ({"a": float("nan")}, {"a": b"bytes"}):
        with pytest.raises(DataError, match="metadata"):
            encode(metadata, {})


def test_entropy_of_known_distributions() -> None:
    assert entropy_bytes(np.zeros(1000, np.int8)) == 0
    assert entropy_bytes(np.arange(256, dtype=np.uint8)) == pytest.approx(256)
    assert entropy_bytes(np.array([0, 1] * 400, np.int8)) == pytest.approx(100)
    assert entropy_bytes(np.array([0, 256] * 400, np.int16)) == pytest.approx(100)
    assert entropy_bytes(np.zeros((0, 3), np.float16)) == 0
