"""``python -m benchmarks.beside train`` and ``python -m benchmarks.beside evaluate``; docs/gpu.md tells them."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import beside
from benchmarks.beside import evaluation, training
from golf.runtime.errors import MissingInput, run_main


def main() -> None:
    """Read the command line and do one of the two."""
    parsed = parse()
    if parsed.tokenizer.is_dir():
        parsed.tokenizer /= "tokenizer.model"
    if not parsed.tokenizer.is_file():
        raise MissingInput(f"{parsed.tokenizer}: no such file, needed a SentencePiece model", hint="dvc repro tokenize")
    parsed.tokenizer = parsed.tokenizer.resolve()
    parsed.command(parsed)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.beside", description=beside.__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(required=True)
    train = commands.add_parser("train", help="both by the clock, on one GPU")
    evaluate = commands.add_parser("evaluate", help="both evaluations of one run's weights")
    for command in (train, evaluate):
        command.add_argument("--script", type=Path, default=Path("train_gpt.py"), help="default: %(default)s")
        command.add_argument("--shards", type=Path, default=Path("data/shards"), help="default: %(default)s")
        command.add_argument("--tokenizer", type=Path, default=Path("data/tokenizer"), help="its folder or its model")
        command.add_argument(
            "--tokens", type=int, default=393_217, help="of validation, whole batches and 1 (default: %(default)s)"
        )
        command.add_argument("--out", type=Path, default=Path("build/beside"), help="folder (default: %(default)s)")
    train.add_argument("--seconds", type=float, default=120.0, help="of the clock (default: 120)")
    train.add_argument("--seeds", type=int, nargs="+", default=[42], help="default: 42")
    train.add_argument("--only", choices=["ours", "script"])
    train.set_defaults(command=training.train)
    evaluate.add_argument("--run", type=Path, required=True, help="folder that training wrote")
    evaluate.add_argument("--weights", default="raw", help="which of them (default: raw)")
    evaluate.add_argument("--parts", nargs="+", choices=evaluation.PARTS, default=list(evaluation.PARTS))
    evaluate.add_argument(
        "--set", type=setting, nargs="+", default=[], metavar="NAME=VALUE", help="of the script's environment"
    )
    evaluate.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    evaluate.set_defaults(command=evaluation.evaluate)
    return parser.parse_args()


def setting(word: str) -> tuple[str, str]:
    """NAME=VALUE as a pair."""
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise argparse.ArgumentTypeError(f"found {word!r}, needed NAME=VALUE")
    return name, value


if __name__ == "__main__":
    run_main("beside", main)
