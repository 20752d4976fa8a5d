"""The result table: ``python -m pipeline.table``, or ``--markdown`` for a README.

One row a seed of params.yaml, read from reports/: bits per byte before quantisation, after it, and as scored by the
shipped program; the artifact's bytes and what is left under the cap; the audit's word. Then the verdict over seeds.
"""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from golf.params.base import load_seeds
from golf.runtime.errors import MissingInput, run_main
from golf.runtime.report import read_report

REPORTS = Path("reports")
COLUMNS = ("seed", "pre-quant bpb", "post-quant bpb", "final bpb", "artifact bytes", "slack", "audit")
MISSING = "-"


def rows(seeds: list[int], reports: Path = REPORTS) -> list[tuple[str, ...]]:
    """A row of text a seed; what a seed has not reported yet is a dash."""
    found: list[tuple[str, ...]] = []
    for seed in seeds:
        quantize, evaluate, gate, audit = (
            _read(reports / stage / f"{seed}.json", f"{stage}@{seed}")
            for stage in ("quantize", "evaluate", "gate", "audit")
        )
        found.append(
            (
                str(seed),
                _number(quantize.get("pre_bpb"), ".4f"),
                _number(quantize.get("post_bpb"), ".4f"),
                _number(evaluate.get("bpb"), ".4f"),
                _number(gate.get("total_bytes"), ","),
                _number(gate.get("slack_bytes"), ","),
                {True: "passed", False: "FAILED"}.get(audit.get("passed", MISSING), MISSING),
            )
        )
    return found


def verdict(seeds: list[int], reports: Path = REPORTS) -> str:
    """The aggregate's sentence on just these seeds, or what to do to get one."""
    aggregate = _read(reports / "aggregate.json", "aggregate")
    found = aggregate.get("verdict") if aggregate.get("seeds") == seeds else None
    return str(found or "no verdict on these seeds yet. Try: dvc repro")


def markdown(table: list[tuple[str, ...]]) -> str:
    """The table in Markdown, numbers to the right."""
    lines = [COLUMNS, ("---:",) * (len(COLUMNS) - 1) + ("---",), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plain(table: list[tuple[str, ...]]) -> str:
    """The table in columns."""
    widths = [max(map(len, column)) for column in zip(COLUMNS, *table, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in (COLUMNS, *table)
    )


def show(table: list[tuple[str, ...]]) -> None:
    """Print the table: with rich in a terminal, in plain columns elsewhere."""
    if sys.stdout.isatty():
        try:
            from rich.console import Console
            from rich.table import Table
        except ImportError:
            pass
        else:
            pretty = Table(*COLUMNS)
            for column in pretty.columns:
                column.justify = "right"
            for row in table:
                pretty.add_row(*row, style="red" if "FAILED" in row else None)
            Console().print(pretty)
            return
    print(plain(table))


def _read(path: Path, target: str) -> dict[str, Any]:
    return read_report(path, target) if path.is_file() else {}


def _number(value: Any, form: str) -> str:
    return format(value, form) if isinstance(value, (int, float)) and not isinstance(value, bool) else MISSING


def end_with_the_reader() -> None:
    """Let a pipe that nobody reads any more (``| head``) end this process without a word, as it ends any command."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)


def main() -> None:
    """Print the table and the verdict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--markdown", action="store_true", help="for a README")
    arguments = parser.parse_args()
    end_with_the_reader()
    if not REPORTS.is_dir():
        raise MissingInput(f"{REPORTS}/: no such folder", hint="make run")
    seeds = load_seeds()
    table = rows(seeds)
    if arguments.markdown:
        print(markdown(table))
    else:
        show(table)
    print(f"\n{verdict(seeds)}")


if __name__ == "__main__":
    run_main("table", main)
