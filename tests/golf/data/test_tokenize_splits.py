"""Tokenizing: round trips, splits, reuse, determinism, refusals."""

import itertools
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch

from golf.data import encode
from golf.data.bytecount import ByteTable
from golf.data.encode import Encoder, encode_documents, validation_documents
from golf.data.raw import raw_documents, write_manifest, write_text
from golf.data.shards import list_shards, load_index, read_shard, read_split, write_shard
from golf.data.tokenize import tokenize
from golf.data.tokenizer import _cut, check_model, find_model, load_sentencepiece, train_model
from golf.params.tokenizer import Tokenizer
from golf.runtime.errors import ConfigError, DataError, MissingInput

WORDS = ["the", "of", "model", "token", "byte", "score", "window", "train", "weight", "layer", "2024", "café", "naïve"]


def make_documents(count: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [
        f"  Document {i}:\t" + " ".join(rng.choice(WORDS) + rng.choice(["", "s", ".", ",\n"]) for _ in range(120))
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.model"
    path.write_bytes(train_model(make_documents(100), 320, 10**6))
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    (tmp_path / "raw").mkdir()
    return tmp_path


def put_text(place: Path, train: list[str], val: list[str] | None = None) -> None:
    for path in (place / "raw").iterdir():
        path.unlink()
    entries = write_text(place / "raw", "train", train) + write_text(place / "raw", "val", val or [])
    write_manifest(place / "raw", "text", "jsonl", entries)


def run(**changes: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "model": "models",
        "vocab_size": 320,
        "train_bytes": 10**6,
        "heldout_share": 0.1,
        "val_share": 0.1,
    }
    return tokenize(Tokenizer(**(values | changes)), "raw", "tokenizer", "shards")


def decode(model: Path, tokens: np.ndarray) -> list[str]:
    """The documents of a stream as text."""
    processor = load_sentencepiece(model)
    starts = [*np.flatnonzero(tokens == 1), tokens.size]
    return [processor.decode(tokens[a + 1 : b].tolist()) for a, b in itertools.pairwise(starts)]


def test_text_end_to_end(place: Path) -> None:
    texts = make_documents(60)
    put_text(place, texts)
    index = run()
    assert load_index("shards") == index
    assert (index["vocab_size"], index["bos_id"]) == (320, 1)
    processor = load_sentencepiece("tokenizer/tokenizer.model")
    normal = [processor.normalize(text).replace("▁", " ") for text in texts]
    streams = {split: read_split("shards", split) for split in ("train", "heldout", "val")}
    found = {split: decode(Path("tokenizer/tokenizer.model"), stream) for split, stream in streams.items()}
    assert sorted(itertools.chain(*found.values())) == sorted(normal)
    kept = [text for text in normal if text not in set(found["val"])]
    assert found["train"] + found["heldout"] == kept  # in order, heldout the tail
    assert len(found["val"]) == 6
    table = ByteTable.load("tokenizer/bytes.safetensors")
    for split, totals in index["splits"].items():
        stream = streams[split]
        assert stream[0] == 1
        assert totals["tokens"] == stream.size
        assert totals["documents"] == len(found[split])
        assert totals["bytes"] == int(table.count(torch.from_numpy(stream.astype(np.int64))).sum())
        assert totals["bytes"] == sum(len(text.encode()) for text in found[split])


def test_same_text_same_bytes(place: Path) -> None:
    put_text(place, make_documents(60))
    first = [run(), *(path.read_bytes() for path in sorted(place.glob("*/*")) if "raw" not in str(path))]
    second = [run(), *(path.read_bytes() for path in sorted(place.glob("*/*")) if "raw" not in str(path))]
    assert first == second


def test_processes_change_nothing(model: Path) -> None:
    texts = make_documents(40)
    whole = [np.concatenate(batch) for batch, _ in encode_documents(model, texts)]
    parallel = [np.concatenate(batch) for batch, _ in encode_documents(model, texts, processes=2)]
    assert np.array_equal(np.concatenate(whole), np.concatenate(parallel))


def test_many_small_shards(place: Path) -> None:
    put_text(place, make_documents(60))
    one = run()["splits"]["train"]["tokens"]
    index = run(shard_tokens=1024)
    train = index["splits"]["train"]
    assert train["tokens"] == one
    assert len(train["files"]) > 5
    assert all(path.stat().st_size == 1024 + 2 * 1024 for path in list_shards("shards", "train")[:-1])


def test_shards_of_a_reused_tokenizer_pass_through(place: Path, model: Path) -> None:
    texts = make_documents(80)
    put_text(place, texts[:60])
    encoder = Encoder(model)
    val = np.concatenate(encoder.encode(make_documents(9, seed=5)))
    write_shard(place / "raw/val_000000.bin", val)
    with pytest.raises(DataError, match="no tokenizer to reuse"):
        run()
    assert not (place / "shards").exists()
    index = run(model=str(model))
    assert np.array_equal(read_split("shards", "val"), val)
    assert index["vocab_size"] == 320  # the model's, whatever tokenizer.vocab_size says
    assert index["splits"]["val"]["documents"] == 9
    assert run(model=str(model), vocab_size=9000) == index
    write_shard(place / "raw/val_000000.bin", np.concatenate(encoder.encode(texts[3:5])))
    with pytest.raises(DataError, match="overlap: found 2 of 2 validation documents"):
        run(model=str(model))
    write_shard(place / "raw/val_000000.bin", np.array([1, 320]))
    with pytest.raises(DataError, match="found token 320, needed 0 to 319"):
        run(model=str(model))


def test_shards_of_another_tokenizer_whose_ids_fit_are_refused(place: Path, model: Path) -> None:
    put_text(place, make_documents(60))
    val = make_documents(9, seed=5)
    write_shard(place / "raw/val_000000.bin", np.concatenate(Encoder(model).encode(val)))
    other = place / "models/other.model"
    other.write_bytes(train_model(make_documents(50, seed=8), 340, 10**6))
    with pytest.raises(DataError, match="found 0 of 8 documents whose text gives their tokens, needed half: another"):
        run(model=str(other))
    assert not (place / "shards").exists()
    ours = Encoder(other).encode(val)
    write_shard(place / "raw/val_000000.bin", np.concatenate([*ours[:7], *Encoder(model).encode(val[7:])]))
    assert run(model=str(other))["splits"]["val"]["documents"] == 9, "some may not come back"
    write_shard(place / "raw/val_000000.bin", np.array([1, *range(300, 310), 1, 1, 5]))
    assert run(model=str(other))["splits"]["val"]["documents"] == 3, "too short to tell"


def test_published_shards(place: Path, model: Path) -> None:
    encoder = Encoder(model)
    stream = np.concatenate(encoder.encode(make_documents(100)))
    raw = place / "raw"
    for index in range(4):
        write_shard(raw / f"fineweb_train_{index:06d}.bin", stream[index * 6000 : (index + 1) * 6000])
    val = np.concatenate(encoder.encode(make_documents(5, seed=3)))
    write_shard(raw / "fineweb_val_000000.bin", val)
    write_shard(raw / "fineweb_val_bytes_000000.bin", np.where(val == 1, 0, 2))
    (raw / "tokenizer.model").write_bytes(model.read_bytes())
    write_manifest(raw, "shards", "fineweb", [])
    before = {path.name: path.read_bytes() for path in raw.iterdir()}
    totals = run(heldout_share=0.3)["splits"]
    assert {path.name: path.read_bytes() for path in raw.iterdir()} == before  # links are never written through
    joined = np.concatenate([read_split("shards", "train"), read_split("shards", "heldout")])
    assert np.array_equal(joined, stream[:24000])
    assert read_split("shards", "heldout")[0] == 1
    assert 0.25 < totals["heldout"]["tokens"] / 24000 < 0.35
    assert totals["val"]["bytes"] == 2 * (val.size - 5)  # by the sidecar
    (place / "models/other.model").write_bytes(train_model(make_documents(50, seed=8), 300, 10**6))
    with pytest.raises(ConfigError, match="another tokenizer"):
        run()


def test_bytes_of_a_stream_whatever_its_pieces(tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token's space counts by the token before it, which may stand in another piece or another shard."""
    stream = np.concatenate(Encoder(model).encode(make_documents(6)))
    table = ByteTable.from_sentencepiece(model)
    needed = int(table.count(torch.from_numpy(stream.astype(np.int64))).sum())
    paths = [tmp_path / f"val_{index:06d}.bin" for index in range(3)]
    for path, part in zip(paths, np.array_split(stream, 3), strict=True):
        write_shard(path, part)
    monkeypatch.setattr(encode, "_COUNT_TOKENS", 7)
    assert encode.stream_bytes(model, paths) == needed
    for path in paths:
        write_shard(path.with_name(path.name.replace("val_", "val_bytes_")), np.full(read_shard(path).size, 3))
    assert encode.stream_bytes(model, paths, tmp_path) == 3 * (stream.size - 1)  # the first token is no target


def test_own_validation_text_is_held_against_training_shards(place: Path, model: Path) -> None:
    texts = make_documents(40)
    raw = place / "raw"
    write_shard(raw / "fineweb_train_000000.bin", np.concatenate(Encoder(model).encode(texts)))
    (raw / "tokenizer.model").write_bytes(model.read_bytes())
    write_manifest(raw, "shards", "fineweb", write_text(raw, "val", make_documents(3, seed=9)))
    assert run()["splits"]["val"]["documents"] == 3
    write_manifest(raw, "shards", "fineweb", write_text(raw, "val", [*make_documents(3, seed=9), texts[11]]))
    with pytest.raises(DataError, match="overlap: found 1 of 4 validation documents"):
        run()


def test_one_document_longer_than_the_heldout(place: Path) -> None:
    put_text(place, [" ".join(make_documents(60))], val=["some other validation text"])
    totals = run()["splits"]
    heldout = read_split("shards", "heldout")
    assert (heldout == 1).sum() == 1
    assert heldout[0] == 1
    assert totals["train"]["tokens"] > 5 * totals["heldout"]["tokens"]


@pytest.mark.parametrize("line", ["\U0001f600" * 3000, "word " * 3000, "x" * 9000])
def test_long_lines_are_cut_into_pieces_for_the_trainer(line: str) -> None:
    pieces = list(_cut(line))
    assert all(0 < len(piece.encode()) <= 4100 for piece in pieces)
    assert "".join(pieces).replace(" ", "") == line.replace(" ", "")


def test_repeated_documents_fall_on_one_side() -> None:
    texts = make_documents(50)
    chosen = validation_documents([*texts, *texts[:10]], 0.1)
    assert 4 <= len(chosen) <= 6
    assert validation_documents(reversed(texts), 0.1) == validation_documents(texts, 0.1)
    with pytest.raises(DataError, match="needed 2"):
        validation_documents(["one", "one"], 0.1)
    assert len(validation_documents(["one", "two"], 0.01)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        " led by space",
        "a\u200bb\x00c",
        "😀 ok café 5€",
        "▁mark ▁▁ marks",
        "<s> </s> <unk> <0x41>",
        "\uff11\uff12 \ufb01",
        "\ue001 x",
    ],
)
def test_round_trip_of_odd_text(model: Path, text: str) -> None:
    encoder = Encoder(model)
    [tokens] = encoder.encode([text])
    table = ByteTable.from_sentencepiece(model)
    counted = int(table.count(torch.from_numpy(tokens.astype(np.int64))).sum())
    assert counted == len(encoder.model.decode(tokens[1:].tolist()).encode())


def test_documents_that_normalise_to_nothing_are_left_out(model: Path) -> None:
    assert [part.size for part in Encoder(model).encode([" \n ", "\u200b"])] == [0, 0]


def test_tokenizers_that_lose_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "lossy.model"
    common: dict[str, Any] = {
        "vocab_size": 60,
        "model_type": "bpe",
        "hard_vocab_limit": False,
        "minloglevel": 2,
        "pad_id": 0,
    }
    common |= {"bos_id": 1, "eos_id": 2, "unk_id": 3, "model_prefix": str(tmp_path / "lossy")}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(make_documents(20)), **common)
    assert Encoder(path).encode(["byte"])[0].size > 1  # a dummy prefix is no loss
    with pytest.raises(DataError, match="document 1 does not decode"):
        Encoder(path).encode(["byte", "日本"])
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["ab ab ab abc"] * 20), split_by_whitespace=False, byte_fallback=True,
        **(common | {"vocab_size": 275, "add_dummy_prefix": False}),
    )  # fmt: skip
    with pytest.raises(DataError, match="space mark inside"):
        Encoder(path).encode(["ab ab ab abc"])


def test_training_guarantees_the_lone_space() -> None:
    texts = ["你好世界" * 20 + str(i) for i in range(50)]
    content = train_model(texts, 287, 10**6)
    processor = sentencepiece.SentencePieceProcessor(model_proto=content)
    assert processor.id_to_piece(processor.piece_to_id("▁")) == "▁"
    assert not processor.is_unknown(processor.piece_to_id("▁"))
    check_model(processor, "x")
    with pytest.raises(DataError, match="the corpus is too small"):
        train_model(["hello world"] * 5, 4096, 10**6)
    with pytest.raises(DataError, match="does not fit"):
        train_model([], 300, 10**6)
    with pytest.raises(DataError, match="does not fit"):
        train_model(make_documents(5), 261, 10**6)


class _Without:
    def vocab_size(self) -> int:
        return 300

    def bos_id(self) -> int:
        return 1

    def piece_to_id(self, piece: str) -> int:
        return 3

    def id_to_piece(self, index: int) -> str:
        return "<unk>"


def test_models_without_a_lone_space_or_too_large_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="lone space"):
        check_model(_Without(), "x.model")
    monkeypatch.setattr(_Without, "vocab_size", lambda self: 70_000)
    with pytest.raises(DataError, match="at most 65,536"):
        check_model(_Without(), "x.model")
    monkeypatch.setattr(_Without, "vocab_size", lambda self: 300)
    monkeypatch.setattr(_Without, "bos_id", lambda self: -1)
    with pytest.raises(DataError, match="no BOS"):
        check_model(_Without(), "x.model")


def test_where_a_model_is_looked_for(tmp_path: Path) -> None:
    assert find_model(tmp_path) is None
    with pytest.raises(MissingInput):
        find_model(tmp_path / "absent")
    (tmp_path / "README.md").write_text("x")
    with pytest.raises(ConfigError, match="needed a SentencePiece"):
        find_model(tmp_path / "README.md")
    (tmp_path / "a.model").write_bytes(b"")
    assert find_model(tmp_path) == tmp_path / "a.model"
    (tmp_path / "b.model").write_bytes(b"")
    with pytest.raises(ConfigError, match=r"2 models \(a.model, b.model\)"):
        find_model(tmp_path)


def test_too_little_text(place: Path, model: Path) -> None:
    put_text(place, ["only one document"])
    with pytest.raises(DataError, match="needed 2 to split"):
        run(model=str(model))
    put_text(place, ["\u200b"], val=["text"])
    with pytest.raises(DataError, match="no token in the split 'train'"):
        run(model=str(model))
    put_text(place, make_documents(3), val=["\u200b"])
    with pytest.raises(DataError, match="no token in the split 'val'"):
        run(model=str(model))
    put_text(place, ["a", "b"], val=["text"])
    run(model=str(model))
    write_shard(place / "raw/train_000000.bin", np.array([1, 5]))
    (place / "raw/tokenizer.model").write_bytes(model.read_bytes())
    with pytest.raises(DataError, match="2 training tokens are too few to keep 10% of them aside"):
        run()
    put_text(place, ["some text"] * 4)
    with pytest.raises(DataError, match="1 different document"):
        run(model=str(model))
    assert list(raw_documents("raw", "train")) == ["some text"] * 4
    assert json.loads(Path("shards/shards.json").read_text())["splits"]["train"]["tokens"] >= 2
