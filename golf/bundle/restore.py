"""Bytes of the text that transformed tokens stand for, counted a second way: by restoring it, character by character.

Nothing here but the pairs of letters is shared with :mod:`golf.data.caseops`, whose sidecar it is held against.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator, Sequence
from typing import Any

from golf.data.caseops import ALLCAPS, CAPNEXT, ESC, TITLE, case_pairs


def restored_bytes(processor: Any, tokens: Sequence[int]) -> list[int]:
    """Bytes of each of ``tokens``, those of the characters that it completes in the original text.

    Args:
        processor: a ``SentencePieceProcessor`` that knows the markers.
        tokens: documents, each behind its BOS; the last one may be cut anywhere.
    """
    counts: list[int] = []
    start = 0
    while start < len(tokens):
        stop = next((i for i in range(start + 1, len(tokens)) if tokens[i] == processor.bos_id()), len(tokens))
        counts += _document(processor, tokens[start:stop])
        start = stop
    return counts


def _document(processor: Any, tokens: Sequence[int]) -> list[int]:
    counts = [0] * len(tokens)
    for character, place in _restored(_characters(processor, tokens)):
        counts[place] += len(character.encode())
    return counts


def _characters(processor: Any, tokens: Sequence[int]) -> Iterator[tuple[str, int]]:
    """The characters that the tokens decode to, each with the place of the token that completes it."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    boundary = True
    for place, token in enumerate(tokens):
        if processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token):
            boundary = True
            continue
        piece = processor.id_to_piece(token)
        text = piece.replace("\u2581", " ").encode()
        raw = bytes([int(piece[3:5], 16)]) if processor.is_byte(token) else text
        yield from ((character, place) for character in decoder.decode(raw[boundary and raw[:1] == b" " :]))
        boundary = False


def _restored(characters: Iterator[tuple[str, int]]) -> Iterator[tuple[str, int]]:
    """The characters of the original: markers change what follows them and go."""
    capitals = {small: capital for capital, small in case_pairs().items()}
    marker, begun = "", False  # what is in force; whether a letter has come since
    escaped = False
    for character, place in characters:
        if escaped or character not in (TITLE, ALLCAPS, CAPNEXT, ESC):
            small = character in capitals and not escaped
            yield (capitals[character] if small and marker else character), place
            waits = character == " " and not begun and marker in (TITLE, ALLCAPS)
            if not (waits or (small and marker == ALLCAPS)):
                marker = ""
            begun, escaped = small, False
        elif character == ESC:
            escaped = True
        else:
            ends = character == CAPNEXT and marker == ALLCAPS and begun
            marker, begun = "" if ends else character, False
