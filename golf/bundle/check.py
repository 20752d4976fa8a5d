"""Checks of a shipped program, from outside it: is its evaluation legal, and how does its model score a text?

A program of its own: nothing that trains or scores for the record needs it, so its bytes don't count. What it checks
is the shipped file itself, whose functions it calls (:data:`golf.bundle.build.EXPORTS`).
"""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from golf.bundle.program import require_inputs
from golf.bundle.restore import restored_bytes
from golf.data.bytecount import ByteTable, load_sentencepiece
from golf.data.encode import Encoder
from golf.data.sidecar import TokenBytes
from golf.data.transform import marker_ids
from golf.data.vocabulary import check_vocabulary
from golf.params.audit import Audit
from golf.params.base import load
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.runtime.errors import ConfigError, DataError, run_main, told
from golf.runtime.files import write_json
from golf.scoring.audit import audit_evaluation
from golf.scoring.bpb import SidecarBytes, total
from golf.scoring.protocol import ByteCounter

NAME = "check_gpt.py"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb of the command line (or of ``arguments``) and leave with its exit code."""
    parsed = parser().parse_args(arguments)
    run_main(f"{NAME} {parsed.verb}", lambda: run(parsed))


def run(parsed: argparse.Namespace) -> None:
    """Run a parsed command.

    Raises:
        FairwayError: an input is missing, or the verb failed, be it in the program's own code.
    """
    require_inputs(NAME, parsed)
    try:
        (audit if parsed.verb == "audit" else score)(parsed)
    except Exception as error:
        ours = told(error)
        if ours is None:
            raise
        raise ours from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(prog=NAME, description="Check a shipped program and its artifact.")
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")
    legal = verbs.add_parser("audit", help="check that the evaluation is legal")
    bpb = verbs.add_parser("score", help="bits per byte of shards or of a text file, without adaptation")
    for verb in (legal, bpb):
        verb.add_argument("--program", type=Path, default=Path("train_gpt.py"), help="default: %(default)s")
        verb.add_argument("--artifact", type=Path, required=True, help="model.golf")
        verb.add_argument("--tokenizer", type=Path, help="tokenizer.model; with it audit counts bytes a second time")
    shards = "folder with val_*.bin, and val_bytes_*.bin where the text was transformed"
    legal.add_argument("--shards", type=Path, required=True, help=shards)
    legal.add_argument("--bytes", type=Path, required=True, help="byte table, bytes.safetensors")
    legal.add_argument("--params", type=Path, required=True, help="JSON with the sections audit, eval, hardware")
    legal.add_argument("--out", type=Path, required=True, help="folder for audit.json")
    source = bpb.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", type=Path, help="folder with val_*.bin; needs --bytes")
    source.add_argument("--text", type=Path, help="UTF-8 text file, scored as one document; needs --tokenizer")
    bpb.add_argument("--bytes", type=Path, help="byte table, bytes.safetensors")
    bpb.add_argument("--seq-len", type=int, default=512, help="tokens of context (default: 512)")
    bpb.add_argument("--stride", type=int, default=256, help="tokens a window scores (default: 256)")
    return top


def shipped(program: Path) -> Any:
    """The module that the shipped file makes of itself."""
    runpy.run_path(str(program), run_name="read")
    return sys.modules[program.stem]


def audit(parsed: argparse.Namespace) -> None:
    """Run every check on the evaluator that ``evaluate`` uses; write audit.json. A failed check is a result.

    What is changed in a stream changes the shapes of its batches too. In bf16 that rounds as much as a leak would show,
    so all of it is computed in fp32; then as ``evaluate`` does, with its kernels and graphs, on the unchanged stream.
    """
    config, check, hardware = load(Eval, parsed.params), load(Audit, parsed.params), load(Hardware, parsed.params)
    program = shipped(parsed.program)
    tokens, counter = program.read_validation(parsed.shards, parsed.bytes)
    exact = replace(hardware, attention="sdpa")
    with program.opened(parsed.artifact, exact) as subject, program.opened(parsed.artifact, hardware) as fast:
        check_vocabulary(counter.vocab_size, subject.spec.vocab_size)
        subject.model.compute_dtype = torch.float32
        program.hasten(fast.model, hardware, next(fast.model.parameters()).device)
        result = audit_evaluation(
            subject.model,
            tokens,
            counter,
            config,
            check,
            bos_id=subject.spec.bos_id,
            recount=partial(recount, parsed=parsed) if countable(counter, parsed.tokenizer) else None,
            scorer=lambda short: program.scorer(subject.model, short),
            as_run=lambda short: program.scorer(fast.model, short),
        )
        write_json(parsed.out / "audit.json", result)


def score(parsed: argparse.Namespace) -> None:
    """Print the bits per byte of shards or of a text file, scored without adaptation."""
    config = Eval(seq_len=parsed.seq_len, stride=parsed.stride, ttt="none", ttt_chunk_tokens=max(parsed.seq_len, 4096))
    program = shipped(parsed.program)
    if parsed.text is None:
        if parsed.bytes is None:
            raise ConfigError("--shards needs the byte table too", hint="--bytes bytes.safetensors")
        tokens, counter = program.read_validation(parsed.shards, parsed.bytes)
    else:
        tokens, counter = read_text(parsed.text, parsed.tokenizer)
    with program.opened(parsed.artifact, Hardware()) as subject:
        check_vocabulary(counter.vocab_size, subject.spec.vocab_size)
        nll = -program.scorer(subject.model, config).score(tokens)
    result = total(nll, counter.count(tokens))
    print(f"{result.bits_per_byte:.6f} bpb  {result.tokens:,} tokens  {result.bytes:,} bytes")


def read_text(path: Path, tokenizer: Path | None) -> tuple[Tensor, ByteCounter]:
    """A text file as one document behind a BOS, and what counts its bytes: its tokenizer's table, or a sidecar."""
    if tokenizer is None:
        raise ConfigError("--text needs the tokenizer too", hint="--tokenizer tokenizer.model")
    processor = load_sentencepiece(tokenizer)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 ({error.reason} at byte {error.start:,})") from None
    if marker_ids(processor):
        (ids,) = Encoder(tokenizer, transform="caseops").encode([text])
        counts = torch.from_numpy(TokenBytes(processor).count(ids))
        counter: ByteCounter = SidecarBytes(counts, processor.vocab_size())
        tokens = torch.from_numpy(ids.astype("int64"))
    else:
        tokens, counter = (
            torch.tensor([processor.bos_id(), *processor.encode(text)]),
            ByteTable.from_processor(processor),
        )
    if tokens.numel() < 2:
        raise DataError(f"{path}: no text in it")
    return tokens, counter


def countable(counter: ByteCounter, tokenizer: Path | None) -> bool:
    """Whether :func:`recount` can count what ``counter`` does: a table's bytes, or a sidecar's of our transform."""
    if hasattr(counter, "base"):  # a table: the program has a class of its own
        return True
    return tokenizer is not None and marker_ids(load_sentencepiece(tokenizer)) != ()


def recount(tokens: Tensor, parsed: argparse.Namespace) -> Tensor:
    """Bytes of tokens[1:], counted a second way: from the tokenizer's own decoding where it is given.

    Transformed text is restored first. Without the tokenizer the rule is applied again, token by token, to the table's
    columns.
    """
    pairs = pairwise(tokens.tolist())
    if parsed.tokenizer is None:
        table = ByteTable.load(parsed.bytes)
        base, space, boundary = (column.tolist() for column in (table.base, table.leading_space, table.boundary))
        return torch.tensor([base[now] + (space[now] and not boundary[before]) for before, now in pairs])
    processor = load_sentencepiece(parsed.tokenizer)
    if marker_ids(processor):
        return torch.tensor(restored_bytes(processor, tokens.tolist())[1:])
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
