"""One run of ``r1061`` by the clock on one GPU, and its loss on the text and in the segments that the script scores.

A process of its own, as the script has one; ``benchmarks.beside train`` starts it.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.beside.script import BATCH
from benchmarks.beside.text import segments
from benchmarks.train_step import configuration
from golf.data.shards import load_index, read_shard
from golf.model.attention import choose_backend
from golf.model.weights import build, load_spec, load_state
from golf.runtime.errors import run_main
from golf.runtime.files import write_json
from golf.train.loop import train
from golf.train.plan import TrainConfig

RESULT = "result.json"


def main() -> None:
    """Train, score, write ``OUT/result.json`` beside the weights."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside.ours", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shards", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True, help="shard of what is scored")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the weights")
    parsed = parser.parse_args()
    with tempfile.TemporaryDirectory() as checkpoints:  # written as in any run, never resumed from
        config = by_clock(parsed.shards, parsed.seconds, parsed.seed, parsed.out, Path(checkpoints))
        found = measure(config, read_shard(parsed.validation))
    write_json(parsed.out / RESULT, found)


def by_clock(shards: Path, seconds: float, seed: int, out: Path, checkpoints: Path | None = None) -> TrainConfig:
    """Profile r1061 on one GPU, a micro-batch a step, all ``seconds`` for steps."""
    one_gpu = ["train.gpus=1", f"train.seconds={float(seconds)}", "train.reserve_seconds=0.0"]
    one_batch = [f"train.batch_tokens={BATCH}", f"train.micro_batch_tokens={BATCH}"]
    config = configuration("r1061", one_gpu + one_batch, shards)
    index = load_index(shards)
    return replace(
        config,
        train=replace(config.train, steps=0),  # what times single steps runs without a clock
        seed=seed,
        vocab_size=index["vocab_size"],
        bos_id=index["bos_id"],
        out=out,
        checkpoints=checkpoints,
    )


def measure(config: TrainConfig, tokens: np.ndarray, batch: int = BATCH) -> dict[str, Any]:
    """Train, and score the last weights and their average on ``tokens`` (T,)."""
    result = train(config)
    shares = config.train.loop_shares or (1.0,)
    before, with_loop = speeds(result.speed, shares[0] * config.train.seconds)
    return {
        "device": result.timing["device"],
        "steps": result.steps,
        "clock_seconds": result.timing["clock_seconds"],
        "ms_before_loop": before,
        "ms_with_loop": with_loop,
        "last_weights": loss(config.out, "raw", tokens, batch),
        "average": loss(config.out, f"ema-{config.train.ema_decays[0]:g}", tokens, batch),
    }


def speeds(rows: Sequence[Sequence[float | None]], turn: float) -> tuple[float | None, float | None]:
    """Milliseconds a step before and after ``turn``, seconds on the clock, by rows that hold (steps so far, ms a step).

    The row across ``turn`` counts for neither; None: there is no row on that side.
    """
    clock, last = 0.0, 0
    sides: tuple[list[tuple[float, float]], ...] = ([], [])
    for step, ms, *_ in rows:
        steps = int(step or 0) - last
        seconds = steps * (ms or 0.0) / 1000
        if clock >= turn or clock + seconds <= turn:
            sides[clock >= turn].append((seconds, steps))
        clock, last = clock + seconds, last + steps
    return tuple(  # type: ignore[return-value]
        round(1000 * sum(seconds for seconds, _ in side) / sum(steps for _, steps in side), 2) if side else None
        for side in sides
    )


def loss(folder: Path, weights: str, tokens: np.ndarray, batch: int) -> float:
    """Nats a token of the whole batches of ``tokens`` (T,)."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    attention, _ = choose_backend("auto", device)
    model = build(load_spec(folder), load_state(folder, weights), attention, device).eval()
    stream = torch.from_numpy(tokens.astype(np.int64)).to(device)
    starts = range(0, stream.numel() - batch, batch)
    total = 0.0
    with torch.no_grad():
        for start in starts:
            inputs, targets = stream[start : start + batch], stream[start + 1 : start + batch + 1]
            total += model(inputs[None], targets[None], documents=segments(inputs)).double().sum().item()
    return total / (len(starts) * batch)


if __name__ == "__main__":
    run_main("ours", main)
