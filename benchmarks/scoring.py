"""The published baseline's score, found and wanted; how fast plain scoring is beside the forward pass of training.

    python -m benchmarks.scoring --weights baseline_7x384_sp1024.int8.ptz --tokenizer fineweb_1024_bpe.model \\
        --shard fineweb_val_small_sp1024.bin

The score is that of windows of 1,024 tokens that don't overlap, in fp32, by the scorer that ships. For the speed,
scoring and training's forward pass take turns on the same windows, in batches of the same shape; the graph that
training keeps for its backward pass is part of its forward pass. Exit code 1: a number is not as wanted.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.data.bytecount import ByteTable
from golf.data.shards import read_shard
from golf.model.published import load_published
from golf.model.transformer import Transformer
from golf.model.weights import build
from golf.params.eval import Eval
from golf.scoring.bpb import total
from golf.scoring.evaluator import SlidingScorer

WANTED = {"nats_per_token": 3.348787, "bytes": 638_652, "bpb": 1.983068}
TOLERANCE = 1e-5  # absolute
WINDOW = 1024
GOAL = 0.9  # of the forward pass of training


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scoring", description=__doc__.split("\n", 1)[0])
    for key in ("weights", "tokenizer", "shard"):
        parser.add_argument(f"--{key}", type=Path, required=True)
    parser.add_argument("--rows", type=int, default=4, help="windows a forward pass (default: 4)")
    parser.add_argument("--rounds", type=int, default=9, help="turns of the comparison of speeds (default: 9)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scoring.json"))
    parsed = parser.parse_args()
    torch.set_num_threads(parsed.threads)
    spec, state = load_published(parsed.weights)
    model = build(spec, state)
    tokens = torch.from_numpy(read_shard(parsed.shard).astype(np.int64))
    speed = compare(model, tokens, parsed.rows, parsed.rounds)
    score = published(model, tokens, ByteTable.from_sentencepiece(parsed.tokenizer), parsed.rows)
    for name, wanted in WANTED.items():
        print(f"{name:16} {score[name]:>14,.6f}  wanted {wanted:>14,.6f}  {'ok' if score['ok'][name] else 'WRONG'}")
    print(
        f"plain scoring {speed['scoring_tokens_per_second']:,.0f} tokens/s, training's forward pass "
        f"{speed['training_tokens_per_second']:,.0f}: {speed['ratio']:.3f} (goal {GOAL} or more)"
    )
    content = {
        "machine": {"processor": platform.processor() or platform.machine(), "threads": parsed.threads,
                    "torch": torch.__version__},
        "weights": parsed.weights.name, "shard": parsed.shard.name, "published": score, "speed": speed,
    }  # fmt: skip
    parsed.out.write_text(json.dumps(content, indent=2) + "\n")
    sys.exit(not all(score["ok"].values()))


def published(model: Transformer, tokens: Tensor, table: ByteTable, rows: int) -> dict[str, Any]:
    """The score of the whole shard, held against :data:`WANTED`."""
    started = time.perf_counter()
    nll = -SlidingScorer(model, plain(rows)).score(tokens)
    seconds = time.perf_counter() - started
    found = total(nll, table.count(tokens))
    values = {"nats_per_token": found.nats_per_token, "bytes": found.bytes, "bpb": found.bits_per_byte}
    return {
        "tokens": found.tokens,
        **values,
        "wanted": WANTED,
        "ok": {name: abs(values[name] - wanted) <= TOLERANCE for name, wanted in WANTED.items()},
        "seconds": round(seconds, 1),
    }


def plain(rows: int) -> Eval:
    """Windows that don't overlap, and no adaptation."""
    return Eval(seq_len=WINDOW, stride=WINDOW, batch_windows=rows, ttt=False, ttt_chunk_tokens=rows * WINDOW)


def compare(model: Transformer, tokens: Tensor, rows: int, rounds: int) -> dict[str, Any]:
    """Tokens a second of both, each round on other windows; the ratio is the median of the rounds'."""
    size = rows * WINDOW
    scorer = SlidingScorer(model, plain(rows))
    seconds: dict[str, list[float]] = {"scoring": [], "training": []}
    for number in range(rounds + 1):
        part = tokens[number * size : (number + 1) * size + 1]
        started = time.perf_counter()
        scorer.score(part)
        middle = time.perf_counter()
        model.train()
        model(part[:-1].view(rows, WINDOW), part[1:].view(rows, WINDOW)).mean()
        if number:  # the first round warms up
            seconds["scoring"].append(middle - started)
            seconds["training"].append(time.perf_counter() - middle)
    ratios = [there / here for here, there in zip(seconds["scoring"], seconds["training"], strict=True)]
    return {
        "rows": rows,
        "rounds": rounds,
        **{f"{name}_tokens_per_second": round(size / statistics.median(taken)) for name, taken in seconds.items()},
        "ratio": round(statistics.median(ratios), 3),
        "ratios": [round(ratio, 3) for ratio in sorted(ratios)],
        "goal": GOAL,
    }


if __name__ == "__main__":
    main()
