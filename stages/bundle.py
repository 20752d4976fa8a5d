"""Build the self-contained program that ships, out of the modules it imports.

Reads ``golf``; writes ``build/train_gpt.py`` and ``reports/bundle.json``: bytes and modules and nothing else, so that
an edit which keeps the size reruns nothing that only needs to know the size.

    python -m stages.bundle
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.bundle.build import build
from golf.runtime.errors import run_main
from golf.runtime.files import write_bytes
from golf.runtime.report import write_report

PROGRAM = Path("build/train_gpt.py")


def main() -> None:
    """Build the program."""
    parser = argparse.ArgumentParser(prog="python -m stages.bundle", description="Build the program that ships.")
    parser.parse_args()
    program, modules = build()
    write_bytes(PROGRAM, program)
    write_report("bundle", {"code_bytes": len(program), "modules": len(modules)})
    print(f"bundle: {PROGRAM}, {len(program):,} bytes from {len(modules)} modules")


if __name__ == "__main__":
    run_main("bundle", main)
