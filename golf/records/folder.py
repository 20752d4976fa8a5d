"""Writing the records folder, and proving it by running its program from nothing else."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from golf.data.cores import available_cores
from golf.data.shards import read_sidecar, read_split, write_shard
from golf.params.base import to_dict
from golf.params.hardware import Hardware
from golf.records.papers import readme, training_log
from golf.records.record import Record, submission
from golf.runtime.errors import DataError, MissingInput
from golf.runtime.files import write_bytes, write_json
from golf.runtime.sandbox import run_program, terminable

PROGRAM = "train_gpt.py"
CHECKER = "check_gpt.py"
REQUIRED = ("torch", "numpy", "safetensors", "sentencepiece", "brotli", "zstandard")
CHECK_TOKENS = 4096  # validation targets that the check scores again
TOLERANCE = 0.05  # nats: one target's score on another kernel or device; other weights differ by whole nats
MEAN_TOLERANCE = 1e-3  # nats: the mean of all of them


def write_folder(
    folder: Path, record: Record, *, program: Path, artifacts: Mapping[int, Path], tokenizer: Path, curves: Path
) -> None:
    """Fill ``folder`` with program, artifacts, tokenizer, parameters and papers.

    Args:
        folder: an existing, empty folder.
        record: the run.
        program: the bundle; the program that checks it stands beside it.
        artifacts: of each seed.
        tokenizer: folder with tokenizer.model and bytes.safetensors.
        curves: folder with SEED.csv.

    Raises:
        MissingInput: one of the files does not exist.
        DataError: a file is not of the size that the gate measured.
    """
    copies = {PROGRAM: program, CHECKER: program.with_name(CHECKER), "tokenizer.model": tokenizer / "tokenizer.model",
              "bytes.safetensors": tokenizer / "bytes.safetensors"}  # fmt: skip
    copies |= {artifact_name(seed): path for seed, path in artifacts.items()}
    for name, source in copies.items():
        if not source.is_file():
            raise MissingInput(f"{source}: no such file, needed in the records folder as {name}", hint="dvc repro")
        shutil.copyfile(source, folder / name)
    code = (folder / PROGRAM).stat().st_size
    for seed in record.seeds:
        total = code + (folder / artifact_name(seed)).stat().st_size
        if total != record.results.total_bytes[seed] or code != record.results.code_bytes:
            raise DataError(
                f"seed {seed}: found {total:,} bytes of program and artifact, the gate measured "
                f"{record.results.total_bytes[seed]:,}", hint=f"dvc repro gate@{seed}",
            )  # fmt: skip
        log = training_log(record, seed, curves / f"{seed}.csv")
        write_bytes(folder / f"train_seed{seed}.log", log.encode())
    write_json(folder / "params.json", dict(record.params))
    write_json(folder / "submission.json", submission(record))
    write_bytes(folder / "README.md", readme(record).encode())
    write_bytes(folder / "requirements.txt", requirements().encode())


def check_folder(
    folder: Path, seeds: Sequence[int], *, shards: Path, scores: Mapping[int, Path], hardware: Hardware
) -> dict[int, float]:
    """Score the beginning of the validation split again with nothing but the folder, seed by seed.

    Args:
        folder: the records folder.
        seeds: whose artifacts to run.
        shards: folder with the validation shards, of which the first ``CHECK_TOKENS`` targets are scored.
        scores: the evaluation's nll.npy of each seed, (T-1,) nats.
        hardware: the machine; one process without ``torch.compile`` is enough here.

    Returns:
        the largest difference of one target's score, in nats, by seed.

    Raises:
        MissingInput: there are no scores of a seed.
        DataError: the folder's program gives other scores than the evaluation did.
        FairwayError: the program failed.
    """
    for seed in seeds:
        if not scores[seed].is_file():
            raise MissingInput(f"{scores[seed]}: no such file", hint=f"dvc repro evaluate@{seed}")
    params = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    one = replace(hardware, processes=1, compile="off")
    differences = {}
    with tempfile.TemporaryDirectory(prefix="fairway-") as temporary:
        top = Path(temporary)
        _prefix(shards, top / "shards")
        write_json(top / "params.json", params | {"hardware": to_dict(one)})
        files = {file.name: file for file in sorted(folder.iterdir()) if file.name != PROGRAM}
        files |= {"shards": top / "shards", "check.json": top / "params.json"}

        def run(seed: int) -> np.ndarray:
            (top / str(seed)).mkdir()
            found = run_program(
                folder / PROGRAM,
                ["evaluate", "--artifact", artifact_name(seed), "--shards", "shards", "--bytes", "bytes.safetensors",
                 "--params", "check.json", "--out", "out"],
                files=files, out=["out/nll.npy"], destination=top / str(seed), threads=one.threads,
            )  # fmt: skip
            return np.load(found["out/nll.npy"], allow_pickle=False)

        at_once = max(1, available_cores() // one.threads) if one.threads else 1
        with terminable(), ThreadPoolExecutor(min(at_once, len(seeds))) as pool:  # starting them is most of the time
            for seed, scores_here in zip(seeds, pool.map(run, seeds), strict=True):
                expected = np.load(scores[seed], allow_pickle=False)
                differences[seed] = compare_scores(scores_here, expected, seed)
    return differences


def compare_scores(found: np.ndarray, expected: np.ndarray, seed: int) -> float:
    """Largest difference between ``found`` (P,) and the first P of ``expected`` (T-1,), in nats.

    Raises:
        DataError: it is beyond the tolerance, or so is the difference of the means.
    """
    where = f"records folder, seed {seed}"
    if found.ndim != 1 or found.size == 0 or found.size > expected.size:
        raise DataError(f"{where}: found {found.shape} scores, needed the first of {expected.shape}")
    gap = np.abs(found - expected[: found.size])
    worst, mean = float(gap.max()), float(abs((found - expected[: found.size]).mean()))
    if not (worst <= TOLERANCE and mean <= MEAN_TOLERANCE):
        raise DataError(
            f"{where}: {PROGRAM} scores target {int(gap.argmax()) + 1} as {found[gap.argmax()]:.4f} nats, the "
            f"evaluation {expected[gap.argmax()]:.4f}; needed {TOLERANCE} or less apart, {MEAN_TOLERANCE} in the mean",
            hint=f"dvc repro -f -s evaluate@{seed}",
        )
    return worst


def artifact_name(seed: int) -> str:
    """Name of a seed's artifact in the folder."""
    return f"model_seed{seed}.golf"


def requirements() -> str:
    """requirements.txt: the packages that the program imports, at the versions installed here."""
    found = []
    for name in REQUIRED:
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(f"{name}=={version.split('+')[0]}")
    return "\n".join(found) + "\n"


def git_author() -> str:
    """The name that Git would sign with; empty where there is none."""
    try:
        done = subprocess.run(["git", "config", "user.name"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def all_params(**sections: Any) -> dict[str, Any]:
    """params.json: the given sections, and ``hardware`` as it is by default, since it is the reader's machine."""
    seeds = sections.pop("seeds")
    return {"seeds": list(seeds)} | {name: to_dict(value) for name, value in sections.items()} | {
        "hardware": to_dict(Hardware())
    }  # fmt: skip


def _prefix(shards: Path, destination: Path) -> None:
    """The first validation tokens, and their byte counts where a sidecar holds them."""
    destination.mkdir()
    tokens = np.array(read_split(shards, "val")[: CHECK_TOKENS + 1])
    write_shard(destination / "val_000000.bin", tokens)
    sidecar = read_sidecar(shards)
    if sidecar is not None:
        write_shard(destination / "val_bytes_000000.bin", np.array(sidecar[: tokens.size]))
