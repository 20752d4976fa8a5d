"""What the n-gram tilt gains over plain windows, beside the fixed one of the public records, and what it costs.

    python -m benchmarks.tilt --weights baseline_7x384_sp1024.int8.ptz --tokenizer fineweb_1024_bpe.model \\
        --shard fineweb_val_prefix_sp1024.bin

All are tilts of the same forward pass, windows of 1,024 tokens that don't overlap, fp32. ``fixed`` is the records': the
token that most often followed the same 15 tokens, where it did so at least 4 times in 5, tilted by e^2.625. Hints and
tilt are timed apart, in seconds of one processor core; the memory is the most that numpy held while hints were found,
the tokens not counted.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
import tracemalloc
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.data.bytecount import ByteTable
from golf.data.shards import read_shard
from golf.model.published import load_published
from golf.model.weights import build
from golf.params.eval import Eval
from golf.scoring import hints
from golf.scoring.bpb import total
from golf.scoring.evaluator import SlidingScorer
from golf.scoring.tilt import log_sum
from golf.scoring.tilted import TiltedScorer

WINDOW = 1024
CONTEXT, CONFIDENCE, BETA = 15, 0.8, 2.625  # of the records


class Remembered(SlidingScorer):
    """Scores once, and then says it again at once."""

    def score_beside(self, tokens: Tensor, hints: Tensor) -> tuple[Tensor, Tensor]:
        if not hasattr(self, "found"):
            self.found = super().score_beside(tokens, hints)
        return self.found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tilt", description=__doc__.split("\n", 1)[0])
    for key in ("weights", "tokenizer", "shard"):
        parser.add_argument(f"--{key}", type=Path, required=True)
    parser.add_argument("--tokens", type=int, default=131_073, help="scored, from the shard's first (default: 131,073)")
    parser.add_argument("--rows", type=int, default=4, help="windows a forward pass (default: 4)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/tilt.json"))
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    shard = read_shard(parsed.shard).astype(np.int64)
    cost = cost_of_hints(shard)
    tokens = torch.from_numpy(shard[: parsed.tokens])
    spec, state = load_published(parsed.weights)
    config = Eval(
        seq_len=WINDOW, stride=WINDOW, batch_windows=parsed.rows, ttt="none", ttt_chunk_tokens=WINDOW, tilt=True
    )
    base = Remembered(build(spec, state), config)
    scorer = TiltedScorer(base)
    times = [time.process_time()]
    for step in (scorer.score, scorer.score, lambda stream: hints.find(stream.numpy())):
        step(tokens)
        times.append(time.process_time())
    forward, tilt, hint = np.diff(times) * 1e6 / tokens.numel()
    cost |= {"tilt_seconds": tilt - hint, "forward_seconds": forward - tilt}
    tilted = scorer.score(tokens)
    ids = records_hints(tokens.tolist())
    plain, log_q = SlidingScorer(base.model, config).score_beside(tokens, torch.from_numpy(ids.clip(0)))
    right = torch.from_numpy(ids[1:] == tokens[1:].numpy())
    change = BETA * right.double() - torch.from_numpy(log_sum(log_q.numpy(), np.array(BETA)))
    fixed = torch.where(torch.from_numpy(ids[1:] >= 0), plain + change, plain)
    counts = ByteTable.from_sentencepiece(parsed.tokenizer).count(tokens)
    hinted = hints.find(tokens.numpy()).kinds >= 0
    fired = {"plain": 0.0, "fixed": float((ids >= 0).mean()), "tilt": float(hinted.mean())}
    rows = [
        {"scores": name, "hinted": fired[name], **bits(scores, counts)}
        for name, scores in (("plain", plain), ("fixed", fixed), ("tilt", tilted))
    ]
    print(f"{tokens.numel() - 1:,} targets, {int(counts.sum()):,} bytes")
    for row in rows:
        parts = "  ".join(f"{value:.4f}" for value in row["by_quarter"])
        print(f"{row['scores']:6} hinted {row['hinted']:6.2%}  {row['bpb']:.6f} bpb  by quarter of the stream {parts}")
    for key, value in cost.items():
        print(f"{key:16} {value:,.2f} a million tokens")
    content = {
        "machine": {"processor": platform.processor() or platform.machine(), "torch": torch.__version__},
        "weights": parsed.weights.name, "shard": parsed.shard.name, "targets": tokens.numel() - 1,
        "orders": hints.ORDERS, "scores": rows, "cost_per_million_tokens": cost,
    }  # fmt: skip
    parsed.out.write_text(json.dumps(content, indent=2) + "\n")


def cost_of_hints(shard: np.ndarray) -> dict[str, float]:
    """Seconds and megabytes a million tokens, over the whole shard."""
    started = time.process_time()
    hints.find(shard)
    seconds = time.process_time() - started
    tracemalloc.start()
    hints.find(shard)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {"hint_seconds": seconds * 1e6 / shard.size, "hint_megabytes": peak / shard.size}


def records_hints(tokens: list[int]) -> np.ndarray:
    """(T,) int64: the records' hint at each position, -1 where there is none."""
    found = np.full(len(tokens), -1, dtype=np.int64)
    counts: dict[tuple[int, ...], Counter[int]] = defaultdict(Counter)
    for position in range(CONTEXT, len(tokens)):
        seen = counts[tuple(tokens[position - CONTEXT : position])]
        if seen:
            token, times = seen.most_common(1)[0]
            if times >= CONFIDENCE * seen.total():
                found[position] = token
        seen[tokens[position]] += 1
    return found


def bits(scores: Tensor, counts: Tensor) -> dict[str, Any]:
    """bpb of all targets, and of each quarter of them."""
    quarters = zip(scores.chunk(4), counts.chunk(4), strict=True)
    nats = total(-scores, counts)
    return {
        "nats_per_token": nats.nats / nats.tokens,
        "bpb": nats.bits_per_byte,
        "by_quarter": [-float(part.sum()) / math.log(2) / int(length.sum()) for part, length in quarters],
    }


if __name__ == "__main__":
    main()
