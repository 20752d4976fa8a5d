"""A small world to run stages in: a random quantised model, random shards, a byte table, the default parameters."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

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
    """Write it to ``folder``; ``changes`` are parameters by section."""
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
    short = {"ttt": "sgd", "seq_len": 64, "stride": 32, "ttt_chunk_tokens": 256, "batch_windows": 8}
    write_params(folder, **{"eval": short, **changes})
    return folder


def write_params(folder: Path, **changes: Any) -> None:
    """params.yaml with the defaults, on a CPU with one thread, and ``changes``: keys by section, or all the seeds."""
    document = yaml.safe_load((ROOT / "params.yaml").read_text())
    document["hardware"] |= {"device": "cpu", "threads": 1}
    document["stats"]["baseline"] = str(ROOT / document["stats"]["baseline"])
    for section, values in changes.items():
        document[section] = document.get(section, {}) | values if isinstance(values, dict) else values
    write(folder / "params.yaml", yaml.safe_dump(document, sort_keys=False))


def write(path: Path, content: object) -> None:
    """Text as it is, anything else as JSON; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def report(folder: Path, stage: str, seed: int = SEED) -> dict[str, Any]:
    """What a stage reported of a seed; ``timing/STAGE`` for the times."""
    return json.loads((folder / f"reports/{stage}/{seed}.json").read_text())


def start(name: str, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """``python -m stages.NAME ARGUMENTS`` in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", f"stages.{name}", *arguments],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def stage(name: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a stage in ``folder`` to its end."""
    process = start(name, folder, *arguments)
    out, errors = process.communicate(timeout=200)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)
