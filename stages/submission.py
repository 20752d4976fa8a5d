"""The records folder: program, artifacts, papers and logs, run once from itself alone.

Reads the reports, curves and timings of the seeds, ``runs/compress``, ``runs/evaluate``, ``data/tokenizer``,
``data/shards`` (its validation split) and ``build/train_gpt.py``; writes ``build/submission``.
The reported scores must follow from the evaluation's logs of every target, and the folder's own program must give the
scores that the evaluation gave, or there is no folder.

    python -m stages.submission
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from golf.data import static
from golf.params.audit import Audit
from golf.params.base import load, load_seeds
from golf.params.budget import Budget
from golf.params.compress import Compress
from golf.params.data import Data
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.params.model import Model
from golf.params.optim import Optim
from golf.params.quant import Quant
from golf.params.select import Select
from golf.params.stats import Stats
from golf.params.tokenizer import Tokenizer
from golf.params.train import Train
from golf.records.folder import all_params, check_folder, git_author, write_folder
from golf.records.record import Record
from golf.records.reports import seed_reports, seed_timing, whole_report
from golf.records.results import read_results
from golf.runtime.errors import DataError, MissingInput, run_main
from golf.runtime.files import whole_directory

FOLDER = Path("build/submission")
SHARDS, TOKENIZER = Path("data/shards"), Path("data/tokenizer")
TIMED = ("train", "select", "quantize", "evaluate")


def main() -> None:
    """Write the folder and check it."""
    argparse.ArgumentParser(prog="python -m stages.submission", description="Write the records folder.").parse_args()
    seeds, budget = load_seeds(), load(Budget)
    record = Record(
        results=read_results(seeds, budget.artifact_bytes),
        aggregate=whole_report("aggregate", seeds),
        reports={stage: seed_reports(stage, seeds) for stage in ("train", "quantize", "evaluate")},
        timings={stage: {seed: seed_timing(stage, seed) for seed in seeds} for stage in TIMED},
        params=all_params(
            seeds=seeds,
            budget=budget,
            data=load(Data),
            tokenizer=load(Tokenizer),
            model=load(Model),
            optim=load(Optim),
            train=load(Train),
            select=load(Select),
            quant=load(Quant),
            compress=load(Compress),
            eval=load(Eval),
            audit=load(Audit),
            stats=load(Stats),
        ),
        author=git_author(),
    )
    scores = {seed: Path("runs/evaluate") / str(seed) / "nll.npy" for seed in seeds}
    check_scores(record.reports["evaluate"], scores)
    with whole_directory(FOLDER) as folder:
        write_folder(
            folder,
            record,
            program=Path("build/train_gpt.py"),
            artifacts={seed: Path("runs/compress") / str(seed) / "model.golf" for seed in seeds},
            tokenizer=TOKENIZER,
            curves=Path("reports/curves"),
        )
        found = check_folder(
            folder,
            seeds,
            shards=SHARDS,
            scores=scores,
            hardware=load(Hardware),
        )
    print(f"submission: {FOLDER} runs from itself alone; scores differ by {max(found.values()):.1g} nats at most")
    for text in record.obstacles():
        print(f"submission: not for the record track: {text}")


def check_scores(reports: Mapping[int, Mapping[str, Any]], scores: Mapping[int, Path]) -> None:
    """Hold the reported scores against the logs of every target, in numpy alone.

    Raises:
        MissingInput: there is no log of a seed.
        DataError: a score does not follow from its log.
    """
    files = static.Files.read_scored(SHARDS, TOKENIZER)
    for seed, path in scores.items():
        if not path.is_file():
            raise MissingInput(f"{path}: no such file", hint=f"dvc repro evaluate@{seed}")
        passed, evidence = static.score(files, np.load(path, mmap_mode="r"), reports[seed])
        if not passed:
            raise DataError(f"{path}: score: {evidence}", hint=f"dvc repro -f -s evaluate@{seed}")


if __name__ == "__main__":
    run_main("submission", main)
