"""What tests of several stages start from: a world whose artifact has passed the gate, an ear at the shards."""

import shutil
from pathlib import Path

import pytest
import sentencepiece

from golf.data import shards
from golf.data.bytecount import ByteTable
from golf.quant import heldout
from tests.programs import checker, shipped
from tests.stages.world import SEED, VOCABULARY, make, stage

TEXT = ["the quick brown fox jumps over the lazy dog", "pack my box with five dozen liquor jugs", "naïve café 5€"]


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Not to be changed: ``world`` is a copy of it for each test."""
    folder = make(tmp_path_factory.mktemp("gated"), audit={"tokens": 400, "positions": 4})
    train_tokenizer(folder / "data/tokenizer")
    (folder / "build").mkdir()
    (folder / "build/train_gpt.py").write_bytes(shipped())
    (folder / "build/check_gpt.py").write_bytes(checker())
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


def train_tokenizer(folder: Path) -> None:
    """A tokenizer of the world's vocabulary, and its byte table."""
    sentencepiece.set_min_log_level(2)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT * 20), model_prefix=str(folder / "tokenizer"), vocab_size=VOCABULARY,
        model_type="bpe", byte_fallback=True, add_dummy_prefix=False, hard_vocab_limit=False, minloglevel=2,
    )  # fmt: skip
    table = ByteTable.from_sentencepiece(folder / "tokenizer.model", VOCABULARY)
    table.save(folder / "bytes.safetensors")
