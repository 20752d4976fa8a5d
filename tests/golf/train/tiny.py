"""A run small enough for a test: a two-layer model on text with something to learn."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from golf.data.shards import write_shard
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.train import Train
from golf.runtime.files import write_json
from golf.train.plan import TrainConfig

VOCAB = 61
MODEL = Model(
    num_layers=2, dim=32, num_heads=2, num_kv_heads=1, rope_dims=8, xsa_layers=1, bigram_buckets=37, bigram_dim=8
)  # fmt: skip
TRAIN = Train(
    steps=12, batch_tokens=256, micro_batch_tokens=256, seq_len=16, warmup_steps=2, log_every=4, swa_every=1,
    qat_share=0.25, gpus=1, reserve_seconds=0.0,
)  # fmt: skip

OPTIM = Optim(matrix_lr=0.025, embed_lr=0.035)  # fixed: the default may move, what ranks agree to may not


def write_shards(folder: Path, tokens: int = 6000, seed: int = 0) -> Path:
    """Two shards of a noisy cycle through the vocabulary."""
    random = np.random.default_rng(seed)
    stream = (np.arange(tokens) + random.integers(0, 2, tokens)) % (VOCAB - 2) + 2
    stream[::97] = 1
    folder.mkdir(parents=True, exist_ok=True)
    write_shard(folder / "train_000000.bin", stream[: tokens // 2].astype(np.uint16))
    write_shard(folder / "train_000001.bin", stream[tokens // 2 :].astype(np.uint16))
    train = {"files": [], "tokens": tokens, "documents": 62, "bytes": 2 * tokens}
    write_json(folder / "shards.json", {"vocab_size": VOCAB, "bos_id": 1, "splits": {"train": train}})
    return folder


def make_config(
    top: Path, *, optim: dict[str, Any] | None = None, model: dict[str, Any] | None = None, **train: Any
) -> TrainConfig:
    """A run under ``top``, which gets shards when it has none; keywords are of the section train."""
    shards = top / "shards"
    if not shards.exists():
        write_shards(shards)
    return TrainConfig(
        model=dataclasses.replace(MODEL, **(model or {})),
        optim=dataclasses.replace(OPTIM, **(optim or {})),
        train=dataclasses.replace(TRAIN, **train),
        hardware=Hardware(device="cpu", threads=1),
        seed=7,
        shards=shards,
        vocab_size=VOCAB,
        out=top / "out",
        checkpoints=top / "checkpoints",
    )


# Everything that can change along a run, in one: lengths, batch, loop, quantisation.
GROWING: dict[str, Any] = {
    "model": {"num_layers": 3, "loop_first": 1, "loop_last": 1, "loop_passes": 3},
    "steps": 20, "batch_tokens": 256, "micro_batch_tokens": 64, "seq_len": 64, "log_every": 4,
    "seq_growth": ((0.2, 16), (0.6, 32)), "seq_ramp_steps": 3, "batch_growth": ((0.3, 128),),
    "loop_shares": (0.4, 0.7), "qat_share": 0.25,
}  # fmt: skip
# The same over rows of documents.
PACKED: dict[str, Any] = {**GROWING, "model": {**GROWING["model"], "document_mask": True}, "pack": "documents"}


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
