"""What the shipped program does, by verb: train, evaluate. What checks it from outside is :mod:`golf.bundle.check`.

Everything heavy is imported by the verb that needs it, so that ``--help`` and a wrong argument answer at once.
"""

from __future__ import annotations

import argparse
import tempfile
import time
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
    started = time.monotonic()  # before torch is imported: seconds that the score waits for
    require_inputs(NAME, parsed)
    _require_writable(parsed.out)
    if parsed.verb == "train":
        from golf.bundle import training

        training.train(parsed)
    else:
        from golf.bundle import scoring

        scoring.evaluate(parsed, started)


def require_inputs(name: str, parsed: argparse.Namespace) -> None:
    """Refuse a path of the command line that is not there: all but ``--out`` are read.

    Raises:
        MissingInput: the first of them.
    """
    for key, path in vars(parsed).items():
        kind, exists = ("folder", Path.is_dir) if key == "shards" else ("file", Path.is_file)
        if isinstance(path, Path) and key != "out" and not exists(path):
            raise MissingInput(f"--{key} {path}: no such {kind}", hint=f"python {name} {parsed.verb} --help")


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
    _add(evaluate, "artifact", "model.golf")
    _add(evaluate, "shards", "folder with val_*.bin, and val_bytes_*.bin where the text was transformed")
    _add(evaluate, "bytes", "byte table, bytes.safetensors")
    _add(evaluate, "params", "JSON with the sections eval, hardware")
    _add(evaluate, "out", "folder for result.json, rankN.json, nll.npy, sliding.npy, roundtrip.npy")
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
