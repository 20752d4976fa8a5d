"""Build the self-contained program that ships, for the parameters that decide what code it needs.

Reads ``golf`` and the sections that the program is made for. Writes ``build/train_gpt.py``; ``build/check_gpt.py``, to
check the first from outside, which does not count; ``reports/bundle.json``: bytes and modules and nothing else, so
that an edit which keeps the size reruns nothing that only needs to know the size; ``reports/bundle.csv``: bytes by
module.

    python -m stages.bundle
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.bundle.build import CHECK, build
from golf.params.base import load, pick, to_dict
from golf.params.compress import Compress
from golf.params.eval import Eval
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.quant import Quant
from golf.params.select import Select
from golf.params.train import Train
from golf.runtime.errors import run_main
from golf.runtime.files import write_bytes
from golf.runtime.report import REPORTS, write_report

PROGRAM = Path("build/train_gpt.py")
CHECKER = Path("build/check_gpt.py")
SHOWN = 12  # modules on the terminal, the largest; all are in the table


def main() -> None:
    """Build the program."""
    parser = argparse.ArgumentParser(prog="python -m stages.bundle", description="Build the program that ships.")
    parser.parse_args()
    sections = (load(Model), load(Optim), load(Train), load(Select), load(Compress), load(Eval))
    quant = pick(Quant, "method", "steps", "fit", "calibration")  # what decides which code there is
    built = build(document={"quant": quant} | {section.SECTION: to_dict(section) for section in sections})
    program, modules = built.program, built.modules()
    largest = sorted(modules.items(), key=lambda item: (-item[1], item[0]))
    rows = ["module,bytes", *(f"{name},{size:.0f}" for name, size in largest)]
    write_bytes(PROGRAM, program)
    write_bytes(CHECKER, build(program=CHECK).program)
    write_bytes(REPORTS / "bundle.csv", ("\n".join(rows) + "\n").encode())
    write_report("bundle", {"code_bytes": len(program), "modules": len(modules)})
    print(f"bundle: {PROGRAM}, {len(program):,} bytes from {len(modules)} modules; the largest:")
    for name, size in largest[:SHOWN]:
        print(f"{size:8,.0f}  {name}")


if __name__ == "__main__":
    run_main("bundle", main)
