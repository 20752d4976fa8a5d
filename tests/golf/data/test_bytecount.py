"""Byte counting held against the worked vectors of the challenge."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from golf.data.bytecount import ByteTable
from golf.runtime.errors import DataError, MissingInput
from tests.pieces import Pieces


def counts(*pieces: str) -> list[int]:
    """Bytes of each piece in a row after a BOS."""
    vocabulary = Pieces(*pieces)
    table = ByteTable.from_processor(vocabulary)
    ids = [1, *(vocabulary.pieces.index(piece) for piece in pieces)]
    return table.count(torch.tensor(ids)).tolist()


@pytest.mark.parametrize(
    ("pieces", "needed"),
    [
        ("H ello ▁world", [1, 4, 6]),
        ("c af <0xC3> <0xA9> ▁costs ▁ 5 <0xE2> <0x82> <0xAC>", [1, 2, 1, 1, 6, 1, 1, 1, 1, 1]),
        ("<0xF0> <0x9F> <0x98> <0x80> ▁ok", [1, 1, 1, 1, 3]),
        ("H ello", [1, 4]),
        ("▁world", [5]),  # after a BOS no space is counted
        ("a <0xE2> <0x96> <0x81> b", [1, 1, 1, 1, 1]),  # a vocabulary without the lone mark: 5 for 3 true bytes
        ("a <s> ▁b", [1, 0, 1]),
        ("a ? ▁b", [1, 0, 1]),
        ("a ! ▁b", [1, 0, 1]),
        ("a \ue001 ▁b▁c", [1, 3, 6]),  # a user-defined symbol is text; only the first mark is a space
    ],
)
def test_vectors(pieces: str, needed: list[int]) -> None:
    assert counts(*pieces.split()) == needed


def test_markers_of_a_transform_count_nothing_and_are_no_boundaries() -> None:
    table = ByteTable.from_processor(Pieces("\ue001", "▁b"), markers=(4,))
    assert table.count(torch.tensor([1, 4, 5, 4])).tolist() == [0, 2, 0]


def test_first_token_is_no_target_and_short_streams_have_none() -> None:
    table = ByteTable.from_processor(Pieces("abc"))
    assert table.count(torch.tensor([4, 4])).tolist() == [3]
    assert table.count(torch.tensor([4])).tolist() == []
    assert table.count(torch.tensor([], dtype=torch.int64)).tolist() == []
    assert table.count(torch.tensor([1, 4], dtype=torch.int32)).dtype == torch.int64


def test_padding_ids_are_boundaries_of_no_bytes(tmp_path: Path) -> None:
    table = ByteTable.from_processor(Pieces("▁a"), vocab_size=8)
    assert table.vocab_size == 8
    assert table.count(torch.tensor([4, 6, 4])).tolist() == [0, 1]


@pytest.mark.parametrize("token", [-1, 5])
def test_foreign_tokens_are_refused(token: int) -> None:
    with pytest.raises(DataError, match="another tokenizer"):
        ByteTable.from_processor(Pieces("a")).count(torch.tensor([1, token]))


def test_saved_table_is_read_back(tmp_path: Path) -> None:
    table = ByteTable.from_processor(Pieces("▁a", "b", "<0x00>"))
    table.save(tmp_path / "bytes.safetensors")
    again = ByteTable.load(tmp_path / "bytes.safetensors")
    for name in ("base", "leading_space", "boundary"):
        assert torch.equal(getattr(table, name), getattr(again, name))
        assert getattr(table, name).dtype == getattr(again, name).dtype


def test_bad_tables_and_models_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "bytes.safetensors"
    with pytest.raises(MissingInput):
        ByteTable.load(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(DataError, match="not a byte table"):
        ByteTable.load(path)
    save_file({"base": torch.zeros(3)}, str(path))
    with pytest.raises(DataError, match="needed"):
        ByteTable.load(path)
    with pytest.raises(MissingInput):
        ByteTable.from_sentencepiece(tmp_path / "no.model")
    for content in (b"", b"nonsense"):
        (tmp_path / "bad.model").write_bytes(content)
        with pytest.raises(DataError, match="not a SentencePiece model"):
            ByteTable.from_sentencepiece(tmp_path / "bad.model")
