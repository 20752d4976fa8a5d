"""The transform of text before it is tokenized (``tokenizer.transform``), and the models that fit it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from golf.data import caseops
from golf.data.tokenizer import NORMALIZER, SPACE_MARK, train_model
from golf.runtime.errors import DataError

_AT_ONCE = 1000  # sentences transformed at a time


def train_transformed(documents: Iterable[str], vocab_size: int, train_bytes: int, transform: str) -> bytes:
    """:func:`golf.data.tokenizer.train_model` on transformed text: its markers are the tokens 4 to 7."""
    if transform == "none":
        return train_model(documents, vocab_size, train_bytes)
    return train_model(documents, vocab_size, train_bytes, transform=_transformed, markers=caseops.MARKERS)


def check_transform(model: Any, path: Path | str, transform: str) -> None:
    """Refuse to transform text for a model without the markers, and to leave it as it is for one with them.

    Raises:
        DataError: a model of the other kind, or one that puts a space before each text: the transform would meet the
            normalised text with one space, and the model with two.
    """
    known = bool(marker_ids(model))
    markers = "U+E001 to U+E004"
    if transform == "none":
        if known:
            raise DataError(
                f"{path}: found the markers {markers} among its tokens, needed a model without them for "
                "tokenizer.transform: none",
                hint="dvc exp run -S tokenizer.transform=caseops",
            )
        return
    if not known:
        raise DataError(
            f"{path}: found no tokens for the markers {markers}, needed all four for tokenizer.transform: {transform}",
            hint="dvc exp run -S tokenizer.model=data/source/tokenizer (an empty folder: one is trained)",
        )
    if model.normalize("a") != "a":
        raise DataError(
            f"{path}: found a dummy prefix, needed none for tokenizer.transform: {transform}",
            hint="train with add_dummy_prefix=false, or let tokenize train one",
        )


def marker_ids(model: Any) -> tuple[int, ...]:
    """Ids of TITLE, ALLCAPS, CAPNEXT and ESC in a ``SentencePieceProcessor``; none of one that lacks any of them."""
    ids = tuple(int(model.piece_to_id(marker)) for marker in caseops.MARKERS)
    return ids if [model.id_to_piece(index) for index in ids] == list(caseops.MARKERS) else ()


def _transformed(sentences: Iterator[str]) -> Iterator[str]:
    """Sentences as the model will meet them: normalised, then transformed."""
    import sentencepiece

    normalizer = sentencepiece.SentencePieceNormalizer(rule_name=NORMALIZER)
    while batch := list(islice(sentences, _AT_ONCE)):
        yield from caseops.apply([normalizer.normalize(text).replace(SPACE_MARK, " ") for text in batch])
