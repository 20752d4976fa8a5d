"""The verb that scores an artifact, and what a check of the program asks of it (:mod:`golf.bundle.check`)."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golf.codec.model import decode_model
from golf.data.bytecount import ByteTable
from golf.data.shards import read_sidecar, read_split
from golf.data.vocabulary import check_vocabulary
from golf.model.attention import choose_backend
from golf.model.kernels.launch import kernels_available
from golf.model.transformer import Transformer
from golf.model.weights import ModelSpec, build
from golf.params.base import load
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.quant.quantized import dequantize_model
from golf.runtime.device import describe, peak_memory
from golf.runtime.errors import DataError
from golf.runtime.files import write_json, write_npy
from golf.runtime.report import Stopwatch
from golf.scoring.bpb import SidecarBytes
from golf.scoring.evaluator import evaluate as evaluate_scores
from golf.scoring.evaluator import make_scorer
from golf.scoring.protocol import ByteCounter, Scorer
from golf.train.distributed import Ranks, join


@dataclass(frozen=True)
class Subject:
    """The artifact's model on its device."""

    spec: ModelSpec
    model: Transformer
    attention: str


@contextmanager
def opened(artifact: Path, hardware: Hardware) -> Iterator[Subject]:
    """The artifact's model within the ranks' process group, for a check of this program."""
    with join(hardware) as ranks:
        yield read_artifact(artifact, hardware, ranks)


def scorer(model: Transformer, config: Eval) -> Scorer:
    """A fresh one of the scorers that :func:`evaluate` uses, which keeps a trace."""
    return make_scorer(model, config, traced=True)


def evaluate(parsed: argparse.Namespace, started: float) -> None:
    """Decode, score three ways, write the scores and what they took; the clock runs since ``started``."""
    watch = Stopwatch()
    watch.parts["import"] = time.monotonic() - started
    config, hardware = load(Eval, parsed.params), load(Hardware, parsed.params)
    with join(hardware) as ranks:
        with watch.part("read"):
            tokens, counter = read_validation(parsed.shards, parsed.bytes)
        with watch.part("decode"):
            subject = read_artifact(parsed.artifact, hardware, ranks)
            check_vocabulary(counter.vocab_size, subject.spec.vocab_size)
        deadline = started + config.budget_seconds
        hasten(subject.model, hardware, ranks.device)
        result = evaluate_scores(subject.model, tokens, counter, config, deadline=deadline)
        seconds = {**watch.parts, **result.pop("seconds")}
        rank = {"seconds": seconds, "waited": result.pop("waited"), "peak_memory_bytes": peak_memory(ranks.device)}
        write_json(parsed.out / f"rank{ranks.index}.json", rank)
        if not ranks.first:
            return
        for name, kind in (("nll", "<f8"), ("sliding", "<f4"), ("roundtrip", "<f4")):
            write_npy(parsed.out / f"{name}.npy", np.asarray(result.pop(name), dtype=kind))
        write_json(
            parsed.out / "result.json",
            {
                **result,
                "nats_per_token": result["nats"] / result["tokens"],
                "seconds": {name: round(value, 3) for name, value in seconds.items()},
                "clock_seconds": round(time.monotonic() - started, 3),
                "device": describe(ranks.device),
                "ranks": ranks.count,
                "attention": subject.attention,
            },
        )


def hasten(model: Transformer, hardware: Hardware, device: torch.device) -> None:
    """Score with kernels and recorded graphs: not where distributions are held against scores to 0.0001 nats."""
    model.kernels = hardware.kernels == "auto" and kernels_available(device)[0]
    model.graphs = hardware.graphs == "auto"


def read_artifact(path: Path, hardware: Hardware, ranks: Ranks) -> Subject:
    """Decode the artifact and build its model on the rank's device.

    Raises:
        DataError: it is damaged, or holds no model.
    """
    quantized = decode_model(path.read_bytes())
    attention, reason = choose_backend(hardware.attention, ranks.device)
    if ranks.first:
        print(f"attention: {attention} ({reason}); {describe(ranks.device)}; {ranks.count} rank(s)", flush=True)
    model = build(quantized.spec, dequantize_model(quantized), attention, ranks.device)
    return Subject(quantized.spec, model, attention)


def read_validation(shards: Path, table: Path) -> tuple[Tensor, ByteCounter]:
    """The validation split (T,) int64, and what counts its bytes: the sidecar where there is one, else the table.

    Raises:
        MissingInput, DataError: no shard; too few tokens; a sidecar or a table that is not theirs.
    """
    tokens = torch.from_numpy(read_split(shards, "val").astype(np.int64))
    if tokens.numel() < 2:
        raise DataError(f"{shards}: {tokens.numel()} validation tokens, needed 2 or more")
    counter, sidecar = ByteTable.load(table), read_sidecar(shards)
    if sidecar is None:
        return tokens, counter
    if sidecar.size != tokens.numel():
        raise DataError(
            f"{shards}: byte sidecars of {sidecar.size:,} tokens, needed the {tokens.numel():,} of its shards",
            hint="give each val_*.bin its val_bytes_*.bin, or none",
        )
    return tokens, SidecarBytes(torch.from_numpy(sidecar.astype(np.int64)), counter.vocab_size)
