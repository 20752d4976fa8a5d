"""The table of codecs: bytes to fewer bytes and back, never to more than was declared.

A decoder is fed and drained in pieces, so that a hostile stream costs at most one piece more than its declared size.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from golf.runtime.errors import ConfigError, DataError

# Properties of LZMA tried, as (lc, lp, pb): bits of the previous byte, of the position for literals, for matches.
LZMA_PROPERTIES = ((0, 0, 0), (3, 0, 0))
LZMA_DICTIONARIES = (1 << 16, 1 << 26)  # smallest and largest dictionary, bytes
MOST = 1 << 20  # bytes taken at a time from a decoder that can be told so
PIECE = 256  # bytes fed at a time to a decoder whose output can't be bounded: zstd makes at most 8 MiB of them
BROTLI_PIECE = 16  # the same for brotli before 1.2, whose meta-blocks hold up to 16 MiB


@dataclass(frozen=True)
class Codec:
    """``encode(data)`` gives the coded bytes; ``decode(coded, size)`` gives them back, or raises ``ValueError``."""

    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes | memoryview, int], bytearray]


def encode(name: str, data: bytes) -> bytes:
    """The bytes that :func:`decode` takes back to ``data``.

    Raises:
        ConfigError: the codec's package is not installed.
    """
    try:
        return CODECS[name].encode(data)
    except ImportError as error:
        raise _not_installed(name, error) from None


def decode(name: str, coded: bytes | memoryview, size: int, where: str) -> bytearray:
    """Exactly ``size`` bytes out of ``coded``.

    Raises:
        ConfigError: the codec's package is not installed.
        DataError: the codec is unknown, or the stream is corrupt, too short or too long.
    """
    codec = CODECS.get(name)
    if codec is None:
        raise DataError(f"{where}: codec {name!r} is unknown; known: {', '.join(CODECS)}")
    try:
        return codec.decode(coded, size)
    except ImportError as error:
        raise _not_installed(f"{where}: {name}", error) from None
    except (ValueError, EOFError, lzma.LZMAError, MemoryError) as error:
        raise DataError(f"{where}: not a {name} stream of {size:,} bytes: {error}") from None


def _not_installed(what: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"{what} needs the package {error.name}, which is not installed", hint=f"pip install {error.name}"
    )


def _collect(pieces: Iterator[bytes | memoryview], size: int) -> bytearray:
    """Join ``pieces`` while they fit in ``size``."""
    out = bytearray()
    for piece in pieces:
        if len(out) + len(piece) > size:
            raise ValueError("it holds more than declared")
        out += piece
    if len(out) != size:
        raise ValueError(f"it holds {len(out):,} bytes")
    return out


def _store(data: bytes) -> bytes:
    return bytes(data)


def _restore(coded: bytes | memoryview, size: int) -> bytearray:
    return _collect(iter((coded,)), size)


def _brotli(data: bytes) -> bytes:
    import brotli

    window = min(24, max(16, len(data).bit_length() + 1))
    return brotli.compress(data, quality=11, lgwin=window)


def _unbrotli(coded: bytes | memoryview, size: int) -> bytearray:
    import brotli

    decoder = brotli.Decompressor()

    def pieces() -> Iterator[bytes]:
        try:
            if hasattr(decoder, "can_accept_more_data"):
                piece = decoder.process(coded, output_buffer_limit=MOST)
                while piece:
                    yield piece
                    piece = decoder.process(b"", output_buffer_limit=MOST)
            else:
                for start in range(0, len(coded), BROTLI_PIECE):
                    yield decoder.process(coded[start : start + BROTLI_PIECE])
        except brotli.error as error:
            raise ValueError(str(error) or "corrupt") from None
        if not decoder.is_finished():
            raise ValueError("it ends early")

    return _collect(pieces(), size)


def _lzma_filters(lc: int, lp: int, pb: int, size: int) -> list[dict[str, int]]:
    dictionary = sorted((size, *LZMA_DICTIONARIES))[1]
    return [{"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}]


def _lzma(data: bytes) -> bytes:
    """One byte of properties, (5 pb + lp) 9 + lc, then a raw LZMA1 stream with its end marker."""
    results = []
    for lc, lp, pb in LZMA_PROPERTIES:
        filters = _lzma_filters(lc, lp, pb, len(data))
        coded = lzma.compress(data, format=lzma.FORMAT_RAW, filters=[{**filters[0], "preset": 9 | lzma.PRESET_EXTREME}])
        results.append(bytes([(5 * pb + lp) * 9 + lc]) + coded)
    return min(results, key=len)


def _unlzma(coded: bytes | memoryview, size: int) -> bytearray:
    if not coded:
        raise ValueError("it is empty")
    rest, lc = divmod(coded[0], 9)
    pb, lp = divmod(rest, 5)
    if lc + lp > 4 or pb > 4:
        raise ValueError(f"properties {coded[0]} do not exist")
    filters = _lzma_filters(lc, lp, pb, size)
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=filters)

    def pieces() -> Iterator[bytes]:
        rest = coded[1:]
        while rest or not (decoder.eof or decoder.needs_input):
            yield decoder.decompress(rest, MOST)
            rest = b""
        if not decoder.eof or decoder.unused_data:
            raise ValueError("its end marker is not at its end")

    return _collect(pieces(), size)


def _zstd(data: bytes) -> bytes:
    """One frame without magic number, content size or checksum: the container holds them all."""
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(
        22,
        source_size=len(data),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def _unzstd(coded: bytes | memoryview, size: int) -> bytearray:
    import zstandard

    window = max(1 << 10, 1 << size.bit_length())
    engine = zstandard.ZstdDecompressor(max_window_size=window, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    decoder = engine.decompressobj()

    def pieces() -> Iterator[bytes]:
        for start in range(0, len(coded), PIECE):
            if decoder.eof:
                raise ValueError("something follows its end")
            try:
                yield decoder.decompress(coded[start : start + PIECE])
            except zstandard.ZstdError as error:
                raise ValueError(str(error)) from None
        if not decoder.eof or decoder.unused_data:
            raise ValueError("its end is not the frame's")

    return _collect(pieces(), size)


CODECS = {
    "stored": Codec(_store, _restore),
    "brotli": Codec(_brotli, _unbrotli),
    "lzma": Codec(_lzma, _unlzma),
    "zstd": Codec(_zstd, _unzstd),
}
