"""Reads ``data/raw`` and a tokenizer to reuse, if there is one; writes ``data/tokenizer`` and ``data/shards``.

The splits are train, heldout (training text kept aside for ``select``) and val. On a CPU: ``python -m
stages.tokenize`` takes a few seconds for the default corpus.
"""

from __future__ import annotations

import argparse

from golf.data.tokenize import tokenize
from golf.params.base import load
from golf.params.tokenizer import Tokenizer
from golf.runtime.errors import run_main
from golf.runtime.report import Stopwatch, write_report, write_timing


def main() -> None:
    """Tokenize the verified data."""
    argparse.ArgumentParser(prog="python -m stages.tokenize", description="Tokenize the verified data.").parse_args()
    watch = Stopwatch()
    config = load(Tokenizer)
    with watch.part("tokenize"):
        index = tokenize(config)
    numbers = {"vocab_size": index["vocab_size"]}
    for split, totals in index["splits"].items():
        numbers |= {f"{split}_{key}": totals[key] for key in ("tokens", "documents", "bytes")}
    train = index["splits"]["train"]
    numbers["bytes_per_token"] = round(train["bytes"] / train["tokens"], 6)
    raw_bytes = index["splits"]["val"].get("raw_bytes", numbers["val_bytes"])
    if raw_bytes != numbers["val_bytes"]:
        numbers["val_raw_bytes"] = raw_bytes
    restored = {key: index[key] for key in ("restored_documents",) if key in index}
    write_timing("tokenize", watch, **restored)
    write_report("tokenize", numbers)
    print(
        f"tokenize: {train['tokens']:,} training tokens of {numbers['bytes_per_token']:.3f} bytes, "
        f"{index['splits']['val']['tokens']:,} validation tokens, vocabulary {index['vocab_size']:,}"
        + "".join(f"; all {count:,} documents came back from their transform" for count in restored.values())
    )


if __name__ == "__main__":
    run_main("tokenize", main)
