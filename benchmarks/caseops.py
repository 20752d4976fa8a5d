"""What case operations cost and gain: speed, bytes a token, and the score of the same small model on either text.

Each vocabulary is trained on the same text with and without the transform. The models have as many steps of as many
tokens, and are scored on the same documents over the same bytes, in windows that do not overlap.

    python -m benchmarks.caseops --train wikipedia/train.jsonl.zst --val fineweb_val_prefix.jsonl.zst
    python -m benchmarks.caseops --train … --val … --vocab 1024,8192 --seeds 42,314,999 --out results/caseops.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.research import TABLE, integers, positive, read_text
from golf.data import caseops
from golf.data.raw import write_manifest, write_text
from golf.data.text import limited, read_documents
from golf.data.tokenize import tokenize
from golf.params.tokenizer import Tokenizer
from golf.research.idea import Size
from golf.research.training import Plan, train_idea
from golf.runtime.device import describe
from golf.runtime.errors import run_main
from golf.runtime.files import write_json

SIZE = Size(dim=64, layers=2, heads=2, kv_heads=1, mlp_ratio=3.0, length=128)  # as in the smoke profile
ROWS = 16  # windows a step
CPU = torch.device("cpu")


def main() -> None:
    """Measure, print the table, write the result."""
    parsed = parse()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        speed = bring(parsed, folder)
        print(f"{describe(CPU)}; {SIZE}; {parsed.steps} steps of {ROWS} x {SIZE.length} tokens; transform {speed}")
        rows = []
        for size in parsed.vocab:
            rows += compare(folder, size, parsed.steps, parsed.seeds)
    if parsed.out:
        setting = {"device": describe(CPU), "size": asdict(SIZE), "rows": ROWS, "steps": parsed.steps}
        write_json(parsed.out, setting | {"seeds": parsed.seeds, "speed": speed, "results": rows})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caseops", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--train", type=Path, required=True, help=".jsonl, .jsonl.zst or .jsonl.gz of training text")
    parser.add_argument("--val", type=Path, required=True, help="the same, of validation text")
    parser.add_argument("--train-bytes", type=positive, default=12_000_000, help="default: %(default)s")
    parser.add_argument("--val-bytes", type=positive, default=600_000, help="default: %(default)s")
    parser.add_argument("--vocab", type=integers, default=[1024], help="sizes (default: 1024)")
    parser.add_argument("--steps", type=positive, default=400, help="optimizer steps (default: %(default)s)")
    parser.add_argument("--seeds", type=integers, default=[42], help="of weights and order (default: 42)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser.parse_args()


def bring(parsed: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Put the text where :func:`tokenize` reads it; MB/s of the transform and its inverse, of processor time."""
    train = list(limited(read_documents([parsed.train]), max_bytes=parsed.train_bytes))
    val = list(limited(read_documents([parsed.val]), max_bytes=parsed.val_bytes))
    for name in ("raw", "models"):
        (folder / name).mkdir()
    entries = write_text(folder / "raw", "train", train) + write_text(folder / "raw", "val", val)
    write_manifest(folder / "raw", "text", "jsonl", entries)
    megabytes = sum(len(text.encode()) for text in train) / 1e6
    started = time.process_time()
    transformed = caseops.apply(train)
    between = time.process_time()
    assert caseops.undo(transformed) == train
    ended = time.process_time()
    return {
        "apply_mb_s": round(megabytes / (between - started), 1),
        "undo_mb_s": round(megabytes / (ended - between), 1),
    }


def compare(folder: Path, vocab_size: int, steps: int, seeds: list[int]) -> list[dict[str, Any]]:
    """Both transforms at one vocabulary; a line of the table for each."""
    rows: list[dict[str, Any]] = []
    for transform in ("none", "caseops"):
        config = Tokenizer(str(folder / "models"), transform, vocab_size)
        shards = folder / f"{transform}-{vocab_size}/shards"
        index = tokenize(config, folder / "raw", shards.parent / "tokenizer", shards)
        text = read_text(shards, shards / TABLE)
        plans = [Plan(steps, ROWS, text.val.numel(), seed, CPU) for seed in seeds]
        bpb = [train_idea("baseline", SIZE, text, plan).val.bits_per_byte for plan in plans]
        row: dict[str, Any] = {"transform": transform, "vocab_size": vocab_size}
        for split in ("train", "val"):
            row[f"{split}_bytes_per_token"] = round(
                index["splits"][split]["bytes"] / index["splits"][split]["tokens"], 4
            )
        row |= {"val_bytes": index["splits"]["val"]["bytes"], "bpb": [round(value, 4) for value in bpb]}
        rows.append(row)
        gaps = [after - before for before, after in zip(rows[0]["bpb"], row["bpb"], strict=True)]
        print(
            f"{vocab_size:6} {transform:8} bytes/token {row['train_bytes_per_token']:.4f} train, "
            f"{row['val_bytes_per_token']:.4f} val   {row['val_bytes']:,} bytes   "
            f"{statistics.mean(bpb):.4f} bpb   {statistics.mean(gaps):+.4f}",
            flush=True,
        )
    return rows


if __name__ == "__main__":
    run_main("caseops", main)
