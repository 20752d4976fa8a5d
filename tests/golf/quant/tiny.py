"""A model of a few thousand weights, shards and a byte table, for the tests of select and quantize."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.data.bytecount import ByteTable
from golf.data.shards import write_shard
from golf.model.transformer import Transformer
from golf.model.weights import ModelSpec, build, save_model, tensor_groups
from golf.params.model import Model
from golf.params.quant import Quant
from golf.quant.model import Quantizer, TensorReport
from golf.quant.quantized import QuantizedModel

VOCAB = 48
CONFIG = Model(num_layers=2, dim=16, num_heads=2, num_kv_heads=1, mlp_ratio=2.0, rope_dims=4, xsa_layers=1,
               embed_init_std=0.5, bigram_buckets=32, bigram_dim=8)  # fmt: skip
SPEC = ModelSpec(CONFIG, VOCAB)


def state(seed: int = 0) -> dict[str, Tensor]:
    """Random weights without the zeros of an initialisation."""
    torch.manual_seed(seed)
    model = build(SPEC)
    for parameter in model.parameters():
        if parameter.dim() == 2 and not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def model(seed: int = 0) -> Transformer:
    return build(SPEC, state(seed))


def quantise(
    state: Mapping[str, Tensor], hessians: Mapping[str, Tensor], config: Quant, **more: Any
) -> tuple[QuantizedModel, list[TensorReport]]:
    """The model of this file with the weights ``state``, quantised, and what that costs."""
    quantizer = Quantizer(state, tensor_groups(model()), hessians, config, SPEC, **more)
    quantised = quantizer()
    return quantised, quantizer.reports(quantised)


def tokens(count: int, seed: int = 0) -> np.ndarray:
    """Text with structure: a token is its predecessor plus a small step, now and then a document begins."""
    generator = np.random.default_rng(seed)
    stream = 2 + np.cumsum(generator.integers(0, 4, count)) % (VOCAB - 2)
    stream[::97] = 1
    return stream.astype(np.uint16)


def byte_table(vocab: int = VOCAB) -> ByteTable:
    base = torch.full((vocab,), 2, dtype=torch.int16)
    base[:2] = 0
    boundary = torch.zeros(vocab, dtype=torch.bool)
    boundary[:2] = True
    return ByteTable(base, torch.zeros(vocab, dtype=torch.bool), boundary)


def write_data(root: Path, *, train: int = 6000, heldout: int = 3000, val: int = 3000) -> Path:
    """data/shards and data/tokenizer under ``root``."""
    shards = root / "data/shards"
    shards.mkdir(parents=True)
    for seed, (split, count) in enumerate({"train": train, "heldout": heldout, "val": val}.items()):
        write_shard(shards / f"{split}_000000.bin", tokens(count, seed))
    (root / "data/tokenizer").mkdir()
    byte_table().save(root / "data/tokenizer/bytes.safetensors")
    return shards


def write_run(folder: Path, **states: dict[str, Tensor]) -> Path:
    """``NAME.safetensors`` for each, with ``_`` for the ``-`` of a name."""
    for name, weights in states.items():
        save_model(folder, name.replace("_", "-", 1).replace("_", "."), weights, CONFIG, VOCAB, 1)
    return folder
