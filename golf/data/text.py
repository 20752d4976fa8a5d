"""Documents out of the user's own files: ``.jsonl`` (plain, ``.zst``, ``.gz``) and ``.txt``.

A line of JSON holds one document, ``{"text": "…"}``; other keys are ignored. A ``.txt`` file is one document.
Documents without any visible character are skipped. A line that is none of this is refused by ``file:line``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

from golf.runtime.errors import DataError, MissingInput

JSONL = (".jsonl", ".jsonl.zst", ".jsonl.gz")
TEXT = (".txt",)
SUFFIXES = {"jsonl": JSONL, "text": TEXT}
_CHUNK = 1 << 20
_WINDOW = 1 << 31  # bytes: the largest that `zstd --long` writes


def text_files(path: Path | str, suffixes: tuple[str, ...]) -> list[Path]:
    """The file at ``path``, or the files below it that end in one of ``suffixes``, sorted by their relative path.

    Hidden files and everything in a folder of the name ``.git`` or the like are left out.

    Raises:
        MissingInput: nothing is there.
        DataError: ``path`` is a file of another kind.
    """
    path = Path(path)
    wanted = ", ".join(suffixes)
    if path.is_file():
        if path.name.endswith(suffixes):
            return [path]
        raise DataError(
            f"{path}: found {path.suffix or 'no suffix'}, needed {wanted}", hint="see data.source, data.path"
        )
    if not path.is_dir():
        raise MissingInput(f"{path}: no such file or folder", hint=f"put {wanted} files there, or set data.path")
    found = sorted(
        (file.relative_to(path).as_posix(), file)
        for file in path.rglob("*")
        if file.name.endswith(suffixes)
        and file.is_file()
        and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    return [file for _, file in found]


def read_documents(files: Iterable[Path]) -> Iterator[str]:
    """The documents of ``files``, in order.

    Raises:
        DataError: a file is damaged, or a line is not a document; the message names ``file:line``.
    """
    for file in files:
        if file.name.endswith(TEXT):
            text = _decode(file.read_bytes().removeprefix(b"\xef\xbb\xbf"), str(file))
            if text.strip():
                yield text
        else:
            yield from _jsonl(file)


def limited(documents: Iterable[str], max_documents: int = 0, max_bytes: int = 0) -> Generator[str, None, bool]:
    """The first ``max_documents`` documents within ``max_bytes`` of UTF-8; 0 means no limit.

    The document that would pass the limit of bytes is cut there, after its last white space. Behind a limit nothing is
    read: what stands there may be damaged.

    Returns:
        whether a limit ended it, as the value of ``yield from``.
    """
    left = max_bytes
    for number, text in enumerate(documents, 1):
        if max_bytes:
            raw = text.encode()
            if len(raw) > left:
                start = raw[:left].decode(errors="ignore")
                kept = start[: len(start.rstrip()) and max(map(start.rfind, " \n\t"), default=-1) + 1].rstrip()
                if kept or (start.strip() and left == max_bytes):
                    yield kept or start
                return True
            left -= len(raw)
        yield text
        if number == max_documents:
            return True
    return False


def parse_line(line: bytes, where: str) -> str:
    """The text of one line of JSON.

    Raises:
        DataError: it is not ``{"text": "…"}`` in UTF-8.
    """
    try:
        value = json.loads(line)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: not UTF-8: {error.reason} at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f'{where}: found {_short(line)}, needed {{"text": "…"}} ({error})') from None
    text = value.get("text") if isinstance(value, dict) else None
    if not isinstance(text, str):
        found = f"the keys {sorted(value)[:8]}" if isinstance(value, dict) else type(value).__name__
        if isinstance(value, dict) and "text" in value:
            found = f"text of the type {type(text).__name__}"
        raise DataError(f'{where}: found {found}, needed {{"text": "…"}}')
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: half a surrogate pair at character {error.start}: no valid text") from None
    return text


def read_lines(file: Path) -> Iterator[bytes]:
    """The lines of a plain or compressed file, without their ends; a damaged or cut file is refused."""
    rest = b""
    try:
        for chunk in _chunks(file):
            *lines, rest = (rest + chunk).split(b"\n")
            yield from lines
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{file}: damaged or cut short: {error}", hint="copy the file again") from None
    if rest:
        yield rest


def _jsonl(file: Path) -> Iterator[str]:
    for number, line in enumerate(read_lines(file), 1):
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # noqa: PLW2901
        if not line.strip():
            continue
        text = parse_line(line, f"{file}:{number}")
        if text.strip():
            yield text


def _chunks(file: Path) -> Iterator[bytes]:
    if file.suffix == ".zst":
        yield from _zst_chunks(file)
        return
    with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            yield chunk


def _zst_chunks(file: Path) -> Iterator[bytes]:
    """Like the stream reader of zstandard, which takes a cut file for a whole one."""
    import zstandard

    frame = None
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            while chunk:
                frame = frame or zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj()
                try:
                    yield frame.decompress(chunk)
                except zstandard.ZstdError as error:
                    raise EOFError(str(error)) from None
                chunk = b""
                if frame.eof:
                    chunk, frame = frame.unused_data, None
    if frame is not None:
        raise EOFError("the last frame has no end")


def _decode(raw: bytes, where: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise DataError(
            f"{where}:{line}: not UTF-8: byte 0x{raw[error.start]:02x} at offset {error.start}",
            hint=f"iconv -t UTF-8 {where}",
        ) from None


def _short(line: bytes) -> str:
    text = line[:60].decode(errors="replace")
    return repr(text + ("…" if len(line) > 60 else ""))
