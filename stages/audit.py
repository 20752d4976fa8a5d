"""Prove the evaluation legal: the shipped program's scorers on a sample of validation text, and what the files show.

Reads ``build/train_gpt.py``, ``build/check_gpt.py``, which audits it, ``runs/compress/SEED/model.golf``, the shards,
the tokenizer and, for the static part (:mod:`golf.data.static`), the manifest of ``data/raw``; the gate must have
passed. Writes ``reports/audit/SEED.json``: each check with its outcome; the evidence goes to the timing report. A
failed check ends the stage with exit code 65. docs/rules.md says what each check holds.

    python -m stages.audit --seed 42
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from golf.data import static
from golf.data.raw import read_manifest
from golf.params.audit import Audit
from golf.params.base import load, read_seed, to_dict
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.runtime.errors import DataError, MissingInput, run_main
from golf.runtime.files import read_json, write_json
from golf.runtime.report import Stopwatch, report_path, write_report, write_timing
from golf.runtime.sandbox import run_program

PROGRAM = Path("build/train_gpt.py")
CHECKER = Path("build/check_gpt.py")
RAW = Path("data/raw")
SHARDS = Path("data/shards")
TOKENIZER = Path("data/tokenizer")
ARGUMENTS = (
    "audit",
    f"--program={PROGRAM.name}",
    "--artifact=model.golf",
    "--shards=shards",
    "--bytes=bytes.safetensors",
    "--tokenizer=tokenizer.model",
    "--params=params.json",
    "--out=out",
)
OUTPUT = "out/audit.json"


def main() -> None:
    """Audit one seed."""
    parser = argparse.ArgumentParser(prog="python -m stages.audit", description="Prove the evaluation legal.")
    parser.add_argument("--seed", type=read_seed, required=True, help="which of runs/compress to audit")
    seed = parser.parse_args().seed
    settings, config, hardware = load(Audit), load(Eval), load(Hardware)
    if not report_path("gate", seed).is_file():
        raise MissingInput(f"{report_path('gate', seed)}: the size gate has not passed", hint=f"dvc repro gate@{seed}")
    manifest = read_manifest(RAW)
    watch = Stopwatch()
    with watch.part("program"):
        result, network = run(seed, settings, config, hardware)
    checks = {name: (check["passed"], check["evidence"]) for name, check in result["checks"].items()}
    with watch.part("files"):
        checks |= static.check_files(static.Files.read(SHARDS, TOKENIZER, manifest))
    outcomes = {name: "passed" if passed else "failed" for name, (passed, _) in checks.items()}
    failed = [name for name, outcome in outcomes.items() if outcome == "failed"]
    write_report("audit", {"passed": not failed, "checks": len(checks), **outcomes}, seed=seed)
    evidence = {name: line for name, (_, line) in checks.items()}
    write_timing("audit", watch, seed=seed, network=network, sample=result["sample"], evidence=evidence)
    if failed:
        found = "; ".join(f"{name}: {evidence[name]}" for name in failed)
        raise DataError(
            f"{len(failed)} of {len(checks)} checks failed (seed {seed}): {found}",
            hint="read docs/rules.md on " + ", ".join(failed),
        )
    print(f"audit: all {len(checks)} checks passed")


def run(seed: int, settings: Audit, config: Eval, hardware: Hardware) -> tuple[dict[str, Any], str]:
    """Run the checker's verb ``audit`` in an empty directory: its result, and what network it could reach."""
    shards = sorted(SHARDS.glob("*val_*.bin"))
    if not shards:
        raise MissingInput(f"{SHARDS}: no validation shard", hint="dvc repro tokenize")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        params = folder / "params.json"
        write_json(params, {section.SECTION: to_dict(section) for section in (settings, config, hardware)})
        outputs = run_program(
            CHECKER,
            ARGUMENTS,
            files={
                PROGRAM.name: PROGRAM,
                "model.golf": Path("runs/compress") / str(seed) / "model.golf",
                "bytes.safetensors": TOKENIZER / "bytes.safetensors",
                "tokenizer.model": TOKENIZER / "tokenizer.model",
                "params.json": params,
                **{f"shards/{path.name}": path for path in shards},
            },
            out=(OUTPUT,),
            destination=folder,
            threads=hardware.threads,
        )
        return read_json(outputs[OUTPUT]), outputs.network


if __name__ == "__main__":
    run_main("audit", main)
