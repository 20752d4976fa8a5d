"""Score the artifact with the shipped program: in an empty directory, without network, within one clock.

Reads ``build/train_gpt.py``, ``runs/compress/SEED/model.golf``, the validation shards and the byte table, and nothing
else; the gate must have passed. Writes ``runs/evaluate/SEED`` (nll.npy, result.json) and
``reports/evaluate/SEED.json``, after the score was computed a second time here, from the file of log-probabilities.

    python -m stages.evaluate --seed 42
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from golf.params.base import check_every_section, load, to_dict
from golf.params.eval import Eval
from golf.params.hardware import Hardware
from golf.runtime.device import process_count
from golf.runtime.errors import DataError, FairwayError, MissingInput, run_main
from golf.runtime.files import read_json, whole_directory, write_json
from golf.runtime.report import Stopwatch, report_path, write_report, write_timing
from golf.runtime.sandbox import Outputs, run_program

PROGRAM = Path("build/train_gpt.py")
SHARDS = Path("data/shards")
TABLE = Path("data/tokenizer/bytes.safetensors")
ARGUMENTS = (
    "evaluate",
    "--artifact=model.golf",
    "--shards=shards",
    "--bytes=bytes.safetensors",
    "--params=params.json",
    "--out=out",
)
OUTPUTS = ("out/nll.npy", "out/result.json")
ANY_COUNT = 840  # divided by 1 to 8: windows are dealt out, whatever the number of ranks
SHARD_HEADER = 1024  # bytes before the tokens of a shard
TOLERANCE = 1e-9  # of a score, relative: the two sums run in another order
KEPT = ("tokens", "bytes", "chunks", "adapted_chunks")


def main() -> None:
    """Evaluate one seed."""
    parser = argparse.ArgumentParser(prog="python -m stages.evaluate", description="Score the artifact as it ships.")
    parser.add_argument("--seed", type=int, required=True, help="which of runs/compress to score")
    seed = parser.parse_args().seed
    check_every_section()
    config, hardware = load(Eval), load(Hardware)
    if not report_path("gate", seed).is_file():
        raise MissingInput(f"{report_path('gate', seed)}: the size gate has not passed", hint=f"dvc repro gate@{seed}")
    watch = Stopwatch()
    with whole_directory(Path("runs/evaluate") / str(seed)) as folder:
        with watch.part("program"):
            outputs = score(seed, config, hardware, folder)
        result = read_json(outputs["out/result.json"])
        with watch.part("recount"):
            check(result, outputs["out/nll.npy"])
    write_report(
        "evaluate",
        {
            "seed": seed,
            "bpb": result["final_bpb"],
            "sliding_bpb": result["sliding_bpb"],
            "roundtrip_bpb": result["roundtrip_bpb"],
            "ttt_gain_bpb": result["sliding_bpb"] - result["final_bpb"],
            "nats_per_token": result["nats_per_token"],
            **{key: result[key] for key in KEPT},
            **raw_score(result),
        },
        seed=seed,
    )
    inside = {key: result[key] for key in ("seconds", "clock_seconds", "device", "ranks", "attention")}
    write_timing("evaluate", watch, seed=seed, program=inside, network=outputs.network)


def score(seed: int, config: Eval, hardware: Hardware, folder: Path) -> Outputs:
    """Run the program's verb ``evaluate`` on the artifact of ``seed``; its outputs go to ``folder``."""
    processes, _ = process_count(hardware, divides=ANY_COUNT)
    shards = sorted(path for path in SHARDS.glob("*val_*.bin"))
    if not shards:
        raise MissingInput(f"{SHARDS}: no validation shard", hint="dvc repro tokenize")
    with tempfile.TemporaryDirectory() as temporary:
        params = Path(temporary) / "params.json"
        write_json(params, {"eval": to_dict(config), "hardware": to_dict(hardware)})
        return run_program(
            PROGRAM,
            ARGUMENTS,
            files={
                "model.golf": Path("runs/compress") / str(seed) / "model.golf",
                "bytes.safetensors": TABLE,
                "params.json": params,
                **{f"shards/{path.name}": path for path in shards},
            },
            out=OUTPUTS,
            destination=folder,
            processes=processes,
            threads=hardware.threads,
        )


def check(result: dict[str, Any], path: Path) -> None:
    """Compute the score again, from the log-probabilities, the shards and the byte table, in numpy alone.

    Raises:
        FairwayError: it differs from the program's.
        DataError: the program scored another number of targets, or one of them has no finite score.
    """
    nll = np.load(path, allow_pickle=False)
    counts = count_bytes()
    if nll.shape != counts.shape or nll.dtype != np.float64 or not np.isfinite(nll).all():
        raise DataError(f"{path}: {nll.dtype} {nll.shape}, needed a finite float64 score for {counts.size} targets")
    found = {
        "tokens": nll.size,
        "bytes": int(counts.sum()),
        "nats_per_token": math.fsum(nll) / nll.size,
        "final_bpb": math.fsum(nll) / math.log(2) / int(counts.sum()),
    }
    for key, value in found.items():
        if not math.isclose(value, result[key], rel_tol=TOLERANCE):
            raise FairwayError(f"evaluate: {key}: the program says {result[key]!r}, its scores sum to {value!r}")


def count_bytes() -> np.ndarray:
    """Bytes of every validation target (T-1,), straight from the shards and the table or the sidecar."""
    from safetensors.numpy import load_file

    sidecars = sorted(SHARDS.glob("*val_bytes_*.bin"))
    shards = sorted(path for path in SHARDS.glob("*val_*.bin") if path not in sidecars)
    if sidecars:
        return read(sidecars)[1:]
    tokens, table = read(shards), load_file(TABLE)
    space = table["leading_space"][tokens[1:]] & ~table["boundary"][tokens[:-1]]
    return table["base"].astype(np.int64)[tokens[1:]] + space


def raw_score(result: dict[str, Any]) -> dict[str, Any]:
    """The score over the bytes of the text as it came, where they are known and its normalised bytes are others."""
    index = SHARDS / "shards.json"
    raw = read_json(index)["splits"]["val"].get("raw_bytes") if index.is_file() else None
    if raw in (None, result["bytes"]):
        return {}
    return {"raw_bytes": raw, "raw_bpb": result["final_bpb"] * result["bytes"] / raw}


def read(paths: list[Path]) -> np.ndarray:
    """The uint16 of shards behind their headers, as int64."""
    parts = [np.fromfile(path, "<u2", offset=SHARD_HEADER) for path in paths]
    return np.concatenate(parts).astype(np.int64)


if __name__ == "__main__":
    run_main("evaluate", main)
