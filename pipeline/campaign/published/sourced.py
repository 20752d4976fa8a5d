"""A number and the line that it stands on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.runtime.errors import DataError

Key = tuple[str | int, ...]  # where a value stands in a JSON document: ("seed_results", "42", "val_bpb")
LIMIT = 64 << 20  # bytes of a file that is read at all

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:,]|[^\s{}\[\]:,"]+')


@dataclass(frozen=True)
class Sourced:
    """``value`` as found at ``source``, "file:line" from the checkout's top folder.

    ``digits``: decimals that were printed, which say how exact it is.
    """

    value: float
    source: str
    digits: int = 0

    @property
    def half_unit(self) -> float:
        """Half a unit of the last printed decimal."""
        return 0.5 * 10.0**-self.digits

    def agrees(self, other: Sourced) -> bool:
        """Whether both may be the same number, each rounded or cut to its own decimals."""
        return abs(self.value - other.value) <= 2.0001 * max(self.half_unit, other.half_unit)


def sourced(text: str, source: str) -> Sourced:
    """The number written as ``text``."""
    return Sourced(float(text), source, len(text.partition(".")[2]) if "e" not in text.lower() else 0)


@dataclass(frozen=True)
class Document:
    """A JSON object that knows its lines. ``name``: its path from the checkout's top folder."""

    name: str
    content: dict[str, Any]
    lines: dict[Key, int]
    digits: dict[Key, int]  # decimals as written: 1.1000 has four, which its value no longer shows

    def number(self, *key: str | int, scale: float = 1.0) -> Sourced | None:
        """The finite number at ``key``, times ``scale``; None for anything else that may stand there."""
        value: Any = self.content
        for part in key:
            if isinstance(value, dict):
                value = value.get(part)
            elif isinstance(value, list) and isinstance(part, int) and part < len(value):
                value = value[part]
            else:
                return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < 1e18:
            return None
        return Sourced(value * scale, self.source(*key), self.digits.get(key, 0))

    def first(self, *names: str, under: Key = (), scale: float = 1.0) -> Sourced | None:
        """The number under the first of several ``names`` for the same thing."""
        return next((found for name in names if (found := self.number(*under, name, scale=scale))), None)

    def text(self, *names: str) -> str:
        """The text under the first of ``names``; empty if there is none."""
        return next((v for name in names if isinstance(v := self.content.get(name), str) and v), "")

    def source(self, *key: str | int) -> str:
        """ "file:line" of the value at ``key``."""
        return f"{self.name}:{self.lines.get(key, 1)}"


def read_text(path: Path) -> str:
    """The text of a file, whatever bytes it holds.

    Raises:
        DataError: it can't be read, or is far too large for a log.
    """
    try:
        size = path.stat().st_size
        if size > LIMIT:
            raise DataError(f"{path.name}: found {size:,} bytes, needed {LIMIT:,} at most for a log or JSON")
        return path.read_bytes().decode("utf-8", errors="replace")
    except OSError as error:
        raise DataError(f"{path.name}: {error.strerror or error}") from None


def read_document(path: Path, name: str) -> Document:
    """A JSON object with its lines.

    Raises:
        DataError: it isn't JSON, or not an object.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path.name}: not JSON: {error}") from None
    if not isinstance(content, dict):
        raise DataError(f"{path.name}: found {type(content).__name__}, needed an object")
    values = list(_values(text))
    digits = {key: len(token.partition(".")[2]) for key, _, token in values if re.fullmatch(r"-?\d+\.\d+", token)}
    return Document(name, content, {key: line for key, line, _ in values}, digits)


def _values(text: str) -> Iterator[tuple[Key, int, str]]:
    """Each value of a valid JSON text: its key, the line on which it begins (from 1), its first token."""
    path: list[str | int] = []
    kinds: list[str] = []  # of the open brackets
    name: str | None = None  # a string that may turn out to be a key
    line, at = 1, 0
    for match in _TOKEN.finditer(text):
        line, at = line + text.count("\n", at, match.start()), match.start()
        token = match.group()
        if token == ":":
            path[-1] = str(name)
        elif token == ",":
            if kinds[-1] == "[":
                path[-1] = int(path[-1]) + 1
        elif token in "}]":
            kinds.pop()
            path.pop()
        elif kinds and kinds[-1] == "{" and token[0] == '"' and _is_key(text, match.end()):
            name = json.loads(token)
        else:
            yield tuple(path), line, token
            if token in "{[":
                kinds.append(token)
                path.append(0)


def _is_key(text: str, end: int) -> bool:
    return text[end : end + 64].lstrip()[:1] == ":"
