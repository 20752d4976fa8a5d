"""Choose the weights that go on: raw, an average or a soup, by bits per byte after quantisation.

Reads ``runs/train/SEED`` (raw, averages), the held-out split of ``data/shards`` and the byte table of
``data/tokenizer``; never validation text. Quantises every candidate by rounding to nearest, scores it before and
after, and writes the best one after: ``runs/select/SEED`` (weights, model.json, candidates.csv) and
``reports/select/SEED.json``.

    python -m stages.select --seed 42
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from golf.data.bytecount import ByteTable
from golf.model.attention import choose_backend
from golf.model.weights import load_spec, save_model
from golf.params.base import load, read_seed
from golf.params.hardware import Hardware
from golf.params.select import Select
from golf.quant.candidates import choose
from golf.quant.heldout import read_heldout
from golf.runtime.device import describe, prepare
from golf.runtime.errors import run_main
from golf.runtime.files import whole_directory
from golf.runtime.report import Stopwatch, write_report, write_timing

SHARDS = Path("data/shards")


def main() -> None:
    """Run the stage for one seed."""
    parser = argparse.ArgumentParser(prog="python -m stages.select", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seed", type=read_seed, required=True)
    seed = parser.parse_args().seed
    config, hardware = load(Select), load(Hardware)
    device = prepare(hardware)
    attention, _ = choose_backend(hardware.attention, device)
    watch = Stopwatch()
    trained = Path("runs/train") / str(seed)
    with watch.part("read"):
        spec = load_spec(trained)
        table = ByteTable.load("data/tokenizer/bytes.safetensors")
        heldout = read_heldout(SHARDS, table, tokens=config.tokens, seq_len=config.seq_len, spec=spec, say=say)
    with watch.part("score"):
        choice = choose(
            trained,
            config.candidates,
            heldout,
            bits=config.bits,
            clip_sigma=config.clip_sigma,
            embed_bits=config.embed_bits,
            embed_clip_sigma=config.embed_clip_sigma,
            attention=attention,
            device=device,
            say=say,
        )
    with watch.part("write"), whole_directory(Path("runs/select") / str(seed)) as folder:
        save_model(folder, "model", choice.state, spec.config, spec.vocab_size, spec.bos_id)
        choice.write_table(folder / "candidates.csv")
    write_report("select", {**choice.report(), "tokens": heldout.tokens}, seed=seed)
    reads = watch.parts["read"] + watch.parts["score"] if len(choice.scores) > 1 else 0.0  # of one there is no choice
    write_timing("select", watch, seed=seed, device=describe(device), text_seconds=round(reads, 3))
    best = min(score.post_bpb for score in choice.scores)
    print(f"select: {choice.name}, {best:.4f} bpb after quantisation, the best of {len(choice.scores)}")


def say(line: str) -> None:
    """One line to the log."""
    print(f"select: {line}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    run_main("select", main)
