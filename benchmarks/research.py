"""The ideas of ``golf.research`` against the plain model: the same text, batch, steps and optimizer for each.

Bytes are those of the weights before entropy coding; a score marked ≤ is a bound, drawn at random. Windows do not
overlap, nothing adapts: compare the rows with each other and with no other table.

    python -m benchmarks.research --shards data/shards                              # all of them, a minute on a CPU
    python -m benchmarks.research --shards data/shards --ideas universal,jepa --steps 400 --seeds 42,314,999
    python -m benchmarks.research --shards data/shards --size large --device cuda --out benchmarks/results/research.json
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from golf.bundle.scoring import read_validation
from golf.data.loader import Stream
from golf.data.shards import load_index
from golf.research.idea import COMMAND, IDEAS, Size, find_idea
from golf.research.training import Outcome, Plan, Text, train_idea
from golf.runtime.device import describe
from golf.runtime.errors import ConfigError, run_main
from golf.runtime.files import write_json
from golf.runtime.progress import Progress

BASELINE = "baseline"
TABLE = Path("../tokenizer/bytes.safetensors")  # beside the shards, as the stage `tokenize` writes both


@dataclass(frozen=True)
class Scale:
    """A size, and the training that fits it."""

    size: Size
    steps: int
    rows: int  # windows a step
    val_tokens: int


SCALES = {
    "small": Scale(Size(dim=64, layers=4, heads=2, kv_heads=1, mlp_ratio=3.0, length=128), 80, 4, 8_192),
    "large": Scale(Size(dim=512, layers=8, heads=8, kv_heads=4, mlp_ratio=3.0, length=1024), 500, 64, 1_048_576),
}


def main() -> None:
    """Train, print the table, write the result."""
    parsed = parse()
    names, device = checked_names(parsed.ideas), checked_device(parsed.device)
    scale = SCALES[parsed.size]
    steps = parsed.steps or scale.steps
    plans = [Plan(steps, scale.rows, scale.val_tokens, seed, device) for seed in parsed.seeds]
    text = read_text(parsed.shards, parsed.bytes or parsed.shards / TABLE)
    print(
        f"{describe(device)}; torch {torch.__version__}; {parsed.size}: {scale.size}; {steps} steps of "
        f"{scale.rows} x {scale.size.length} tokens; seeds {', '.join(map(str, parsed.seeds))}",
        flush=True,
    )
    outcomes: dict[str, list[Outcome]] = {}
    with Progress("research", len(names) * len(plans) * steps) as bar:
        for name in names:
            tick = partial(bar.advance, 1, name)
            outcomes[name] = [train_idea(name, scale.size, text, plan, tick) for plan in plans]
    rows = [summary(name, results, outcomes.get(BASELINE)) for name, results in outcomes.items()]
    report(rows)
    if parsed.out:
        setting = {"device": describe(device), "torch": torch.__version__, "scale": parsed.size, **asdict(scale)}
        write_json(parsed.out, setting | {"steps": steps, "seeds": parsed.seeds, "ideas": rows})


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n", 1)[0])
    parser.add_argument("--shards", type=Path, required=True, help="folder with train_*.bin, val_*.bin and shards.json")
    parser.add_argument(
        "--bytes", type=Path, help=f"byte table, where val_*.bin has no sidecar (default: SHARDS/{TABLE})"
    )
    parser.add_argument("--ideas", default=",".join(IDEAS), help=f"some of {','.join(IDEAS)} (default: all)")
    parser.add_argument("--steps", type=positive, help="optimizer steps (default: what fits the size)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--size", choices=SCALES, default="small", help="large: for a GPU (default: small)")
    parser.add_argument("--seeds", type=integers, default=[42], help="of weights and order (default: 42)")
    parser.add_argument("--out", type=Path, help="JSON to write")
    return parser.parse_args()


def positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def integers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def checked_names(text: str) -> list[str]:
    """The ideas of a list with commas, the baseline first where it is one of them."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        find_idea(name)
    return sorted(names, key=lambda name: name != BASELINE)


def checked_device(name: str) -> torch.device:
    """The device of that name, if torch has one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"--device: found cuda, but torch {torch.__version__} sees no GPU", hint=f"{COMMAND} --device cpu"
        )
    return torch.device(name)


def read_text(shards: Path, table: Path) -> Text:
    """Both splits of a folder, their vocabulary, and what counts the bytes of the validation tokens."""
    vocab_size = int(load_index(shards)["vocab_size"])
    val, counter = read_validation(shards, table)
    return Text(Stream.open(shards, "train"), val, counter, vocab_size)


def summary(name: str, results: list[Outcome], baseline: list[Outcome] | None) -> dict[str, Any]:
    """Means over seeds, each seed's score, and its distance from the baseline of the same seed."""
    first = results[0]
    bpb = [result.val.bits_per_byte for result in results]
    row: dict[str, Any] = {
        "idea": name,
        "parameters": first.parameters,
        "artifact_bytes": first.artifact_bytes,
        "ms_per_step": round(statistics.median(result.ms_per_step for result in results), 2),
        "train_loss": round(statistics.mean(result.train_loss for result in results), 4),
        "val_nats": round(statistics.mean(result.val.nats_per_token for result in results), 4),
        "val_bpb": round(statistics.mean(bpb), 4),
        "val_bpb_by_seed": [round(value, 4) for value in bpb],
        "exact": first.exact,
    }
    if baseline is not None and name != BASELINE:
        gaps = [value - other.val.bits_per_byte for value, other in zip(bpb, baseline, strict=True)]
        row["gap_bpb"] = round(statistics.mean(gaps), 4)
        row["gap_std"] = round(statistics.stdev(gaps), 4) if len(gaps) > 1 else None
    return row


def report(rows: list[dict[str, Any]]) -> None:
    """The table, for people."""
    print("idea         parameters   bytes, 6 bit   ms/step  train loss   val nats    val bpb   - baseline")
    for row in rows:
        gap = f"{row['gap_bpb']:+.4f}" if "gap_bpb" in row else ""
        spread = f" ± {row['gap_std']:.4f}" if row.get("gap_std") is not None else ""
        mark = " " if row["exact"] else "≤"
        print(
            f"{row['idea']:12} {row['parameters']:10,} {row['artifact_bytes']:14,} {row['ms_per_step']:9.1f} "
            f"{row['train_loss']:11.4f}  {mark}{row['val_nats']:8.4f}  {mark}{row['val_bpb']:8.4f}   {gap:>10}{spread}"
        )


if __name__ == "__main__":
    run_main("research", main)
