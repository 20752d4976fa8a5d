"""Bytes of text that each target token stands for: the denominator of bits per byte.

The rules are the challenge's. A piece counts the UTF-8 bytes of its text without a leading U+2581; that mark counts
one more byte, the space, unless the token before is a boundary (control, unknown, unused: BOS above all). A byte
token counts one. Boundaries count none as targets, though their loss is in the numerator. Nor do the markers of a
transform (:mod:`golf.data.transform`), which are no boundaries.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golf.data.tokenizer import SPACE_MARK, load_sentencepiece
from golf.data.vocabulary import check_ids
from golf.runtime.errors import DataError, MissingInput
from golf.runtime.files import write_bytes


@dataclass(frozen=True)
class ByteTable:
    """Three columns over the vocabulary (V,): what :meth:`count` needs and a model's file never has to be read for."""

    base: Tensor  # int16: bytes of the piece without its leading space
    leading_space: Tensor  # bool: the piece begins with a space
    boundary: Tensor  # bool: after this token no space is counted

    @property
    def vocab_size(self) -> int:
        """Number of token ids."""
        return self.base.numel()

    def count(self, tokens: Tensor) -> Tensor:
        """Bytes of ``tokens[1:]``: any integer (T,) in, int64 (T-1,) out, on the device of ``tokens``.

        Raises:
            DataError: a token is outside the vocabulary.
        """
        ids = tokens.to(torch.int64)
        check_ids(ids, self.vocab_size, "byte table")
        device = ids.device
        previous, target = ids[:-1], ids[1:]
        space = self.leading_space.to(device)[target] & ~self.boundary.to(device)[previous]
        return self.base.to(device)[target].to(torch.int64) + space.to(torch.int64)

    @classmethod
    def from_sentencepiece(
        cls, path: Path | str, vocab_size: int | None = None, markers: Sequence[int] = ()
    ) -> ByteTable:
        """The table of a SentencePiece model; ids from its size up to ``vocab_size`` are boundaries of no bytes.

        ``markers`` are ids that stand for no text, such as those of a transform.

        Raises:
            MissingInput, DataError: no such file; not a SentencePiece model.
        """
        return cls.from_processor(load_sentencepiece(path), vocab_size, markers)

    @classmethod
    def from_processor(cls, model: Any, vocab_size: int | None = None, markers: Sequence[int] = ()) -> ByteTable:
        """The table of a loaded ``SentencePieceProcessor``."""
        known = int(model.vocab_size())
        size = max(vocab_size or 0, known)
        base = torch.zeros(size, dtype=torch.int16)
        leading_space = torch.zeros(size, dtype=torch.bool)
        boundary = torch.ones(size, dtype=torch.bool)
        for index in range(known):
            if model.is_control(index) or model.is_unknown(index) or model.is_unused(index):
                continue
            boundary[index] = False
            if index in markers:
                continue
            if model.is_byte(index):
                base[index] = 1
                continue
            piece = model.id_to_piece(index)
            leading_space[index] = piece.startswith(SPACE_MARK)
            base[index] = len(piece.removeprefix(SPACE_MARK).encode())
        return cls(base, leading_space, boundary)

    def save(self, path: Path | str) -> None:
        """Write the three columns as safetensors."""
        from safetensors.torch import save

        columns = {"base": self.base, "boundary": self.boundary, "leading_space": self.leading_space}
        write_bytes(path, save({name: column.contiguous() for name, column in columns.items()}))

    @classmethod
    def load(cls, path: Path | str) -> ByteTable:
        """Read what :meth:`save` wrote.

        Raises:
            MissingInput, DataError: no such file; not such a table.
        """
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = Path(path)
        if not path.is_file():
            raise MissingInput(f"{path}: no byte table", hint="dvc repro tokenize")
        needed = {"base": torch.int16, "boundary": torch.bool, "leading_space": torch.bool}
        try:
            found = load_file(str(path))
        except SafetensorError as error:
            raise DataError(f"{path}: not a byte table: {error}", hint="dvc repro --force tokenize") from None
        wrong = {name: column.dtype for name, column in found.items()} != needed
        if wrong or len({column.shape for column in found.values()}) != 1 or found["base"].dim() != 1:
            shapes = {name: (column.dtype, tuple(column.shape)) for name, column in found.items()}
            raise DataError(f"{path}: found {shapes}, needed {needed}, each (V,)", hint="dvc repro --force tokenize")
        return cls(found["base"], found["leading_space"], found["boundary"])
