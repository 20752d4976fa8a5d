"""Reads ``data/raw`` whole; writes ``reports/verify.json`` when nothing is wrong with it.

Each defect is one line on stderr: file, what, found, needed. On a CPU: ``python -m stages.verify``, at the speed of
``sha256sum`` on as many cores.
"""

from __future__ import annotations

import argparse
import sys

from golf.data.verify import verify
from golf.runtime.errors import DataError, run_main
from golf.runtime.report import Stopwatch, write_report, write_timing


def main() -> None:
    """Verify the raw data."""
    argparse.ArgumentParser(prog="python -m stages.verify", description="Verify the raw data.").parse_args()
    watch = Stopwatch()
    with watch.part("scan"):
        verdict = verify()
    for note in verdict.notes:
        print(f"verify: note: {note}", file=sys.stderr)
    if verdict.defects:
        for defect in verdict.defects:
            print(f"verify: {defect}", file=sys.stderr)
        count = len(verdict.defects)
        raise DataError(
            f"data/raw: {count} defect{'s' * (count > 1)}, each named above",
            hint="dvc repro --force fetch, or see docs/data.md",
        )
    write_timing("verify", watch, bytes_per_second=round(verdict.numbers["bytes"] / max(watch.seconds, 1e-9)))
    write_report("verify", verdict.numbers)
    print(f"verify: {verdict.numbers['files']} files, {verdict.numbers['bytes']:,} bytes: no defect")


if __name__ == "__main__":
    run_main("verify", main)
