import lzma
import sys

import brotli
import numpy as np
import pytest
import zstandard

from golf.codec.codecs import CODECS, decode, encode
from golf.runtime.errors import ConfigError, DataError

BOMB = 1 << 26


def payloads() -> list[bytes]:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, 70_000, np.uint8).tobytes()
    codes = np.clip(random.normal(0, 2.4, 100_000).round(), -31, 31).astype(np.int8).tobytes()
    return [b"", b"\0", b"ab", bytes(100_000), noise, codes]


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("number", range(6))
def test_round_trip_and_determinism(name: str, number: int) -> None:
    data = payloads()[number]
    coded = CODECS[name].encode(data)
    assert CODECS[name].encode(data) == coded
    assert decode(name, coded, len(data), "stream") == data


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("wrong", [-1, 1, 1000])
def test_another_size_than_declared_is_refused(name: str, wrong: int) -> None:
    data = payloads()[5]
    with pytest.raises(DataError, match=f"not a {name} stream"):
        decode(name, CODECS[name].encode(data), len(data) + wrong, "stream")


@pytest.mark.parametrize("name", CODECS)
def test_truncation_and_a_tail_are_refused(name: str) -> None:
    data = payloads()[5][:3000]
    coded = CODECS[name].encode(data)
    for cut in range(0, len(coded), 37):
        with pytest.raises(DataError):
            decode(name, coded[:cut], len(data), "stream")
    with pytest.raises(DataError):
        decode(name, coded + b"\0", len(data), "stream")


@pytest.mark.parametrize("name", ["brotli", "lzma", "zstd"])
def test_noise_gives_one_clear_error(name: str) -> None:
    random = np.random.default_rng(3)
    for size in (0, 1, 2, 10, 100, 5000):
        for _ in range(20):
            with pytest.raises(DataError, match=f"stream: not a {name} stream of 100,000 bytes"):
                decode(name, random.integers(0, 256, size, np.uint8).tobytes(), 100_000, "stream")


def bomb(name: str) -> bytes:
    data = bytes(BOMB)
    if name == "brotli":
        return brotli.compress(data, quality=5, lgwin=24)
    if name == "lzma":
        filters = [{"id": lzma.FILTER_LZMA1, "preset": 1, "lc": 0, "lp": 0, "pb": 0, "dict_size": 1 << 16}]
        return b"\0" + lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=16, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


@pytest.mark.parametrize("name", ["brotli", "lzma", "zstd"])
def test_a_bomb_goes_off_at_its_declared_size(name: str) -> None:
    import tracemalloc

    coded = bomb(name)
    tracemalloc.start()
    with pytest.raises(DataError):
        decode(name, coded, 100_000, "stream")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000  # of 64 MB in the stream


def test_a_zstd_frame_that_asks_for_a_large_window_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(
        3, window_log=27, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
    )
    frame = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    coded = frame.compress(bytes(1000)) + frame.flush()
    with pytest.raises(DataError, match="zstd"):
        decode("zstd", coded, 1000, "stream")


def test_an_unknown_codec_is_named() -> None:
    with pytest.raises(DataError, match="codec 'rot13' is unknown; known: stored, brotli, lzma, zstd"):
        decode("rot13", b"", 0, "stream")


@pytest.mark.parametrize(("name", "package"), [("brotli", "brotli"), ("zstd", "zstandard")])
def test_a_package_that_is_not_installed_is_a_matter_of_configuration(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=f"stream: {name} needs the package {package}, .* pip install {package}$"):
        decode(name, b"x", 1, "stream")
    with pytest.raises(ConfigError, match=f"^{name} needs the package {package}"):
        encode(name, b"x")


@pytest.mark.parametrize("properties", [225, 224, 9 * 5 + 8, 255])
def test_lzma_properties_that_do_not_exist_are_refused(properties: int) -> None:
    with pytest.raises(DataError, match="lzma"):
        decode("lzma", bytes([properties]) + b"\0" * 20, 10, "stream")


def test_an_older_brotli_without_bounded_output_is_fed_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    class Older:
        """brotli before 1.2."""

        def __init__(self) -> None:
            self._decoder = brotli_decompressor()

        def process(self, data: bytes) -> bytes:
            return self._decoder.process(data)

        def is_finished(self) -> bool:
            return self._decoder.is_finished()

    brotli_decompressor = brotli.Decompressor
    monkeypatch.setattr(brotli, "Decompressor", Older)
    data = payloads()[5]
    coded = CODECS["brotli"].encode(data)
    assert decode("brotli", coded, len(data), "stream") == data
    with pytest.raises(DataError, match="more than declared"):
        decode("brotli", coded, len(data) - 1, "stream")
    with pytest.raises(DataError, match="ends early"):
        decode("brotli", coded[:-1], len(data), "stream")
