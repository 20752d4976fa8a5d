"""The verb train: from shards to an artifact, by the functions that the stages call."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from golf.codec.artifact import table
from golf.codec.model import encode_model
from golf.data.bytecount import ByteTable
from golf.data.shards import load_index
from golf.model.attention import choose_backend
from golf.model.weights import ModelSpec, build, save_model, tensor_groups
from golf.params.base import load
from golf.params.budget import Budget
from golf.params.compress import Compress
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.quant import Quant
from golf.params.select import Select
from golf.params.train import Train
from golf.quant.candidates import Choice, choose
from golf.quant.curvature import calibrate
from golf.quant.fit import fit
from golf.quant.heldout import batch_windows, read_heldout, sample
from golf.quant.model import Quantizer
from golf.quant.quantized import QuantizedModel
from golf.runtime.device import prepare
from golf.runtime.files import write_bytes
from golf.train.loop import train as train_weights
from golf.train.plan import TrainConfig


def train(parsed: argparse.Namespace) -> None:
    """Train, select, quantize, compress, in one go: it keeps no checkpoints, which the stage ``train`` does."""
    hardware, selection = load(Hardware, parsed.params), load(Select, parsed.params)
    quant, compress = load(Quant, parsed.params), load(Compress, parsed.params)
    index = load_index(parsed.shards)
    spec = ModelSpec(load(Model, parsed.params), index["vocab_size"], index["bos_id"])
    table_of_bytes = ByteTable.load(parsed.bytes)
    result = train_weights(
        TrainConfig(
            model=spec.config,
            optim=load(Optim, parsed.params),
            train=load(Train, parsed.params),
            hardware=hardware,
            seed=parsed.seed,
            shards=parsed.shards,
            vocab_size=spec.vocab_size,
            bos_id=spec.bos_id,
            out=parsed.out / "train",
        )
    )
    if not result.first:
        return
    choice = select(parsed, selection, hardware, spec, table_of_bytes)
    save_model(parsed.out / "select", "model", choice.state, spec.config, spec.vocab_size, spec.bos_id)
    quantized = quantize(parsed, quant, hardware, compress, spec, choice)
    blob, reports = encode_model(quantized, compress)
    write_bytes(parsed.out / "streams.csv", table(reports).encode())
    write_bytes(parsed.out / "model.golf", blob)
    say(f"{parsed.out / 'model.golf'}: {len(blob):,} bytes, from {choice.name} after {result.steps} steps")


def select(
    parsed: argparse.Namespace, config: Select, hardware: Hardware, spec: ModelSpec, table_of_bytes: ByteTable
) -> Choice:
    """The trained weights that are best after quantisation, on held-out training text."""
    device = prepare(hardware)
    heldout = read_heldout(
        parsed.shards, table_of_bytes, tokens=config.tokens, seq_len=config.seq_len, spec=spec, say=say
    )  # fmt: skip
    return choose(
        parsed.out / "train",
        config.candidates,
        heldout,
        bits=config.bits,
        clip_sigma=config.clip_sigma,
        embed_bits=config.embed_bits,
        embed_clip_sigma=config.embed_clip_sigma,
        attention=choose_backend(hardware.attention, device)[0],
        device=device,
        say=say,
    )


def quantize(
    parsed: argparse.Namespace, config: Quant, hardware: Hardware, compress: Compress, spec: ModelSpec, choice: Choice
) -> QuantizedModel:
    """GPTQ of the chosen weights on training text; with ``quant.fit`` to what this program leaves of the budget."""
    device = prepare(hardware)
    model = build(spec, choice.state, choose_backend(hardware.attention, device)[0], device)
    calibration = sample(
        parsed.shards, "train", tokens=config.calibration_tokens, seq_len=config.seq_len, seed=parsed.seed, spec=spec,
        say=say,
    )  # fmt: skip
    found = calibrate(model, calibration, batch_windows(calibration), config.steps)
    quantizer = Quantizer(choice.state, tensor_groups(model), found.hessians, config, spec, say, found.gains)
    if not config.fit:
        return quantizer()
    room = load(Budget, parsed.params).artifact_bytes - Path(sys.argv[0]).stat().st_size
    return fit(quantizer, lambda candidate: len(encode_model(candidate, compress)[0]), room, say).model


def say(line: str) -> None:
    """One line to the log."""
    print(f"train: {line}", file=sys.stderr, flush=True)
