"""A published score, found and wanted; how fast plain scoring is beside the forward pass of training.

    python -m benchmarks.scoring --published baseline_7x384_sp1024.int8.ptz --tokenizer fineweb_1024_bpe.model \\
        --shard fineweb_val_small_sp1024.bin
    python -m benchmarks.scoring --run runs/train/42 --weights raw --shard fineweb_val_000000.bin --device cuda

The score is that of windows of 1,024 tokens that don't overlap, in fp32, by the scorer that ships. What is compared for
the speed stands in ``benchmarks/scoring_speed.py``. Exit code 1: a number is not as wanted.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.scoring_speed import GOAL, compare, plain
from golf.data.bytecount import ByteTable
from golf.data.shards import read_shard
from golf.model.published import load_published
from golf.model.transformer import Transformer
from golf.model.weights import build, load_spec, load_state
from golf.scoring.bpb import total
from golf.scoring.evaluator import SlidingScorer

WANTED = {"nats_per_token": 3.348787, "bytes": 638_652, "bpb": 1.983068}
TOLERANCE = 1e-5  # absolute
RESULTS = Path("benchmarks/results")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__.split("\n", 1)[0])
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--published", type=Path, help="weights of the challenge's baseline script")
    source.add_argument("--run", type=Path, help="folder of weights that training wrote: the speed alone")
    parser.add_argument("--weights", default="raw", help="which weights of --run (default: raw)")
    parser.add_argument("--tokenizer", type=Path, help="tokenizer.model, with --published")
    parser.add_argument("--shard", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; the published score is of a cpu")
    parser.add_argument("--window", type=int, help="tokens of a window (default: 1024; with --run 2048)")
    parser.add_argument("--rows", type=int, help="windows a forward pass (default: 4; with --run 32)")
    parser.add_argument("--batches", type=int, help="forward passes of a turn (default: 1; with --run 8)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of the comparison of speeds (default: 9)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="JSON to write (default: in benchmarks/results)")
    parsed = parser.parse_args()
    if parsed.published is not None and (parsed.tokenizer is None or parsed.device != "cpu"):
        parser.error("--published needs --tokenizer, and a cpu")
    torch.set_num_threads(parsed.threads)
    usual = (2048, 32, 8) if parsed.run else (1024, 4, 1)
    window, rows, batches = (
        given or own for given, own in zip((parsed.window, parsed.rows, parsed.batches), usual, strict=True)
    )
    if parsed.run is None:
        spec, state = load_published(parsed.published)
    else:
        spec, state = load_spec(parsed.run), load_state(parsed.run, parsed.weights)
    tokens = torch.from_numpy(read_shard(parsed.shard).astype(np.int64))
    device = torch.device(parsed.device)
    speed = compare(spec, state, tokens, plain(window, rows), device, parsed.rounds, batches)
    tell(speed)
    where = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    content: dict[str, Any] = {
        "machine": {"processor": where, "threads": parsed.threads, "torch": torch.__version__},
        "weights": parsed.published.name if parsed.published else f"{parsed.run.name}/{parsed.weights}",
        "shard": parsed.shard.name,
        "speed": speed,
    }
    if parsed.published is not None:
        table = ByteTable.from_sentencepiece(parsed.tokenizer)
        content["published"] = published(build(spec, state), tokens, table, rows)
    out = parsed.out or RESULTS / ("scoring.json" if parsed.published else "scoring-run.json")
    out.write_text(json.dumps(content, indent=2) + "\n")
    sys.exit(not all(content.get("published", {"ok": {}})["ok"].values()))


def tell(speed: dict[str, Any]) -> None:
    """The rates and ratios, and what was compared, for people."""
    print(
        f"{speed['batches']} x {speed['rows']} windows of {speed['window']} tokens, attention {speed['attention']}, "
        f"{speed['passes']} passes; {speed['both']}; training {speed['training']}; "
        f"digest of the weights {speed['digest_seconds']} s a stream, not in the rates"
    )
    for name, rate in speed["tokens_per_second"].items():
        print(f"{name:24} {rate:>12,} tokens/s")
    for name, found in speed["ratios"].items():
        print(f"{name:48} {found['median']:.3f} (goal {GOAL} or more; {found['all'][0]} to {found['all'][-1]})")


def published(model: Transformer, tokens: Tensor, table: ByteTable, rows: int) -> dict[str, Any]:
    """The score of the whole shard, held against :data:`WANTED`."""
    started = time.perf_counter()
    nll = -SlidingScorer(model, plain(1024, rows)).score(tokens)
    seconds = time.perf_counter() - started
    found = total(nll, table.count(tokens))
    values = {"nats_per_token": found.nats_per_token, "bytes": found.bytes, "bpb": found.bits_per_byte}
    right = {name: abs(values[name] - wanted) <= TOLERANCE for name, wanted in WANTED.items()}
    for name, wanted in WANTED.items():
        print(f"{name:16} {values[name]:>14,.6f}  wanted {wanted:>14,.6f}  {'ok' if right[name] else 'WRONG'}")
    return {
        "tokens": found.tokens,
        **values,
        "wanted": WANTED,
        "ok": right,
        "seconds": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
