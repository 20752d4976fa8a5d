"""Case operations: a lossless transform that takes capitals out of words and puts markers before them.

A word is then the same tokens at the start of a sentence, in a heading and in the middle. The markers are four code
points of the private-use area, which the tokenizer knows as symbols of their own:

* ``TITLE``: the next letter, at the start of a word, is a capital.
* ``ALLCAPS``: so are all letters from here to the end of the run of letters.
* ``CAPNEXT``: the next letter, inside a word, is a capital; behind the letters of ALLCAPS: from here on none is.
* ``ESC``: the marker that follows is itself text.

A marker stands before the single space in front of its word, so that the space stays with the word:
``see The NASA PCs`` becomes ``see⟨TITLE⟩ the⟨ALLCAPS⟩ nasa⟨ALLCAPS⟩ pc⟨CAPNEXT⟩s``.

Letters are those of :func:`case_pairs`, whose capital and small letter are each other's only partner, of the same
length in UTF-8: a character counts the same bytes before and after. A run of letters that a combining mark follows is
left as it is: of its small letters and the mark, normalisation could make another character.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from golf.runtime.errors import DataError

TITLE, ALLCAPS, CAPNEXT, ESC = MARKERS = "\ue001", "\ue002", "\ue003", "\ue004"
# Latin, Greek, Cyrillic and Armenian up to Unicode 7: every version of Python has the same pairs there.
BLOCKS = (range(0x0041, 0x0588), range(0x1E00, 0x1F00))
MARKS = range(0x0300, 0x0370)  # the combining marks that letters of BLOCKS compose with

_OTHER, _SMALL, _CAPITAL, _MARK, _MARKER = 0, 1, 2, 3, 4
_PLANE = 0x10000
_END = 0x110000  # behind the last code point: ends a text among several
_BLOCK = 50_000  # characters changed at once: their arrays fit a core's cache
_TITLE, _ALLCAPS, _CAPNEXT, _ESC = 0xE001, 0xE002, 0xE003, 0xE004
_SPACE = 0x20


@cache
def case_pairs() -> dict[str, str]:
    """Capital to small letter, one to one, equally long in UTF-8: no ß, İ, ſ, ς, ẞ, ǅ."""
    pairs = {}
    for capital in (chr(point) for block in BLOCKS for point in block):
        small = capital.lower()
        if small != capital and len(small) == 1 and small.upper() == capital and any(ord(small) in b for b in BLOCKS):
            pairs[capital] = small
    return pairs


def apply(texts: Sequence[str]) -> list[str]:
    """The transformed texts, without any capital of a pair but those before combining marks.

    Raises:
        DataError: half a surrogate pair.
    """
    return _by_block(_apply, texts)


def undo(texts: Sequence[str]) -> list[str]:
    """The texts that :func:`apply` made ``texts`` of; a marker before nothing that it could apply to stays.

    Raises:
        DataError: half a surrogate pair.
    """
    return _by_block(_undo, texts)


def _apply(points: np.ndarray) -> np.ndarray:
    """:func:`apply` on code points (n,); changes them."""
    kind = _kinds()[np.minimum(points, _PLANE - 1)]
    capital, marker = kind == _CAPITAL, kind == _MARKER
    letter = capital | (kind == _SMALL)
    if (kind == _MARK).any():
        capital &= ~_before_marks(letter, kind == _MARK)
    if not (capital.any() or marker.any()):
        return points
    after_letter, after_capital = _shifted(letter), _shifted(capital)
    first = np.flatnonzero(capital & ~after_capital)  # of each run of capitals
    several = _shifted(capital, -1)[first]
    inside = after_letter[first]
    chosen = np.where(several, _ALLCAPS, np.where(inside, _CAPNEXT, _TITLE)).astype(np.uint32)
    spaced = ~inside & (first > 0) & (points[first - 1] == _SPACE)
    ends = np.flatnonzero((kind == _SMALL) & after_capital & _shifted(capital, 2))
    inserted = np.zeros_like(points)
    inserted[first - spaced] = chosen
    inserted[ends] = _CAPNEXT
    inserted[marker] = _ESC
    points[capital] = _partners()[points[capital]]
    places = np.flatnonzero(inserted)
    return np.insert(points, places, inserted[places])


def _undo(points: np.ndarray) -> np.ndarray:
    """:func:`undo` on code points (n,); changes them."""
    kind = _kinds()[np.minimum(points, _PLANE - 1)]
    places = np.flatnonzero(kind == _MARKER)
    if not places.size:
        return points
    kept = np.ones(points.size, dtype=bool)
    if (points[places] == _ESC).any():
        places = _unescaped(points, places, kept)
    what = points[places]
    padded = np.concatenate([kind, np.zeros(2, kind.dtype)])  # so that every place has two behind it
    spaced = (what != _CAPNEXT) & (np.concatenate([points, np.zeros(1, points.dtype)])[places + 1] == _SPACE)
    starts = places + 1 + spaced
    applies = (padded[starts] == _SMALL) & (what != _ESC)
    ends = starts + 1
    others = np.append(np.flatnonzero(kind != _SMALL), points.size)
    runs = what == _ALLCAPS
    ends[runs] = others[np.searchsorted(others, starts[runs])]
    closing = np.isin(places, ends[runs & applies]) & (what == _CAPNEXT)
    kept[places[applies | closing]] = False
    edges = np.zeros(points.size + 1, dtype=np.int32)
    capitals = applies & ~closing
    edges[starts[capitals]] += 1
    edges[ends[capitals]] -= 1
    chosen = np.cumsum(edges[:-1]) > 0
    points[chosen] = _partners()[points[chosen]]
    return points[kept]


def _before_marks(letter: np.ndarray, mark: np.ndarray) -> np.ndarray:
    """Which places belong to a run of letters that a mark follows."""
    run = np.cumsum(letter & ~_shifted(letter))
    spoilt = np.zeros(int(run[-1]) + 1, dtype=bool)
    spoilt[run[letter & _shifted(mark, -1)]] = True
    return spoilt[run] & letter


def _unescaped(points: np.ndarray, places: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The ``places`` of markers that are no text; the ESC before one that is, is not ``kept``."""
    real, literal = [], -1
    for place in places.tolist():
        if place == literal:
            continue
        if points[place] == _ESC and place + 1 < points.size and _TITLE <= points[place + 1] <= _ESC:
            kept[place] = False
            literal = place + 1
        else:
            real.append(place)
    return np.array(real, dtype=np.int64)


def _shifted(flags: np.ndarray, by: int = 1) -> np.ndarray:
    """``flags`` moved ``by`` places to the right (left below 0); False comes in."""
    moved = np.zeros_like(flags)
    if by > 0:
        moved[by:] = flags[:-by]
    else:
        moved[:by] = flags[-by:]
    return moved


def _by_block(change: Callable[[np.ndarray], np.ndarray], texts: Sequence[str]) -> list[str]:
    """``change`` on the code points of all texts, many at once: short ones alone would cost five times as much."""
    changed: list[str] = []
    block: list[str] = []
    size = 0
    for number, text in enumerate(texts, 1):
        block.append(text)
        size += len(text)
        if size >= _BLOCK or number == len(texts):
            changed += _split(change(_joined(block, number - len(block))))
            block, size = [], 0
    return changed


def _joined(texts: list[str], first: int) -> np.ndarray:
    """The code points of ``texts``, uint32, and _END behind each."""
    try:
        points = np.frombuffer(bytearray("".join(text + "\0" for text in texts).encode("utf-32-le")), dtype="<u4")
    except UnicodeEncodeError:
        number, place = next((i, k) for i, text in enumerate(texts, first) for k, c in enumerate(text) if _is_half(c))
        raise DataError(f"text {number}: half a surrogate pair at character {place}: no valid text") from None
    points[np.cumsum([len(text) + 1 for text in texts]) - 1] = _END
    return points


def _split(points: np.ndarray) -> list[str]:
    content = points.astype("<u4", copy=False).tobytes()
    ends = (4 * np.flatnonzero(points == _END)).tolist()
    return [content[start + 4 : end].decode("utf-32-le") for start, end in pairwise([-4, *ends])]


def _is_half(character: str) -> bool:
    return 0xD800 <= ord(character) < 0xE000


@cache
def _kinds() -> np.ndarray:
    """What each code point of the basic plane is; the last, no character, stands for those beyond it."""
    kinds = np.full(_PLANE, _OTHER, dtype=np.uint8)
    for capital, small in case_pairs().items():
        kinds[ord(capital)], kinds[ord(small)] = _CAPITAL, _SMALL
    kinds[MARKS.start : MARKS.stop] = _MARK
    kinds[[ord(marker) for marker in MARKERS]] = _MARKER
    return kinds


@cache
def _partners() -> np.ndarray:
    """The other letter of each pair, over the basic plane."""
    partners = np.arange(_PLANE, dtype=np.uint32)
    for capital, small in case_pairs().items():
        partners[ord(capital)], partners[ord(small)] = ord(small), ord(capital)
    return partners
