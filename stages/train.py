"""Train one seed; keep the last weights and the averages.

Reads ``data/shards``. Writes ``runs/train/SEED`` (raw.safetensors, an ema-DECAY.safetensors each, swa.safetensors,
model.json), ``reports/train/SEED.json``, ``reports/curves/SEED.csv`` and ``reports/timing/train/SEED.csv``. With
several GPUs, or ``hardware.processes``, it starts itself again under torchrun, a rank a GPU. A run that was
interrupted goes on from its last checkpoint in ``.checkpoints``.

    python -m stages.train --seed 42
"""

from __future__ import annotations

import argparse
import math
import sys
from pathlib import Path
from typing import Any

from golf.data.shards import load_index
from golf.model.attention import choose_backend
from golf.params.base import check_every_section, load, read_seed
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.train import Train
from golf.runtime.apart import ask
from golf.runtime.device import uses_gpu
from golf.runtime.errors import DataError, run_main
from golf.runtime.files import write_bytes
from golf.runtime.place import top_folder
from golf.runtime.report import REPORTS, Stopwatch, timing_path, write_report, write_timing
from golf.train.checkpoint import forget
from golf.train.distributed import Ranks, started_by_torchrun
from golf.train.launch import launch, reported
from golf.train.log import write_curve
from golf.train.loop import TrainResult, train
from golf.train.meter import write_speed
from golf.train.plan import TrainConfig, check, choose_processes, make_plan

SHARDS = Path("data/shards")
CHECKPOINTS = Path(".checkpoints")


def main() -> None:
    """Run the stage for one seed, or start the ranks that do."""
    parser = argparse.ArgumentParser(prog="python -m stages.train", description="Train one seed.")
    parser.add_argument("--seed", type=read_seed, required=True)
    parser.add_argument("--failure", type=Path, help=argparse.SUPPRESS)  # a rank's: where it says what ended it
    arguments = parser.parse_args()
    if not started_by_torchrun():
        check_every_section()  # a bad quant.bits must not be found out after ten minutes on eight GPUs
    index = load_index(SHARDS)
    totals = train_totals(index)
    config = TrainConfig(
        model=load(Model),
        optim=load(Optim),
        train=load(Train),
        hardware=load(Hardware),
        seed=arguments.seed,
        shards=SHARDS,
        vocab_size=index["vocab_size"],
        bos_id=index["bos_id"],
        out=Path("runs/train") / str(arguments.seed),
        checkpoints=top_folder(Path.cwd()) / CHECKPOINTS,  # an experiment's copy dies with its run
    )
    if not started_by_torchrun():
        processes, reason = choose_processes(config.train, config.hardware)
        make_plan(config.train, config.hardware, processes, config.model.loop_passes)
        check(config)
        choose_backend(config.hardware.attention, "cuda" if uses_gpu(config.hardware) else "cpu")
        if processes > 1:
            print(f"train: {processes} processes: {reason}", file=sys.stderr, flush=True)
            launch("stages.train", ["--seed", str(arguments.seed)], processes, config.hardware.threads)
            return
    code = reported(lambda: run(config, totals, arguments.failure), arguments.failure)
    if code:
        sys.exit(code)


def run(config: TrainConfig, totals: tuple[int, int], failure: Path | None) -> None:
    """Train; the first rank reports, and forgets the checkpoints once the result is safe."""
    watch = Stopwatch()

    def reserve(ranks: Ranks) -> float:
        """What `select` and `quantize`, one process each, will need; see :mod:`golf.quant.__main__`."""
        return float(ask("quant", str(SHARDS), str(config.seed))) if ranks.first else 0.0

    result = train(config, watch, failure, reserve)
    if not result.first:
        return
    write_bytes(REPORTS / "curves" / f"{config.seed}.csv", write_curve(result.curve))
    write_report("train", numbers(result, config, totals), seed=config.seed)
    write_timing("train", watch, seed=config.seed, **result.timing)
    write_bytes(timing_path("train", config.seed).with_suffix(".csv"), write_speed(result.speed))
    forget(result.checkpoints)


def train_totals(index: dict[str, Any]) -> tuple[int, int]:
    """Tokens and bytes of the training split.

    Raises:
        DataError: the index does not tell them.
    """
    split = index["splits"].get("train")
    tokens, size = (split.get("tokens"), split.get("bytes")) if isinstance(split, dict) else (None, None)
    if not (isinstance(tokens, int) and isinstance(size, int) and tokens > 0 and size > 0):
        raise DataError(
            f"{SHARDS}/shards.json: splits.train: found {tokens!r} tokens of {size!r} bytes, needed both, above 0",
            hint="dvc repro --force tokenize",
        )
    return tokens, size


def numbers(result: TrainResult, config: TrainConfig, totals: tuple[int, int]) -> dict[str, Any]:
    """The report. ``train_bpb`` rests on the training split's mean bytes a token, not on those of the last batches.

    ``resumed`` stands here only for a run by the clock: in one by steps the weights are those of an uninterrupted one.
    """
    tokens, size = totals
    report: dict[str, Any] = {
        "steps": result.steps,
        "tokens": result.tokens,
        "epochs": round(result.tokens / tokens, 4),
        "parameters": result.parameters,
        "final_loss": round(result.final_loss, 6),
        "train_bpb": round(result.final_loss / math.log(2) * tokens / size, 6),
        "clock": result.clock,
    }
    if result.resumed and config.train.steps == 0:
        report["resumed"] = True
    return report


if __name__ == "__main__":
    run_main("train", main)
