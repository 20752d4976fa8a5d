"""Hold code and model against the cap: over it, the graph stops here, before anything is scored.

Reads ``build/train_gpt.py`` and ``runs/compress/SEED/model.golf``; writes ``reports/gate/SEED.json``, or leaves with
exit code 65, the bytes over and what would help.

    python -m stages.gate --seed 42
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.codec.budget import check_budget
from golf.codec.container import read_metadata
from golf.params.base import load, read_seed
from golf.params.budget import Budget
from golf.runtime.errors import MissingInput, run_main
from golf.runtime.report import report_path, write_report

PROGRAM = Path("build/train_gpt.py")


def main() -> None:
    """Check one seed."""
    parser = argparse.ArgumentParser(prog="python -m stages.gate", description="Check the artifact against the cap.")
    parser.add_argument("--seed", type=read_seed, required=True, help="which of runs/compress to check")
    seed = parser.parse_args().seed
    config = load(Budget)
    artifact = Path("runs/compress") / str(seed) / "model.golf"
    for path, stage in ((PROGRAM, "bundle"), (artifact, f"compress@{seed}")):
        if not path.is_file():
            raise MissingInput(f"{path}: no such file", hint=f"dvc repro {stage}")
    report_path("gate", seed).unlink(missing_ok=True)  # an older verdict must not outlive a failure
    blob = artifact.read_bytes()
    code_bytes = PROGRAM.stat().st_size
    sizes = check_budget(code_bytes, len(blob), config.artifact_bytes, seed, read_metadata(blob))
    write_report("gate", sizes, seed=seed)
    print(f"gate: {sizes['total_bytes']:,} bytes of {config.artifact_bytes:,}: {sizes['slack_bytes']:,} to spare")


if __name__ == "__main__":
    run_main("gate", main)
