"""The artifact: magic, version, a checked header with metadata and index, then the streams.

    4  b"GOLF"
    1  format version, 1
    1  codec of the header: 0 stored, 1 brotli
    4  bytes of the coded header        (little-endian, as every number)
    4  bytes of the decoded header
    4  CRC-32C of the 14 bytes above and of the coded header
       coded header, streams

docs/artifact-format.md says it byte by byte.
"""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from golf.codec.checksum import crc32c
from golf.codec.codecs import decode as decode_stream
from golf.codec.codecs import decode_into
from golf.codec.codecs import encode as encode_stream
from golf.codec.joint import Joint, choose, join, measure_groups
from golf.codec.lanes import CARRIED, RANS, fits, lanes_of
from golf.codec.lanes import read as read_lanes
from golf.codec.report import StreamReport, Tried, note_shared, reports_of
from golf.codec.streams import (
    DTYPES,
    LAYOUTS,
    MAX_DIMENSIONS,
    ArraySpec,
    in_rows,
    lay,
    layouts_of,
    plan,
    spec_of,
    stream_name,
    unlay,
)
from golf.runtime.errors import DataError

MAGIC = b"GOLF"
VERSION = 1
HEADER_CODECS = ("stored", "brotli")
FIXED = struct.Struct("<4sBBIII")
CHECKED = FIXED.size - 4  # bytes of it that its checksum covers
MAX_HEADER = 1 << 22  # bytes, decoded
MAX_DECODED = 1 << 30  # bytes of all arrays together


@dataclass(frozen=True)
class _Stream:
    codec: str
    layout: str
    coded_bytes: int
    crc: int
    specs: tuple[ArraySpec, ...]


def encode(
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    codecs: Sequence[str] = ("rans", "brotli", "lzma", "zstd"),
    layouts: Sequence[str] = LAYOUTS,
    on_stream: Callable[[int], None] | None = None,
    trellis: int = 0,
) -> tuple[bytes, list[StreamReport]]:
    """Code every stream with every codec on every layout, and keep the smallest; the same input gives the same bytes.

    Args:
        metadata: JSON values, returned by :func:`decode` as they are.
        arrays: name -> array of one of :data:`DTYPES`.
        codecs: ``rans`` and names of :data:`golf.codec.codecs.CODECS`; ``stored`` is always tried.
        layouts: names of :data:`LAYOUTS`.
        on_stream: called with the raw bytes of each stream when it is coded.
        trellis: states of the trellis that int8 matrices are symbols of (:mod:`golf.quant.trellis`); 0: none.

    Returns:
        The artifact, and a report a stream.

    Raises:
        ConfigError: a codec's package is not installed.
        DataError: an array or the metadata can't be stored.
    """
    groups = plan([spec_of(name, array) for name, array in arrays.items()])
    with ThreadPoolExecutor(_threads()) as pool:  # the compressors release the interpreter's lock
        jobs = [
            (i, codec, layout, pool.submit(_code, group, arrays, codec, layout))
            for i, group in enumerate(groups)
            for codec, layout in _tries(group, codecs, layouts)
        ]
        measured, seconds = measure_groups(groups, arrays, trellis) if RANS in codecs else ({}, {})
        joint = join(measured)
        tried = [Tried() for _ in groups]
        while jobs:
            i, codec, layout, job = jobs.pop(0)
            tried[i].add(codec, layout, *job.result())
            if on_stream is not None and (not jobs or jobs[0][0] != i):
                on_stream(sum(spec.bytes for spec in groups[i]))
    chosen = choose([len(best.coded) for best in tried], groups, joint.sizes)
    note_shared(tried, joint.sizes, seconds)
    if len(chosen) < len(measured):
        joint = join({i: measured[i] for i in chosen})
        note_shared(tried, joint.sizes, seconds)
    return _assemble(metadata, arrays, groups, tried, joint, trellis)


def _assemble(
    metadata: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    groups: Sequence[Sequence[ArraySpec]],
    tried: Sequence[Tried],
    joint: Joint,
    trellis: int,
) -> tuple[bytes, list[StreamReport]]:
    """The artifact of the best that was tried: the joint stream first, whose lanes carry the beginning of the rest."""
    alone = [i for i in range(len(groups)) if i not in joint.groups]
    streams = [_stream(tried[i].codec, tried[i].layout, tried[i].coded, groups[i], arrays) for i in alone]
    body = b"".join(tried[i].coded for i in alone)
    overhead, seconds = 0, 0.0
    if joint.groups:
        start = time.thread_time()
        coded, carried = joint.encode(trellis, body)
        streams.insert(0, _stream(RANS, "row", coded, [spec for i in joint.groups for spec in groups[i]], arrays))
        body = coded + body[carried:]
        overhead, seconds = len(coded) - carried, time.thread_time() - start
    reports = reports_of(groups, arrays, tried, joint.groups, overhead, seconds)
    return _write_header(metadata, streams) + body, reports


def decode(blob: bytes, limit: int = MAX_DECODED) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Metadata and arrays of an artifact.

    Every declared size is checked against the file and against ``limit`` (bytes, all arrays) before anything is
    allocated, and no decoder is let past its declared size.

    Raises:
        ConfigError: a codec's package is not installed.
        DataError: the artifact is foreign, damaged, truncated, too long, or declares more than ``limit``.
    """
    metadata, streams, start = _read_header(blob)
    declared = sum(spec.bytes for stream in streams for spec in stream.specs)
    if declared > limit:
        raise DataError(f"artifact: declares {declared:,} bytes of arrays, needed at most {limit:,}")
    body: bytes | memoryview = memoryview(blob)[start:]
    carried = _carried(streams)
    coded_bytes = sum(stream.coded_bytes for stream in streams)
    if coded_bytes != len(body) + carried:
        raise DataError(f"artifact: streams of {coded_bytes - carried:,} bytes declared, {len(body):,} found")
    arrays: dict[str, np.ndarray] = {}
    start = 0
    for stream in streams:
        coded = body[start : start + stream.coded_bytes]
        start += stream.coded_bytes
        where = f"artifact stream {stream_name(stream.specs)}"
        if stream.codec == RANS:
            found, rides = read_lanes(stream.specs, coded, where)
            if any(rides[carried:]):
                raise DataError(f"{where}: its lanes carry more than follows it")
            body, start = rides[:carried] + body[start:], 0
        else:
            data = np.empty(sum(spec.bytes for spec in stream.specs), np.uint8)
            found, places = unlay(stream.specs, data, stream.layout)
            decode_into(stream.codec, coded, places, where)
        if _checksum(coded, found) != stream.crc:
            raise DataError(f"{where}: its checksum differs; the file is damaged", hint="copy it again")
        arrays.update({spec.name: array for spec, array in zip(stream.specs, found, strict=True)})
    return metadata, arrays


def read_metadata(blob: bytes) -> dict[str, Any]:
    """Only the metadata, without decoding a stream.

    Raises:
        DataError: as :func:`decode`, for the header.
    """
    return _read_header(blob)[0]


def _threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, 8)  # brotli takes up to 200 MB a thread


def _tries(group: Sequence[ArraySpec], codecs: Sequence[str], layouts: Sequence[str]) -> list[tuple[str, str]]:
    apart = {"stored", RANS}
    tries = [(codec, layout) for layout in layouts_of(group, layouts) for codec in codecs if codec not in apart]
    return [("stored", "row"), *tries]


def _code(group: Sequence[ArraySpec], arrays: Mapping[str, np.ndarray], codec: str, layout: str) -> tuple[bytes, float]:
    start = time.thread_time()
    return encode_stream(codec, lay(group, arrays, layout)), time.thread_time() - start


def _stream(
    codec: str, layout: str, coded: bytes, specs: Sequence[ArraySpec], arrays: Mapping[str, np.ndarray]
) -> _Stream:
    crc = _checksum(coded, (arrays[spec.name] for spec in specs))
    return _Stream(codec, layout, len(coded), crc, tuple(specs))


def _write_header(metadata: Mapping[str, Any], streams: Sequence[_Stream]) -> bytes:
    index = [
        [s.codec, s.layout, s.coded_bytes, s.crc, [[spec.name, spec.dtype, list(spec.shape)] for spec in s.specs]]
        for s in streams
    ]
    try:
        text = json.dumps({"metadata": metadata, "streams": index}, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"artifact metadata: not JSON: {error}") from None
    raw = text.encode()
    if len(raw) > MAX_HEADER:
        raise DataError(f"artifact header: {len(raw):,} bytes, needed at most {MAX_HEADER:,}")
    results = [encode_stream(name, raw) for name in HEADER_CODECS]
    coded = min(results, key=len)
    fixed = FIXED.pack(MAGIC, VERSION, results.index(coded), len(coded), len(raw), 0)[:CHECKED]
    return fixed + crc32c(coded, crc32c(fixed)).to_bytes(4, "little") + coded


def _read_header(blob: bytes) -> tuple[dict[str, Any], list[_Stream], int]:
    """Metadata, index and the offset of the first stream."""
    start = FIXED.size
    if blob[: len(MAGIC)] != MAGIC:
        raise DataError(f"artifact: begins with {bytes(blob[: len(MAGIC)])!r}, needed {MAGIC!r}")
    if len(blob) < start:
        raise DataError(f"artifact: {len(blob)} bytes, needed at least {start}")
    _, version, codec, coded_bytes, raw_bytes, crc = FIXED.unpack_from(blob)
    if version != VERSION:
        raise DataError(f"artifact: format version {version}, this program reads {VERSION}")
    if codec >= len(HEADER_CODECS) or coded_bytes > len(blob) - start or raw_bytes > MAX_HEADER:
        raise DataError(
            f"artifact header: codec {codec}, {coded_bytes:,} coded and {raw_bytes:,} decoded bytes declared; "
            f"{len(blob) - start:,} are there, at most {MAX_HEADER:,} may be decoded"
        )
    coded = blob[start : start + coded_bytes]
    if crc32c(coded, crc32c(blob[:CHECKED])) != crc:
        raise DataError("artifact header: its checksum differs; the file is damaged", hint="copy it again")
    raw = decode_stream(HEADER_CODECS[codec], coded, raw_bytes, "artifact header")
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        raise DataError("artifact header: not JSON") from None
    if not isinstance(document, dict) or not isinstance(document.get("metadata"), dict):
        raise DataError("artifact header: no metadata in it")
    return document["metadata"], _read_index(document.get("streams")), start + coded_bytes


def _read_index(index: Any) -> list[_Stream]:
    streams: list[_Stream] = []
    names: set[str] = set()
    if not isinstance(index, list):
        raise DataError("artifact index: not a list of streams")
    for i, entry in enumerate(index):
        stream = _parse_stream(entry)
        if stream is None or any(spec.name in names for spec in stream.specs) or (i and stream.codec == RANS):
            raise DataError(f"artifact index: stream {i} is not [codec, layout, bytes, CRC, arrays] of new arrays")
        names.update(spec.name for spec in stream.specs)
        streams.append(stream)
    return streams


def _parse_stream(entry: Any) -> _Stream | None:
    match entry:
        case [str(codec), str(layout), int(coded_bytes), int(crc), [*items]] if items:
            specs = tuple(spec for item in items if (spec := _parse_array(item)) is not None)
            names = {spec.name for spec in specs}
            flat = any(len(spec.shape) != 2 for spec in specs)
            known = layout in LAYOUTS and not (flat and layout == "column")
            if codec == RANS:
                known = layout == "row" and fits(specs)
            if known and coded_bytes >= 0 and len(names) == len(items) and len({spec.dtype for spec in specs}) == 1:
                return _Stream(codec, layout, coded_bytes, crc, specs)
    return None


def _parse_array(item: Any) -> ArraySpec | None:
    match item:
        case [str(name), str(dtype), [*shape]] if dtype in DTYPES and len(shape) <= MAX_DIMENSIONS:
            # An empty dimension must not hide a size that no machine could address.
            if all(type(n) is int and n >= 0 for n in shape) and prod(max(n, 1) for n in shape) <= MAX_DECODED:
                return ArraySpec(name, dtype, tuple(shape))
    return None


def _carried(streams: Sequence[_Stream]) -> int:
    """Bytes of the other streams that ride in the lanes of the first."""
    if not streams or streams[0].codec != RANS:
        return 0
    return min(CARRIED * lanes_of(streams[0].specs), sum(stream.coded_bytes for stream in streams[1:]))


def _checksum(coded: bytes | memoryview, arrays: Iterable[np.ndarray]) -> int:
    crc = crc32c(coded)
    for array in arrays:
        crc = crc32c(in_rows(array), crc)
    return crc
