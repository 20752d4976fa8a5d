"""The table of codecs: bytes to fewer bytes and back, never to more than was declared.

A decoder is fed and drained in pieces, each put where it belongs as it comes, so that a stream costs its declared size,
the decoder's own window and at most one piece more, whatever it says.
"""

from __future__ import annotations

import lzma
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from golf.runtime.errors import ConfigError, DataError

# Properties of LZMA tried, as (lc, lp, pb): bits of the previous byte, of the position for literals, for matches.
LZMA_PROPERTIES = ((0, 0, 0), (3, 0, 0))
LZMA_DICTIONARIES = (1 << 16, 1 << 26)  # smallest and largest dictionary, bytes
MOST = 1 << 17  # bytes given at a time to a decoder that can be told so, and taken from it
PIECE = 256  # bytes fed at a time to a decoder whose output can't be bounded: zstd makes at most 8 MiB of them
BROTLI_PIECE = 16  # the same for brotli before 1.2, whose meta-blocks hold up to 16 MiB


@dataclass(frozen=True)
class Codec:
    """``encode(data)`` gives the coded bytes; ``decode(coded, size)`` the data in pieces, or raises ``ValueError``."""

    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes | memoryview, int], Iterator[bytes | memoryview]]


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
    """Exactly ``size`` bytes out of ``coded``; see :func:`decode_into`."""
    out = bytearray(size)
    decode_into(name, coded, [np.frombuffer(out, np.uint8)], where)
    return out


def decode_into(name: str, coded: bytes | memoryview, places: Sequence[np.ndarray], where: str) -> None:
    """Fill ``places``, uint8 of any shape and strides, one after the other with exactly what ``coded`` holds.

    Raises:
        ConfigError: the codec's package is not installed.
        DataError: the codec is unknown, or the stream is corrupt, too short or too long.
    """
    codec = CODECS.get(name)
    if codec is None:
        raise DataError(f"{where}: codec {name!r} is unknown; known: {', '.join(CODECS)}")
    size = sum(place.size for place in places)
    try:
        _fill(places, codec.decode(coded, size))
    except ImportError as error:
        raise _not_installed(f"{where}: {name}", error) from None
    except (ValueError, EOFError, lzma.LZMAError, MemoryError) as error:
        raise DataError(f"{where}: not a {name} stream of {size:,} bytes: {error}") from None


def _not_installed(what: str, error: ImportError) -> ConfigError:
    return ConfigError(
        f"{what} needs the package {error.name}, which is not installed", hint=f"pip install {error.name}"
    )


def _fill(places: Sequence[np.ndarray], pieces: Iterator[bytes | memoryview]) -> None:
    """Put ``pieces`` into ``places``, in the order of each one's own axes: as many lines at once as are whole."""
    rest = [place for place in places if place.size]
    start = 0  # in the first line of the first
    for piece in pieces:
        data = np.frombuffer(piece, np.uint8)
        while data.size:
            if not rest:
                raise ValueError("it holds more than declared")
            line = rest[0][0].size
            lines = rest[0][: 0 if start else data.size // line]
            if lines.size:
                lines[:] = data[: lines.size].reshape(lines.shape)
                data, rest[0] = data[lines.size :], rest[0][len(lines) :]
            else:
                part = data[: line - start]
                rest[0][0].flat[start : start + part.size] = part
                data, start = data[part.size :], (start + part.size) % line
                rest[0] = rest[0][not start :]
            if not rest[0].size:
                del rest[0]
    if rest:
        raise ValueError("it holds less")


def _restore(coded: bytes | memoryview, size: int) -> Iterator[bytes | memoryview]:
    yield coded


def _brotli(data: bytes) -> bytes:
    import brotli

    window = min(24, max(16, len(data).bit_length() + 1))
    return brotli.compress(data, quality=11, lgwin=window)


def _unbrotli(coded: bytes | memoryview, size: int) -> Iterator[bytes]:
    import brotli

    decoder = brotli.Decompressor()
    most = {"output_buffer_limit": MOST} if hasattr(decoder, "can_accept_more_data") else {}
    step = MOST if most else BROTLI_PIECE
    try:
        for start in range(0, len(coded), step):
            piece = decoder.process(coded[start : start + step], **most)
            while piece:
                yield piece
                piece = most and decoder.process(b"", **most)
    except brotli.error as error:
        raise ValueError(str(error)) from None
    if not decoder.is_finished():
        raise ValueError("it ends early")


def _lzma_filter(lc: int, lp: int, pb: int, size: int) -> dict[str, int]:
    dictionary = sorted((size // 2, *LZMA_DICTIONARIES))[1]  # a decoder holds it beside what it decodes
    return {"id": lzma.FILTER_LZMA1, "lc": lc, "lp": lp, "pb": pb, "dict_size": dictionary}


def _lzma(data: bytes) -> bytes:
    """One byte of properties, (5 pb + lp) 9 + lc, then a raw LZMA1 stream with its end marker."""
    results = []
    for lc, lp, pb in LZMA_PROPERTIES:
        filters = [_lzma_filter(lc, lp, pb, len(data)) | {"preset": 9 | lzma.PRESET_EXTREME}]
        coded = lzma.compress(data, format=lzma.FORMAT_RAW, filters=filters)
        results.append(bytes([(5 * pb + lp) * 9 + lc]) + coded)
    return min(results, key=len)


def _unlzma(coded: bytes | memoryview, size: int) -> Iterator[bytes]:
    rest, lc = divmod(int.from_bytes(coded[:1], "little"), 9)
    pb, lp = divmod(rest, 5)
    decoder = lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[_lzma_filter(lc, lp, pb, size)])
    for start in range(1, len(coded), MOST):
        piece = coded[start : start + MOST]
        while piece or not (decoder.eof or decoder.needs_input):
            yield decoder.decompress(piece, MOST)
            piece = b""
    if not decoder.eof or decoder.unused_data:
        raise ValueError("its end marker is not at its end")


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


def _unzstd(coded: bytes | memoryview, size: int) -> Iterator[bytes]:
    import zstandard

    window = max(1 << 10, 1 << size.bit_length())
    engine = zstandard.ZstdDecompressor(max_window_size=window, format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    decoder = engine.decompressobj()
    for start in range(0, len(coded), PIECE):
        try:
            yield decoder.decompress(coded[start : start + PIECE])
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
    if not decoder.eof or decoder.unused_data:
        raise ValueError("its end is not the frame's")


CODECS = {
    "stored": Codec(bytes, _restore),
    "brotli": Codec(_brotli, _unbrotli),
    "lzma": Codec(_lzma, _unlzma),
    "zstd": Codec(_zstd, _unzstd),
}
