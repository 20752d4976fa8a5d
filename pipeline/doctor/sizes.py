"""What a run will write, from its parameters: rough, and rather too much than too little."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from golf.params.base import load, load_seeds
from golf.params.budget import Budget
from golf.params.data import Data
from golf.params.model import Model
from golf.params.tokenizer import Tokenizer
from golf.params.train import Train

SHARD_BYTES = 200_000_000  # of the published shards: 100 million tokens of two bytes
TEXT_COPIES = 3  # raw text, tokens and what is between
ROOT_BYTES = 1_000_000_000  # logs, compiled kernels, packages that are installed later
TEMP_BYTES = {True: 4_000_000_000, False: 500_000_000}  # with FineWeb's model and shards; a laptop's
FLOAT = 4  # bytes
SPARE_WEIGHTS = 4  # raw, SWA, soup and the chosen one, beside the averages
CHECKPOINT_WEIGHTS = 5  # weights, two moments, a copy being written, SWA


class Needs(NamedTuple):
    """Bytes on each place."""

    root: int
    temp: int
    cache: int


def needed_bytes(folder: Path, *, fineweb: bool) -> Needs:
    """What is still to be written: data that is there already is not counted again."""
    data, train = load(Data), load(Train)
    if (folder / "data/shards").is_dir():
        text = 0
    elif fineweb:
        text = (data.train_shards + 1) * SHARD_BYTES
    else:
        source = Path(data.path)
        sizes = [path.stat().st_size for path in source.rglob("*") if path.is_file()] if source.is_dir() else []
        text = TEXT_COPIES * (data.max_bytes or sum(sizes))
    copies = len(train.ema_decays) + SPARE_WEIGHTS + CHECKPOINT_WEIGHTS
    each = copies * FLOAT * parameters() + 2 * load(Budget).artifact_bytes
    return Needs(ROOT_BYTES, TEMP_BYTES[fineweb], text + each * len(load_seeds()))


def parameters() -> int:
    """About how many weights the model has: matrices of the layers, embeddings, tables."""
    model, tokenizer = load(Model), load(Tokenizer)
    share = model.num_kv_heads / model.num_heads
    layer = int(model.dim**2 * (2 + 2 * share + 2 * model.mlp_ratio))
    tables = model.bigram_buckets * model.bigram_dim + model.value_embed_dim * tokenizer.vocab_size
    return model.num_layers * layer + tokenizer.vocab_size * model.dim + tables
