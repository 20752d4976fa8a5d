"""Reads ``data.*`` of params.yaml and what it points at; writes ``data/raw`` with its manifest.

Sources: the installed documentation (``docstrings``), your own files (``jsonl``, ``text``), the published shards
(``fineweb``: from the hub, or from a local mirror). On a CPU: ``python -m stages.fetch`` takes about four seconds.
"""

from __future__ import annotations

import argparse

from golf.data.fetch import fetch
from golf.params.base import check_every_section, load
from golf.params.data import Data
from golf.runtime.errors import run_main
from golf.runtime.report import Stopwatch, write_timing


def main() -> None:
    """Bring the raw data."""
    argparse.ArgumentParser(prog="python -m stages.fetch", description="Bring the raw data.").parse_args()
    watch = Stopwatch()
    config = load(Data)
    check_every_section()  # a bad train.steps must not be found out after 16 GB of shards
    with watch.part(config.source):
        totals = fetch(config)
    write_timing("fetch", watch, **totals)
    print(f"fetch: {totals['files']} files, {totals['documents']:,} documents, {totals['bytes']:,} bytes in data/raw")


if __name__ == "__main__":
    run_main("fetch", main)
