"""Text of another tokenizer is found by its ids: a GPU would only say that an assertion failed."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from golf.runtime.errors import DataError


def check_ids(ids: Tensor | np.ndarray, vocab_size: int, text: str, hint: str = "dvc repro --force tokenize") -> None:
    """Refuse token ids, of any shape, that a vocabulary does not have.

    Args:
        ids: of ``text``.
        vocab_size: ids are 0 to this, less 1.
        text: what the error names.
        hint: what helps.

    Raises:
        DataError: there is one.
    """
    if len(ids) and not 0 <= int(ids.min()) <= int(ids.max()) < vocab_size:
        found = int(ids.min() if ids.min() < 0 else ids.max())
        raise DataError(
            f"{text}: found token {found}, needed 0 to {vocab_size - 1}: another tokenizer wrote this text",
            hint=hint,
        )


def check_vocabulary(
    found: int, needed: int, hint: str = "the bytes.safetensors of the tokenizer that the model was trained with"
) -> None:
    """Refuse a byte table of ``found`` tokens for a model of ``needed``.

    Raises:
        DataError: the sizes differ.
    """
    if found != needed:
        raise DataError(f"byte table of {found} tokens, needed {needed}, the model's vocabulary", hint=hint)
