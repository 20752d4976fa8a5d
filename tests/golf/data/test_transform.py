"""Transformed text through the tokenizer: models, shards and their sidecar, the byte counts of others, refusals."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from golf.bundle.restore import restored_bytes
from golf.data import caseops, encode
from golf.data.bytecount import ByteTable
from golf.data.caseops import ALLCAPS, CAPNEXT, ESC, MARKERS, TITLE
from golf.data.encode import Encoder, encode_documents
from golf.data.raw import sha256, write_manifest, write_text
from golf.data.shards import list_shards, load_index, read_shard, read_sidecar, read_split, write_shard
from golf.data.sidecar import TokenBytes
from golf.data.tokenize import tokenize
from golf.data.tokenizer import load_sentencepiece, train_model
from golf.data.transform import marker_ids, train_transformed
from golf.data.verify import verify
from golf.params.tokenizer import Tokenizer
from golf.runtime.errors import ConfigError, DataError
from tests.golf.data.test_caseops import ALPHABET
from tests.pieces import Pieces

WORDS = ["the", "of", "NASA", "OpenAI", "Launch", "byte", "iPhone", "PCs", "I", "THE", "Café", "École", "naïve", "2024"]
HARD = [
    "The NASA Launch", "iPhone OpenAI", "café 😀", "\ue001\ue002 \ue004\ue004\ue001 The \ue001Launch", "a\0B  \0 NUL\0",
    "J\u030cAB CD\u0327 ABC\u0301", "\uff26\uff35LL \uff37IDTH \u2581The \u2581\u2581Two", "\u2581Lead THE",
    "ΟΔΟΣ Οδός ΣΑΣ ς", "STRAßE İstanbul \u0131I ǅ Ǆ ǆ \u212a ẞ", "\u200b", " X ", "\n\tA\u00a0B", "ﬁRST ﬁ\u0301",
    "A\u00adB",
]  # fmt: skip


def make_documents(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [f"Document {i}:  " + " ".join(rng.choice(WORDS) + rng.choice(["", ".\n"]) for _ in range(90))
            for i in range(count)]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "case.model"
    path.write_bytes(train_transformed(make_documents(80), 360, 10**6, "caseops"))
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "raw").mkdir()
    entries = write_text(tmp_path / "raw", "train", make_documents(60)) + write_text(tmp_path / "raw", "val", HARD)
    write_manifest(tmp_path / "raw", "text", "jsonl", entries)
    return tmp_path


def run(**changes: Any) -> dict[str, Any]:
    values = {"model": "models", "vocab_size": 360, "heldout_share": 0.1, "transform": "caseops"}
    return tokenize(Tokenizer(**(values | changes)), "raw", "tokenizer", "shards")


@pytest.mark.parametrize(
    ("pieces", "needed", "without"),
    [
        (f"{TITLE} the ▁ {ALLCAPS} nas a ▁ {TITLE} la unch", [0, 3, 1, 0, 3, 1, 1, 0, 2, 4], 24),
        (f"i {CAPNEXT} phone ▁ {TITLE} open {CAPNEXT} a {CAPNEXT} i", [1, 0, 5, 1, 0, 4, 0, 1, 0, 1], 25),
        ("c af <0xC3> <0xA9> ▁ <0xF0> <0x9F> <0x98> <0x80>", [1, 2, 0, 2, 1, 0, 0, 0, 4], 10),
        (f"{TITLE} ▁the {ESC} {TITLE} {ESC} {ESC} {ESC} {ALLCAPS} {TITLE} a", [0, 4, 0, 3, 0, 3, 0, 3, 0, 1], 29),
    ],
)
def test_worked_vectors(pieces: str, needed: list[int], without: int) -> None:
    words = pieces.split()
    vocabulary = Pieces(*dict.fromkeys([*MARKERS, *words]))
    ids = np.array([1, *(vocabulary.piece_to_id(word) for word in words)])
    assert TokenBytes(vocabulary).count(ids).tolist() == [0, *needed]
    assert restored_bytes(vocabulary, ids.tolist()) == [0, *needed]
    assert int(ByteTable.from_processor(vocabulary).count(torch.from_numpy(ids)).sum()) == without


def test_the_model_knows_the_markers_and_learns_words_without_capitals(model: Path) -> None:
    processor = load_sentencepiece(model)
    assert (processor.bos_id(), marker_ids(processor)) == (1, (4, 5, 6, 7))
    pieces = [processor.id_to_piece(index) for index in range(processor.vocab_size())]
    assert not any(set(piece) & set(caseops.case_pairs()) for piece in pieces if not piece.startswith("<"))
    assert "▁nasa" in pieces
    assert not any(marker in piece for piece in pieces if len(piece) > 1 for marker in MARKERS)
    table = ByteTable.from_sentencepiece(model, markers=marker_ids(processor))
    assert table.base[4:8].tolist() == [0] * 4
    assert not table.boundary[4:8].any()
    words = [processor.id_to_piece(i) for i in processor.encode(caseops.apply(["see NASA"])[0].replace(" ", "▁"))]
    assert words[-2:] == [ALLCAPS, "▁nasa"]


def test_end_to_end(place: Path) -> None:
    index = run(shard_tokens=1024)
    assert load_index("shards") == index
    assert index["transform"] == "caseops"
    assert index["restored_documents"] == 60 + len(HARD) - 1  # one normalises to nothing
    processor = load_sentencepiece("tokenizer/tokenizer.model")
    tokens, counts = read_split("shards", "val"), read_sidecar("shards")
    assert counts is not None
    assert counts.size == tokens.size
    assert not counts[tokens == 1].any()
    normal = [processor.normalize(processor.normalize(text)).replace("▁", " ") for text in HARD if text != "\u200b"]
    starts = np.flatnonzero(tokens == 1).tolist()
    for start, stop, text in zip(starts, [*starts[1:], tokens.size], normal, strict=True):
        assert caseops.undo([processor.decode(tokens[start + 1 : stop].tolist())]) == [text]
        assert counts[start:stop].sum() == len(text.encode())
    assert index["splits"]["val"]["bytes"] == counts.sum()
    assert index["splits"]["val"]["raw_bytes"] == sum(len(text.encode()) for text in HARD if text != "\u200b")
    assert restored_bytes(processor, tokens.tolist()) == counts.tolist()


def test_sidecars_are_cut_like_their_shards(place: Path) -> None:
    write_manifest(place / "raw", "text", "jsonl", write_text(place / "raw", "val", make_documents(30, seed=4)))
    run(shard_tokens=1024)
    names = [path.name for path in list_shards("shards", "val", sidecars=True)]
    assert len(names) > 2
    assert names == [path.name.replace("val_", "val_bytes_") for path in list_shards("shards", "val")]
    assert [read_shard(p).size for p in list_shards("shards", "val", sidecars=True)] == [
        read_shard(p).size for p in list_shards("shards", "val")
    ]


def test_without_a_transform_nothing_of_it_is_written(place: Path) -> None:
    index = run(transform="none")
    assert set(index) == {"vocab_size", "bos_id", "splits"}
    assert not list_shards("shards", "val", sidecars=True)
    assert marker_ids(load_sentencepiece("tokenizer/tokenizer.model")) == ()


def test_random_documents_come_back_and_both_counts_agree(model: Path) -> None:
    rng = random.Random(2)
    encoder = Encoder(model, transform="caseops")
    texts = ["".join(rng.choices(ALPHABET, k=rng.randrange(1, 40))) for _ in range(1000)]
    texts += ["A" + chr(point) + "b" for point in range(1, 0x3400, 5)] + ["", "\ufeff"]
    encoded = [tokens for tokens in encoder.encode(texts) if tokens.size]
    counter = TokenBytes(encoder.model)
    needed = np.concatenate([counter.count(tokens) for tokens in encoded]).tolist()
    stream = np.concatenate(encoded).tolist()
    assert restored_bytes(encoder.model, stream) == needed
    for cut in (5, 77, 1001):  # the sample of an audit may end anywhere
        assert restored_bytes(encoder.model, stream[:cut])[:-1] == needed[: cut - 1]


def test_processes_change_nothing(model: Path) -> None:
    texts = make_documents(30)
    whole = [np.concatenate(batch) for batch, _ in encode_documents(model, texts, transform="caseops")]
    parallel = [np.concatenate(batch) for batch, _ in encode_documents(model, texts, processes=2, transform="caseops")]
    assert np.array_equal(np.concatenate(whole), np.concatenate(parallel))


def test_a_document_that_does_not_come_back_stops_the_stage(
    place: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = caseops.undo
    monkeypatch.setattr(encode.caseops, "undo", lambda texts: [text.replace("NASA", "nasa") for text in real(texts)])
    with pytest.raises(DataError, match=r"split train: .*document 0 does not come back from its transform: found"):
        run(model=str(model))
    assert not (place / "shards").exists()


def test_models_and_shards_that_do_not_fit_the_transform(place: Path, model: Path) -> None:
    plain = place / "plain.model"
    plain.write_bytes(train_model(make_documents(80), 360, 10**6))
    with pytest.raises(DataError, match=r"plain\.model: found no tokens for the markers U\+E001 to U\+E004"):
        run(model=str(plain))
    with pytest.raises(DataError, match=r"case\.model: found the markers"):
        run(model=str(model), transform="none")
    write_shard(place / "raw/val_000000.bin", np.array([1, 9, 9]))
    with pytest.raises(ConfigError, match=r"tokenizer\.transform: found 'caseops', but .*val_000000\.bin is tokenized"):
        run(model=str(model))
    assert not (place / "shards").exists()


@pytest.fixture
def published(tmp_path: Path, model: Path) -> Path:
    """Shards of transformed text with their sidecar, as somebody may publish them."""
    encoder = Encoder(model, transform="caseops")
    train, val = (encoder.encode(make_documents(12, seed)) for seed in (1, 2))
    write_shard(tmp_path / "train_000000.bin", np.concatenate(train))
    write_shard(tmp_path / "val_000000.bin", np.concatenate(val))
    counter = TokenBytes(encoder.model)
    write_shard(tmp_path / "val_bytes_000000.bin", np.concatenate([counter.count(part) for part in val]))
    (tmp_path / "tokenizer.model").write_bytes(model.read_bytes())
    return tmp_path


def found(folder: Path) -> list[str]:
    entries = [
        {"name": name, "split": split, "bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name, split in [
            ("train_000000.bin", "train"), ("val_000000.bin", "val"), ("val_bytes_000000.bin", "val_bytes"),
            ("tokenizer.model", "tokenizer"),
        ]
    ]  # fmt: skip
    write_manifest(folder, "shards", "mirror", entries, vocab_size=360)
    return verify(folder).defects


def test_sidecars_of_others_are_held_against_the_tokens(published: Path, model: Path) -> None:
    assert found(published) == []
    path = published / "val_bytes_000000.bin"
    tokens, right = np.array(read_shard(published / "val_000000.bin")), np.array(read_shard(path))
    write_shard(path, np.where((tokens >= 4) & (tokens < 8), 3, right))
    assert [line.split(": found")[0] for line in found(published)] == ["val_bytes_000000.bin: bytes of markers"]
    write_shard(path, right + (right > 0) * (np.arange(right.size) % 50 == 0))
    assert [line.split(": found")[0] for line in found(published)] == ["val_bytes_000000.bin: bytes of the sidecar"]
    other = np.concatenate(Encoder(model, transform="caseops").encode(make_documents(30, 8)))[: tokens.size]
    write_shard(path, TokenBytes(load_sentencepiece(model)).count(other))  # of another split, as long
    assert any("val_bytes_000000.bin: bytes of" in line for line in found(published))


def test_published_sidecars_pass_through(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found(published)
    monkeypatch.chdir(published)
    (published / "models").mkdir()
    index = tokenize(Tokenizer(model="models", heldout_share=0.1), published, "tokenizer", "shards")
    assert json.loads((published / "shards/shards.json").read_text()) == index
    counts = read_sidecar("shards")
    assert counts is not None
    assert index["splits"]["val"]["bytes"] == counts.sum()
    assert "raw_bytes" not in index["splits"]["val"]
