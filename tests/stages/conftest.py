"""What tests of several stages start from: a world whose artifact has passed the gate, an ear at the shards."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from golf.data import shards
from golf.data.bytecount import ByteTable
from golf.data.encode import stream_bytes
from golf.data.raw import write_manifest
from golf.data.shards import list_shards, read_shard, write_shard
from golf.quant import heldout
from tests.programs import checker, shipped
from tests.stages.world import SEED, VOCABULARY, make, stage, write

TEXT = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs", "naïve café 5€"]


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: ``world`` is a copy of it for each test."""
    folder = make(tmp_path_factory.mktemp("gated"), audit={"tokens": 400, "positions": 4})
    train_tokenizer(folder / "data/tokenizer")
    (folder / "build").mkdir()
    (folder / "build/train_gpt.py").write_bytes(shipped())
    (folder / "build/check_gpt.py").write_bytes(checker())
    describe_data(folder)
    for name in ("compress", "gate"):
        done = stage(name, folder, f"--seed={SEED}")
        assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def world(gated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(gated, tmp_path / "world"))


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The name of every shard that ``select`` or ``quantize`` reads from now on."""
    names: list[str] = []
    real = shards.read_shard

    def spy(path: Path | str):
        names.append(Path(path).name)
        return real(path)

    for module in (shards, heldout):
        monkeypatch.setattr(module, "read_shard", spy)
    return names


def describe_data(folder: Path) -> None:
    """Training text that is not the validation text, the index of the shards, and the raw data's manifest."""
    tokens = np.random.default_rng(1).integers(3, VOCABULARY, 2000).astype(np.uint16)
    tokens[::150] = 1
    write_shard(folder / "data/shards/train_000000.bin", tokens)
    write_index(folder)
    write_manifest(folder / "data/raw", "text", "text", [])


def write_index(folder: Path) -> None:
    """``shards.json`` of the shards that are there."""
    shards = folder / "data/shards"
    model = folder / "data/tokenizer/tokenizer.model"
    splits = {}
    for split in ("train", "heldout", "val"):
        paths = list_shards(shards, split)
        parts = [read_shard(path) for path in paths]
        splits[split] = {
            "files": [path.name for path in paths],
            "tokens": sum(part.size for part in parts),
            "documents": sum(int((part == 1).sum()) for part in parts),
            "bytes": stream_bytes(model, paths, shards if split == "val" else None) if paths else 0,
        }
    write(shards / "shards.json", {"vocab_size": VOCABULARY, "bos_id": 1, "splits": splits})


def train_tokenizer(folder: Path) -> None:
    """A tokenizer of the world's vocabulary, and its byte table."""
    sentencepiece.set_min_log_level(2)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20), model_prefix=str(folder / "tokenizer"), vocab_size=VOCABULARY,
        model_type="bpe", byte_fallback=True, add_dummy_prefix=False, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    table = ByteTable.from_sentencepiece(folder / "tokenizer.model", VOCABULARY)
    table.save(folder / "bytes.safetensors")
