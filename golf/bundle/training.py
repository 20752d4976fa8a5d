"""The verb train: from shards to an artifact, by the functions that the stages call."""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path

import torch

from golf.codec.model import encode_model
from golf.data.bytecount import ByteTable
from golf.data.shards import load_index
from golf.model.attention import choose_backend
from golf.model.transformer import Transformer
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
from golf.quant.calibration import calibration_text
from golf.quant.candidates import Choice, choose
from golf.quant.curvature import Curvature, calibrate
from golf.quant.fit import fit
from golf.quant.heldout import read_heldout
from golf.quant.model import Quantizer
from golf.quant.quantized import QuantizedModel
from golf.quant.reserve import measure
from golf.runtime.files import write_bytes
from golf.runtime.report import Stopwatch
from golf.train.connect import connect
from golf.train.distributed import Ranks
from golf.train.loop import train_among
from golf.train.plan import TrainConfig, check


def train(parsed: argparse.Namespace) -> None:
    """Train, select, quantize, compress, in one go: it keeps no checkpoints, which the stage ``train`` does.

    The ranks train and calibrate together; the first one alone chooses among the weights, rounds and compresses.
    """
    hardware, selection, training = (
        load(Hardware, parsed.params),
        load(Select, parsed.params),
        load(Train, parsed.params),
    )
    quant, compress = load(Quant, parsed.params), load(Compress, parsed.params)
    index = load_index(parsed.shards)
    spec = ModelSpec(load(Model, parsed.params), index["vocab_size"], index["bos_id"])
    config = TrainConfig(
        model=spec.config,
        optim=load(Optim, parsed.params),
        train=training,
        hardware=hardware,
        seed=parsed.seed,
        shards=parsed.shards,
        vocab_size=spec.vocab_size,
        bos_id=spec.bos_id,
        out=parsed.out / "train",
    )
    check(config)
    table_of_bytes = ByteTable.load(parsed.bytes)
    with connect(hardware) as ranks:
        attention, _ = choose_backend(hardware.attention, ranks.device)

        def reserve(ranks: Ranks) -> float:
            """By a dry run of what follows."""
            where = (attention, ranks.device, ranks)
            return measure(parsed.shards, spec, training, selection, quant, parsed.seed, *where)

        result = train_among(ranks, config, Stopwatch(), reserve)
        left = math.inf if result.left_seconds is None else result.left_seconds
        model = build(spec, None, attention, ranks.device)
        if ranks.first:
            started = time.perf_counter()
            choice = select(parsed, selection, table_of_bytes, attention, ranks.device, spec)
            if len(choice.scores) > 1:
                left -= time.perf_counter() - started
            model.load_state_dict(choice.state)
        ranks.take_from_first_(model.state_dict())
        found = hessians(parsed, quant, model, spec, ranks, ranks.first_says(left))
    if not ranks.first:
        return
    save_model(parsed.out / "select", "model", choice.state, spec.config, spec.vocab_size, spec.bos_id)
    quantizer = Quantizer(choice.state, tensor_groups(model), found.hessians, quant, spec, say, found.gains,
                          found.outputs)  # fmt: skip
    blob, _ = encode_model(fitted(parsed, quantizer, compress) if quant.fit else quantizer(), compress)
    write_bytes(parsed.out / "model.golf", blob)
    say(f"{parsed.out / 'model.golf'}: {len(blob):,} bytes, from {choice.name} after {result.steps} steps")


def select(
    parsed: argparse.Namespace,
    config: Select,
    table_of_bytes: ByteTable,
    attention: str,
    device: torch.device,
    spec: ModelSpec,
) -> Choice:
    """The trained weights that are best after quantisation, on held-out training text."""
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
        attention=attention,
        device=device,
        say=say,
    )


def hessians(
    parsed: argparse.Namespace, config: Quant, model: Transformer, spec: ModelSpec, ranks: Ranks, left: float
) -> Curvature:
    """Calibration by all ranks, on training text within the ``left`` seconds of the clock."""
    started = time.perf_counter()
    text = calibration_text(model, parsed.shards, config, spec, parsed.seed, say, ranks)
    if config.calibration == "train":
        left -= time.perf_counter() - started
    else:
        left = math.inf
    found = calibrate(model, text, config.steps, ranks, left, progress=ranks.first)
    if ranks.first:
        say(f"calibrated on {found.tokens:,} tokens in {time.perf_counter() - started:.2f} s, of {left:.2f} left")
    return found


def fitted(parsed: argparse.Namespace, quantizer: Quantizer, compress: Compress) -> QuantizedModel:
    """The finest model that fits into what this program leaves of the budget."""
    room = load(Budget, parsed.params).artifact_bytes - Path(sys.argv[0]).stat().st_size
    return fit(quantizer, lambda candidate: len(encode_model(candidate, compress)[0]), room, say).model


def say(line: str) -> None:
    """One line to the log."""
    print(f"train: {line}", file=sys.stderr, flush=True)
