"""How many seconds `select` and `quantize` will read training text for, by a dry run on this machine.

    python -m golf.quant data/shards 42

`train` asks this of a process of its own before its clock starts (``train.reserve_seconds: null``): if it imported the
quantiser it would depend on it, and every edit of a step size would retrain.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.data.shards import load_index
from golf.model.attention import choose_backend
from golf.model.weights import ModelSpec
from golf.params.base import load
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.quant import Quant
from golf.params.select import Select
from golf.params.train import Train
from golf.quant.reserve import measure
from golf.runtime.device import prepare
from golf.runtime.errors import run_main


def main() -> None:
    """Print the seconds."""
    parser = argparse.ArgumentParser(prog="python -m golf.quant", description="Seconds to leave for calibration.")
    parser.add_argument("shards", type=Path)
    parser.add_argument("seed", type=int)
    parsed = parser.parse_args()
    hardware, index = load(Hardware), load_index(parsed.shards)
    device = prepare(hardware)
    spec = ModelSpec(load(Model), index["vocab_size"], index["bos_id"])
    attention, _ = choose_backend(hardware.attention, device)
    print(measure(parsed.shards, spec, load(Train), load(Select), load(Quant), parsed.seed, attention, device))


if __name__ == "__main__":
    run_main("quant", main)
