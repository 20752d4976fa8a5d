"""The programs that ship, built once a test process, and what they are given."""

import json
from functools import cache
from pathlib import Path

import yaml

from golf.bundle.build import CHECK, build
from golf.codec.model import encode_model
from golf.params.compress import Compress
from golf.quant.quantized import load
from tests.stages.world import SEED, make

ROOT = Path(__file__).resolve().parents[1]


@cache
def shipped() -> bytes:
    """The program for any parameters: none of its code is left out for the given ones."""
    return build(ROOT).program


@cache
def checker() -> bytes:
    """The program that checks it."""
    return build(ROOT, program=CHECK).program


def with_artifact(folder: Path) -> Path:
    """A world of the stages, with what the programs are given: an artifact and the parameters of its scoring."""
    make(folder, audit={"tokens": 1000, "positions": 2})
    blob, _ = encode_model(load(folder / f"runs/quantize/{SEED}"), Compress(codecs=("zstd",), layouts=("row",)))
    (folder / "model.golf").write_bytes(blob)
    sections = yaml.safe_load((folder / "params.yaml").read_text())
    chosen = {name: sections[name] for name in ("eval", "audit", "hardware")}
    (folder / "params.json").write_text(json.dumps(chosen))
    return folder


def arguments(world: Path, verb: str, **options: object) -> list[str]:
    """The command line of ``verb`` in such a world; an option that is None is not given."""
    given = {
        "artifact": world / "model.golf",
        "shards": world / "data/shards",
        "bytes": world / "data/tokenizer/bytes.safetensors",
        "params": world / "params.json",
        **options,
    }
    return [verb, *(f"--{key}={value}" for key, value in given.items() if value is not None)]
