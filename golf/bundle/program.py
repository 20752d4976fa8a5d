"""What the shipped program does, by verb: train, evaluate, audit, score.

Everything heavy is imported by the verb that needs it, so that ``--help`` and a wrong argument answer at once.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

from golf.runtime.errors import Exit, FairwayError, MissingInput, run_main

NAME = "train_gpt.py"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the verb of the command line (or of ``arguments``) and leave with its exit code."""
    parsed = parser().parse_args(arguments)
    run_main(f"{NAME} {parsed.verb}", lambda: run(parsed))


def run(parsed: argparse.Namespace) -> None:
    """Run a parsed command.

    Raises:
        FairwayError: an input is missing, or the verb failed.
    """
    for key in ("artifact", "shards", "bytes", "params", "tokenizer", "text"):
        path = getattr(parsed, key, None)
        kind, exists = ("folder", Path.is_dir) if key == "shards" else ("file", Path.is_file)
        if path is not None and not exists(path):
            raise MissingInput(f"--{key} {path}: no such {kind}", hint=f"python {NAME} {parsed.verb} --help")
    if hasattr(parsed, "out"):
        _require_writable(parsed.out)
    if parsed.verb == "train":
        from golf.bundle import training

        training.train(parsed)
    else:
        from golf.bundle import scoring

        {"evaluate": scoring.evaluate, "audit": scoring.audit, "score": scoring.score}[parsed.verb](parsed)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog=NAME,
        description="Train a byte-capped language model, or score the artifact of one. Runs under python and torchrun.",
    )
    verbs = top.add_subparsers(dest="verb", required=True, metavar="VERB")

    train = verbs.add_parser("train", help="train, select, quantize and compress: tokens in, model.golf out")
    _add(train, "shards", "folder with train_*.bin and heldout_*.bin")
    _add(train, "bytes", "byte table, bytes.safetensors")
    _add(
        train,
        "params",
        "JSON or YAML with the sections hardware, model, optim, train, select, quant, compress (to fit: budget)",
    )
    train.add_argument("--seed", type=int, required=True)
    _add(train, "out", "folder for model.golf and what comes before it")

    evaluate = verbs.add_parser(
        "evaluate", help="score an artifact on the validation shards, adapting as the rules allow"
    )
    audit = verbs.add_parser("audit", help="check that the evaluation is legal")
    for verb, sections, writes in (
        (evaluate, "eval, hardware", "result.json, nll.npy"),
        (audit, "audit, eval, hardware", "audit.json"),
    ):
        _add(verb, "artifact", "model.golf")
        _add(verb, "shards", "folder with val_*.bin, and val_bytes_*.bin where the text was transformed")
        _add(verb, "bytes", "byte table, bytes.safetensors")
        _add(verb, "params", f"JSON with the sections {sections}")
        _add(verb, "out", f"folder for {writes}")
    audit.add_argument("--tokenizer", type=Path, help="tokenizer.model, to count the bytes a second time")

    score = verbs.add_parser("score", help="bits per byte of shards or of a text file, without adaptation")
    _add(score, "artifact", "model.golf")
    source = score.add_mutually_exclusive_group(required=True)
    source.add_argument("--shards", type=Path, help="folder with val_*.bin; needs --bytes")
    source.add_argument("--text", type=Path, help="UTF-8 text file, scored as one document; needs --tokenizer")
    score.add_argument("--bytes", type=Path, help="byte table, bytes.safetensors")
    score.add_argument("--tokenizer", type=Path, help="tokenizer.model")
    score.add_argument("--seq-len", type=int, default=512, help="tokens of context (default: 512)")
    score.add_argument("--stride", type=int, default=256, help="tokens a window scores (default: 256)")
    return top


def _require_writable(folder: Path) -> None:
    """Make the output folder now: it is the last thing needed, and the dearest to miss."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise FairwayError(
            f"--out {folder}: {error.strerror}; needed a writable folder", hint="another --out", code=Exit.IO
        ) from None


def _add(verb: argparse.ArgumentParser, name: str, text: str) -> None:
    verb.add_argument(f"--{name}", type=Path, required=True, help=text)
