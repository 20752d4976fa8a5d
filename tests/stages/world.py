"""A small world to run stages in: a random quantised model, random shards, a byte table, the default parameters."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
import yaml

from golf.data.bytecount import ByteTable
from golf.data.shards import write_shard
from golf.model.weights import ModelSpec, build, tensor_groups
from golf.params.model import Model
from golf.quant.fast import quantize_fast
from golf.quant.quantized import save

ROOT = Path(__file__).resolve().parents[2]
SEED = 7
VOCABULARY = 300


def make(folder: Path, **changes: dict) -> Path:
    """Write it to ``folder``; ``changes`` are values by section."""
    torch.manual_seed(0)
    config = Model(num_layers=2, dim=32, num_heads=2, num_kv_heads=1, rope_dims=8, xsa_layers=1, bigram_buckets=64)
    spec = ModelSpec(config, VOCABULARY, 1)
    model = build(spec)
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    quantized = quantize_fast(state, tensor_groups(model), 6, 12.85, 7, 14.0, spec=spec)
    save(quantized, folder / f"runs/quantize/{SEED}")
    tokens = np.random.default_rng(0).integers(3, VOCABULARY, 2000).astype(np.uint16)
    tokens[::150] = 1
    write_shard(folder / "data/shards/val_000000.bin", tokens[:1200])
    write_shard(folder / "data/shards/val_000001.bin", tokens[1200:])
    write_shard(folder / "data/shards/train_000000.bin", tokens)
    special = torch.arange(VOCABULARY) < 3
    base = torch.where(special, 0, torch.arange(VOCABULARY) % 5 + 1).to(torch.int16)
    (folder / "data/tokenizer").mkdir(parents=True)
    table = ByteTable(base, (torch.arange(VOCABULARY) % 2 == 0) & ~special, special)
    table.save(folder / "data/tokenizer/bytes.safetensors")
    parameters = yaml.safe_load((ROOT / "params.yaml").read_text())
    parameters["eval"] |= {"seq_len": 64, "stride": 32, "ttt_chunk_tokens": 256, "batch_windows": 8}
    parameters["hardware"] |= {"device": "cpu", "threads": 1}
    for section, values in changes.items():
        parameters[section] |= values
    (folder / "params.yaml").write_text(yaml.safe_dump(parameters, sort_keys=False))
    return folder


def command(name: str, *arguments: str) -> list[str]:
    """``python -m stages.NAME ARGUMENTS`` for any folder."""
    code = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); runpy.run_module('stages.{name}', None, '__main__')"
    return [sys.executable, "-c", code, *arguments]


def stage(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a stage in ``folder``."""
    return subprocess.run(command(name, *arguments), cwd=folder, capture_output=True, text=True, check=False)
