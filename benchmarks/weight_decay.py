"""What Muon's weight decay is worth in bytes: runs that differ in it alone, quantised, as artifacts.

    python -m benchmarks.weight_decay --shards data/shards --tokenizer data/tokenizer --decays 0 0.02 0.04 0.08 0.16

Bits per byte are those of the validation split's first windows. ``as it is`` is the artifact of the parameters' steps;
``equal bytes`` has them scaled until it is as large as that of the first decay, of the same seed: what a decay saves in
bytes is spent on finer steps there.
"""

from __future__ import annotations

import argparse
import tempfile
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.quantise import artifact_bytes, at_bytes, lost, prepare, quantizer_of
from benchmarks.train_step import configuration
from golf.model.weights import load_spec, load_state
from golf.params.quant import Quant
from golf.runtime.files import write_json
from golf.train.loop import train
from golf.train.plan import TrainConfig

CLOSE = 0.0005  # of the bytes: near enough to be called equal


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.weight_decay", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shards", type=Path, required=True, help="folder with train_*, heldout_* and val_*.bin")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with bytes.safetensors")
    parser.add_argument("--profile", help="overlay in profiles/; none: params.yaml as it is")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--decays", type=float, nargs="+", default=[0.04, 0.0, 0.02, 0.08, 0.16])
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 314, 999])
    parser.add_argument("--steps", choices=("row", "column", "curvature"), default="row", help="quant.steps")
    parser.add_argument("--weights", default="raw", help="which of the weights that training leaves (default: raw)")
    parser.add_argument("--scored", type=int, default=64, help="windows of 1,024 tokens scored (default: 64)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/weight_decay.json"))
    parsed = parser.parse_args()
    quant = Quant(steps=parsed.steps)
    rows: list[dict[str, Any]] = []
    for seed in parsed.seeds:
        target = None
        for decay in parsed.decays:
            config = configuration(parsed.profile, [*parsed.set, f"optim.muon_weight_decay={decay}"], parsed.shards)
            row = {"decay": decay, "seed": seed, **measure(replace(config, seed=seed), quant, parsed, target)}
            target = target or row["bytes"]
            rows.append(row)
            print(line(f"{decay:g}, seed {seed}", [row]), flush=True)
    for decay in parsed.decays:
        print(line(f"{decay:g}, mean", [row for row in rows if row["decay"] == decay]))
    write_json(parsed.out, {"profile": parsed.profile, "set": parsed.set, "steps": parsed.steps, "rows": rows})


def measure(config: TrainConfig, quant: Quant, parsed: Namespace, target: float | None) -> dict[str, Any]:
    """Train one run and quantise it, as the parameters say and to ``target`` bytes (None: what that takes)."""
    with tempfile.TemporaryDirectory(prefix="fairway-decay-") as folder:
        train(replace(config, out=Path(folder), checkpoints=None))
        spec, state = load_spec(folder), load_state(folder, parsed.weights)
    text = Namespace(shards=parsed.shards, tokenizer=parsed.tokenizer, windows=64, scored=parsed.scored, device="cpu")
    parts = prepare(text, f"seed {config.seed}", spec, state)
    quantizer = quantizer_of(quant, parts)
    model, size, _ = at_bytes(quantizer, None, artifact_bytes)
    same, same_size, multiplier = at_bytes(quantizer, target or size, artifact_bytes, CLOSE)
    return {
        "bpb": parts["bpb"], "bytes": size, "bpb_lost": lost(parts, model),
        "multiplier": multiplier, "equal_bytes": same_size, "equal_bpb_lost": lost(parts, same),
    }  # fmt: skip


def line(name: str, rows: list[dict[str, Any]]) -> str:
    """A row of the table: means over ``rows``."""
    bpb, size, gone, same, kept = (
        mean(row[key] for row in rows) for key in ("bpb", "bytes", "bpb_lost", "equal_bytes", "equal_bpb_lost")
    )
    return (
        f"decay {name:16} {bpb:.4f} bpb; as it is {size:>9,.0f} bytes, {bpb + gone:.4f} bpb; "
        f"equal bytes {same:>9,.0f}, {bpb + kept:.4f} bpb"
    )


if __name__ == "__main__":
    main()
