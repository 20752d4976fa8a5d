"""What each correction of the published recipes is worth: the same run without it, on the same text, seed by seed.

A row is one correction taken back, as a difference from the run that has them all: bits per byte of the weights that
``select`` would take, on held-out training text, before quantisation and after. Above 0: the correction helps.

    python -m benchmarks.ablations --shards data/shards --tokenizer data/tokenizer --seeds 42 314 999
    python -m benchmarks.ablations --profile r1061 --shards data/shards --tokenizer data/tokenizer --only bos_mask \\
        --set train.steps=1000 --out benchmarks/results/ablations.json
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.train_step import configuration
from golf.data.bytecount import ByteTable
from golf.model.weights import ModelSpec
from golf.quant.candidates import choose
from golf.quant.heldout import HeldOut, read_heldout
from golf.runtime.device import prepare
from golf.runtime.errors import ConfigError, run_main
from golf.runtime.files import write_json
from golf.train.loop import train
from golf.train.plan import TrainConfig, check

Configs = dict[str | None, TrainConfig]

# What the published scripts do, by the name of what corrects it; docs/model.md has the sources.
PUBLISHED = {
    "late_qat": ("train.qat_share=0",),  # its switch was never on
    "bos_mask": ("model.bos_mask=false",),  # the smear gate mixes documents
    "skip_binding": ("model.skip_binding=position",),  # slots change their layers when the loop turns on
    "document_mask": ("model.document_mask=false", "train.pack=windows"),
    "grad_clip": ("optim.grad_clip=0",),  # each rank clipped its own gradient; the last recipes none
    "polar_express": ("optim.newton_schulz=stock",),
    "row_normalize": ("optim.row_normalize=false",),
    "xsa": ("model.xsa_layers=0",),
    "ln_scale": ("model.ln_scale=false",),
}
SMALL = (  # a looped model with every component that is ablated, for minutes on a CPU
    "model.num_layers=5", "model.dim=96", "model.loop_first=2", "model.loop_last=3", "model.loop_passes=2",
    "train.loop_shares=[0.35]", "model.unet_skips=gated", "model.document_mask=true", "model.xsa_layers=5",
    "model.smear_kind=token", "optim.newton_schulz=polar_express", "optim.row_normalize=true",
    "model.bigram_buckets=0",
)  # fmt: skip


class Score(NamedTuple):
    """Bits per byte of the chosen weights."""

    before: float
    after: float  # quantisation


def main() -> None:
    """Train, score, print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--profile", help="overlay in profiles/; none: a small looped model")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for every run")
    parser.add_argument("--only", action="append", choices=PUBLISHED, help="such a correction (default: all)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[42, 314, 999])
    parser.add_argument("--shards", type=Path, required=True, help="folder with train_*.bin and heldout_*.bin")
    parser.add_argument("--tokenizer", type=Path, required=True, help="folder with bytes.safetensors")
    parser.add_argument("--heldout-tokens", type=int, default=65_536)
    parser.add_argument("--out", type=Path, help="JSON to write")
    parsed = parser.parse_args()
    common = [*([] if parsed.profile else SMALL), *parsed.set]
    configs = without_each(parsed.only or PUBLISHED, parsed.profile, common, parsed.shards)
    table = ByteTable.load(parsed.tokenizer / "bytes.safetensors")
    heldout = heldout_text(configs[None], table, parsed.heldout_tokens)
    rows: dict[str, list[Score]] = {}
    for name, config in configs.items():
        rows[name or "all"] = [score(replace(config, seed=seed), heldout) for seed in parsed.seeds]
        print(line(name, rows), flush=True)
        if parsed.out:  # anew after each row: the next one may take hours, and fail
            write_json(parsed.out, {"profile": parsed.profile, "set": common, "seeds": parsed.seeds, "rows": rows})


def without_each(names: Iterable[str], profile: str | None, common: list[str], shards: Path) -> Configs:
    """The run with everything, by None, and each without one correction, by its name; all can be trained.

    Raises:
        ConfigError: one is not in the profile's parameters, or what is left cannot be trained.
    """
    base = configuration(profile, common, shards)
    if base.train.steps >= 1_000_000:
        raise ConfigError("the profile's clock would decide", hint="--set train.steps=1000")
    changed = {name: configuration(profile, [*common, *keys], shards) for name, keys in PUBLISHED.items()}
    fitting = [f"--only {name}" for name, config in changed.items() if config != base]
    for name in names:
        if changed[name] == base:
            raise ConfigError(f"{name}: these parameters do not have it", hint=" ".join(fitting))
    configs: Configs = {None: base, **{name: changed[name] for name in names}}
    for config in configs.values():
        check(config)
    return configs


def heldout_text(config: TrainConfig, table: ByteTable, tokens: int) -> HeldOut:
    """The text that every run is scored on."""
    spec = ModelSpec(config.model, config.vocab_size)
    return read_heldout(config.shards, table, tokens=tokens, seq_len=config.train.seq_len, spec=spec)


def score(config: TrainConfig, heldout: HeldOut) -> Score:
    """Train one seed; the candidate that wins after quantisation on the grid that late QAT trains on."""
    grid = config.train
    with tempfile.TemporaryDirectory(prefix="fairway-ablation-") as folder:
        train(replace(config, out=Path(folder), checkpoints=None))
        device = prepare(config.hardware)
        choice = choose(
            folder, ["raw", "ema", "swa", "soup"], heldout,
            bits=grid.qat_bits, clip_sigma=grid.qat_clip_sigma,
            embed_bits=grid.qat_embed_bits, embed_clip_sigma=grid.qat_embed_clip_sigma, device=device,
        )  # fmt: skip
    best = next(each for each in choice.scores if each.name == choice.name)
    return Score(best.pre_bpb, best.post_bpb)


def line(name: str | None, rows: dict[str, list[Score]]) -> str:
    """A row of the table: the run with everything, or mean and deviation of the differences from it."""
    if name is None:
        before, after = (statistics.mean(each) for each in zip(*rows["all"], strict=True))
        return f"{'all corrections':16} {before:9.4f} bpb before quantisation, {after:9.4f} after"
    parts: list[Any] = []
    for i in range(2):
        parts.append(spread([ours[i] - base[i] for ours, base in zip(rows[name], rows["all"], strict=True)]))
    return f"without {name:16} {parts[0]} before, {parts[1]} after"


def spread(differences: list[float]) -> str:
    """Mean and standard deviation (ddof 1)."""
    deviation = f" ± {statistics.stdev(differences):.4f}" if len(differences) > 1 else ""
    return f"{statistics.mean(differences):+.4f}{deviation}"


if __name__ == "__main__":
    run_main("ablations", main)
