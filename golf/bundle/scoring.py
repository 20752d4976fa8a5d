"""The verbs that score an artifact: evaluate, audit, score."""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from golf.codec.model import decode_model
from golf.data.bytecount import ByteTable, load_sentencepiece
from golf.data.shards import read_sidecar, read_split
from golf.model.attention import choose_backend
from golf.model.transformer import Transformer
from golf.model.weights import ModelSpec, build
from golf.params.audit import Audit
from golf.params.base import load
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.quant.quantized import dequantize_model
from golf.runtime.device import choose_compile, describe
from golf.runtime.errors import ConfigError, DataError
from golf.runtime.files import write_json, write_npy
from golf.runtime.report import Stopwatch
from golf.scoring.audit import audit_evaluation
from golf.scoring.bpb import SidecarBytes, total
from golf.scoring.evaluator import SlidingScorer
from golf.scoring.evaluator import evaluate as evaluate_scores
from golf.scoring.protocol import ByteCounter
from golf.train.distributed import Ranks, join


@dataclass(frozen=True)
class Subject:
    """The artifact's model on its device."""

    spec: ModelSpec
    model: Transformer
    attention: str
    compiled: bool


def evaluate(parsed: argparse.Namespace) -> None:
    """Decode, score three ways, write result.json and nll.npy; the clock runs from the first line here."""
    started = time.monotonic()
    config, hardware = load(Eval, parsed.params), load(Hardware, parsed.params)
    watch = Stopwatch()
    with join(hardware) as ranks:
        with watch.part("read"):
            tokens, counter = read_validation(parsed.shards, parsed.bytes)
        with watch.part("decode"):
            subject = read_artifact(parsed.artifact, hardware, ranks)
            check_vocabulary(subject.spec, counter)
        deadline = started + config.budget_seconds
        result = evaluate_scores(subject.model, tokens, counter, config, deadline=deadline, compiled=subject.compiled)
        if not ranks.first:
            return
        nll = np.asarray(result.pop("nll"), dtype="<f8")
        seconds = {**watch.parts, **result.pop("seconds")}
        write_npy(parsed.out / "nll.npy", nll)
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


def audit(parsed: argparse.Namespace) -> None:
    """Run every check on the evaluator that ``evaluate`` uses; write audit.json. A failed check is a result."""
    config, check, hardware = load(Eval, parsed.params), load(Audit, parsed.params), load(Hardware, parsed.params)
    with join(hardware) as ranks:
        tokens, counter = read_validation(parsed.shards, parsed.bytes)
        subject = read_artifact(parsed.artifact, hardware, ranks)
        check_vocabulary(subject.spec, counter)
        has_sidecar = isinstance(counter, SidecarBytes)
        result = audit_evaluation(
            subject.model,
            tokens,
            counter,
            config,
            check,
            bos_id=subject.spec.bos_id,
            recount=None if has_sidecar else partial(recount, parsed=parsed),
        )
        if ranks.first:
            write_json(parsed.out / "audit.json", result)


def score(parsed: argparse.Namespace) -> None:
    """Print the bits per byte of shards or of a text file, scored without adaptation."""
    hardware = Hardware()
    config = Eval(seq_len=parsed.seq_len, stride=parsed.stride, ttt=False, ttt_chunk_tokens=max(parsed.seq_len, 4096))
    with join(hardware) as ranks:
        if parsed.text is None:
            if parsed.bytes is None:
                raise ConfigError("--shards needs the byte table too", hint="--bytes bytes.safetensors")
            tokens, counter = read_validation(parsed.shards, parsed.bytes)
        else:
            tokens, counter = read_text(parsed.text, parsed.tokenizer)
        subject = read_artifact(parsed.artifact, hardware, ranks)
        check_vocabulary(subject.spec, counter)
        nll = -SlidingScorer(subject.model, config, compiled=subject.compiled).score(tokens)
        result = total(nll, counter.count(tokens))
        if ranks.first:
            print(f"{result.bits_per_byte:.6f} bpb  {result.tokens:,} tokens  {result.bytes:,} bytes")


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
    compiled, _ = choose_compile(hardware, ranks.device)
    return Subject(quantized.spec, model, attention, compiled)


def read_validation(shards: Path, table: Path) -> tuple[Tensor, ByteCounter]:
    """The validation split (T,) int64, and what counts its bytes: the sidecar where there is one, else the table.

    Raises:
        MissingInput, DataError: no shard; too few tokens; a sidecar or a table that is not theirs.
    """
    tokens = torch.from_numpy(read_split(shards, "val").astype(np.int64))
    if tokens.numel() < 2:
        raise DataError(f"{shards}: {tokens.numel()} validation tokens, needed 2 or more")
    sidecar = read_sidecar(shards)
    if sidecar is not None:
        if sidecar.size != tokens.numel():
            raise DataError(
                f"{shards}: byte sidecars of {sidecar.size:,} tokens, needed the {tokens.numel():,} of its shards",
                hint="give each val_*.bin its val_bytes_*.bin, or none",
            )
        return tokens, SidecarBytes(torch.from_numpy(sidecar.astype(np.int64)))
    return tokens, ByteTable.load(table)


def read_text(path: Path, tokenizer: Path | None) -> tuple[Tensor, ByteTable]:
    """A text file as one document behind a BOS, and its tokenizer's byte table."""
    if tokenizer is None:
        raise ConfigError("--text needs the tokenizer too", hint="--tokenizer tokenizer.model")
    processor = load_sentencepiece(tokenizer)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start:,})") from None
    ids = processor.encode(text)
    if not ids:
        raise DataError(f"{path}: no text in it")
    return torch.tensor([processor.bos_id(), *ids]), ByteTable.from_processor(processor)


def check_vocabulary(spec: ModelSpec, counter: ByteCounter) -> None:
    """Refuse a byte table of another vocabulary.

    Raises:
        DataError: the sizes differ.
    """
    if isinstance(counter, ByteTable) and counter.vocab_size != spec.vocab_size:
        raise DataError(
            f"byte table of {counter.vocab_size} tokens, needed {spec.vocab_size}, the artifact's vocabulary",
            hint="the bytes.safetensors of the tokenizer that the model was trained with",
        )


def recount(tokens: Tensor, parsed: argparse.Namespace) -> Tensor:
    """Bytes of tokens[1:], counted a second way: from the tokenizer's own decoding where it is given.

    Without it the rule is applied again, token by token, to the table's columns.
    """
    pairs = pairwise(tokens.tolist())
    if parsed.tokenizer is None:
        table = ByteTable.load(parsed.bytes)
        base, space, boundary = (column.tolist() for column in (table.base, table.leading_space, table.boundary))
        return torch.tensor([base[now] + (space[now] and not boundary[before]) for before, now in pairs])
    processor = load_sentencepiece(parsed.tokenizer)
    return torch.tensor([_piece_bytes(processor, before, now) for before, now in pairs])


def _piece_bytes(processor: Any, before: int, now: int) -> int:
    """Bytes that token ``now`` adds behind token ``before``."""

    def silent(token: int) -> bool:
        return processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token)

    if now >= processor.vocab_size() or silent(now):
        return 0
    if processor.is_byte(now):
        return 1
    text = processor.id_to_piece(now).replace("\u2581", " ")
    after_text = before < processor.vocab_size() and not silent(before)
    return len(text.encode()) - (text.startswith(" ") and not after_text)
