"""Score the artifact with the shipped program: in an empty directory, without network, within one clock.

Reads ``build/train_gpt.py``, ``runs/compress/SEED/model.golf``, the validation shards and the byte table, and nothing
else; the gate must have passed. Writes ``runs/evaluate/SEED`` (nll.npy, result.json, documents.parquet),
``reports/gain/SEED.csv`` and ``reports/evaluate/SEED.json``, after the scores were computed a second time here, from
the files of log-probabilities. docs/evaluation.md says what stands where.

    python -m stages.evaluate --seed 42
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from golf.data import documents
from golf.data.shards import load_index
from golf.params.base import check_every_section, load, read_seed, to_dict
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
GAIN = Path("reports/gain")
ARGUMENTS = (
    "evaluate",
    "--artifact=model.golf",
    "--shards=shards",
    "--bytes=bytes.safetensors",
    "--params=params.json",
    "--out=out",
)
OUTPUTS = ("out/result.json", "out/nll.npy", "out/sliding.npy", "out/roundtrip.npy")
ANY_COUNT = 840  # divided by 1 to 8: windows are dealt out, whatever the number of ranks
SHARD_HEADER = 1024  # bytes before the tokens of a shard
TOLERANCE = 1e-9  # of a score, relative: the two sums run in another order
KEPT = ("tokens", "bytes", "chunks", "adapted_chunks")


def main() -> None:
    """Evaluate one seed."""
    parser = argparse.ArgumentParser(prog="python -m stages.evaluate", description="Score the artifact as it ships.")
    parser.add_argument("--seed", type=read_seed, required=True, help="which of runs/compress to score")
    seed = parser.parse_args().seed
    check_every_section()
    config, hardware = load(Eval), load(Hardware)
    if not report_path("gate", seed).is_file():
        raise MissingInput(f"{report_path('gate', seed)}: the size gate has not passed", hint=f"dvc repro gate@{seed}")
    require_whole_split()
    watch = Stopwatch()
    with whole_directory(Path("runs/evaluate") / str(seed)) as folder:
        processes, _ = process_count(hardware, divides=ANY_COUNT)
        with watch.part("program"):
            outputs = score(seed, config, hardware, folder, processes)
        result = read_json(outputs["out/result.json"])
        ranks = [read_json(outputs[rank_output(rank)]) for rank in range(processes)]
        with watch.part("recount"):
            nll, counts = check(result, outputs), count_bytes()
        with watch.part("documents"):
            write_documents(seed, folder, nll, counts)
        for name in (*OUTPUTS[2:], *map(rank_output, range(processes))):  # what they say stands in smaller files now
            outputs[name].unlink()
    untilted = result.get("untilted_bpb", result["final_bpb"])
    write_report(
        "evaluate",
        {
            "seed": seed,
            "bpb": result["final_bpb"],
            "sliding_bpb": result["sliding_bpb"],
            "roundtrip_bpb": result["roundtrip_bpb"],
            "ttt_gain_bpb": result["plain_bpb"] - untilted,
            **({"tilt_gain_bpb": untilted - result["final_bpb"]} if config.tilt else {}),
            "nats_per_token": result["nats_per_token"],
            **{key: result[key] for key in KEPT},
            **raw_score(result),
        },
        seed=seed,
    )
    inside = {key: result[key] for key in ("seconds", "clock_seconds", "device", "ranks", "attention")}
    inside |= by_rank(ranks)
    write_timing("evaluate", watch, seed=seed, program=inside, network=outputs.network)


def require_whole_split() -> None:
    """Refuse validation shards that don't hold what was tokenized: a part of the split has no score.

    Raises:
        MissingInput, DataError: there are none; they hold more or fewer tokens than ``shards.json`` says.
    """
    shards, stated = val_shards(), load_index(SHARDS)["splits"]["val"]
    if not shards:
        raise MissingInput(f"{SHARDS}: no validation shard", hint="dvc repro tokenize")
    found = sum(path.stat().st_size - SHARD_HEADER for path in shards) // 2
    if found != stated.get("tokens", found):
        raise DataError(
            f"{SHARDS}: {found:,} validation tokens, needed the {stated['tokens']:,} of shards.json",
            hint="dvc repro --force tokenize",
        )


def score(seed: int, config: Eval, hardware: Hardware, folder: Path, processes: int) -> Outputs:
    """Run the program's verb ``evaluate`` on the artifact of ``seed``; its outputs go to ``folder``."""
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
                **{f"shards/{path.name}": path for path in sorted(SHARDS.glob("*val_*.bin"))},
            },
            out=(*OUTPUTS, *map(rank_output, range(processes))),
            destination=folder,
            processes=processes,
            threads=hardware.threads,
        )


def rank_output(rank: int) -> str:
    """Where the program leaves the seconds and the memory of a rank."""
    return f"out/rank{rank}.json"


def check(result: dict[str, Any], outputs: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Compute the scores again, from the log-probabilities, the shards and the byte table, in numpy alone.

    Returns:
        nats of each target (T-1,) by score: ``final``, ``sliding``, ``roundtrip``.

    Raises:
        FairwayError: a score differs from the program's.
        DataError: the program scored another number of targets, or one of them has no finite score.
    """
    counts, scores = count_bytes(), {}
    for name, file in zip(("final", "sliding", "roundtrip"), OUTPUTS[1:], strict=True):
        path = outputs[file]
        scores[name] = nll = np.load(path, allow_pickle=False)
        kind = np.float64 if name == "final" else np.float32
        if nll.shape != counts.shape or nll.dtype != kind or not np.isfinite(nll).all():
            raise DataError(
                f"{path}: {nll.dtype} {nll.shape}, needed a finite {kind.__name__} score for {counts.size} targets"
            )
        nats = math.fsum(nll)
        found = {f"{name}_bpb": nats / math.log(2) / int(counts.sum())}
        if name == "final":
            found |= {"tokens": nll.size, "bytes": int(counts.sum()), "nats_per_token": nats / nll.size}
        for key, value in found.items():
            if not math.isclose(value, result[key], rel_tol=TOLERANCE):
                raise FairwayError(f"evaluate: {key}: the program says {result[key]!r}, its scores sum to {value!r}")
    return scores


def write_documents(seed: int, folder: Path, nll: Mapping[str, np.ndarray], counts: np.ndarray) -> None:
    """Each document's scores as Parquet, and what adaptation gains by length and position as a plot."""
    starts = documents.edges(read(val_shards()), load_index(SHARDS)["bos_id"])
    documents.write_parquet(folder / "documents.parquet", documents.costs(starts, counts, nll))
    documents.write_csv(GAIN / f"{seed}.csv", documents.gains(starts, counts, nll))


def by_rank(ranks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Seconds by part, busy seconds, idle share of the scoring and peak memory, rank by rank."""
    rows = []
    for number, rank in enumerate(ranks):
        scoring = sum(rank["seconds"][name] for name in rank["waited"])
        waited = sum(rank["waited"].values())
        rows.append({
            "rank": number,
            "seconds": {name: round(value, 3) for name, value in rank["seconds"].items()},
            "busy_seconds": round(scoring - waited, 3),
            "idle_share": round(waited / scoring, 4) if scoring else 0.0,
            "peak_memory_bytes": rank["peak_memory_bytes"],
        })  # fmt: skip
    return {"by_rank": rows, "idle_share": max(row["idle_share"] for row in rows)}


def count_bytes() -> np.ndarray:
    """Bytes of every validation target (T-1,), straight from the shards and the table or the sidecar."""
    from safetensors.numpy import load_file

    sidecars = sorted(SHARDS.glob("*val_bytes_*.bin"))
    if sidecars:
        return read(sidecars)[1:]
    tokens, table = read(val_shards()), load_file(TABLE)
    space = table["leading_space"][tokens[1:]] & ~table["boundary"][tokens[:-1]]
    return table["base"].astype(np.int64)[tokens[1:]] + space


def val_shards() -> list[Path]:
    """The validation shards, without their sidecars."""
    return sorted(path for path in SHARDS.glob("*val_*.bin") if "_bytes_" not in path.name)


def raw_score(result: dict[str, Any]) -> dict[str, Any]:
    """The score over the bytes of the text as it came, where they are known and its normalised bytes are others."""
    raw = load_index(SHARDS)["splits"]["val"].get("raw_bytes")
    if raw in (None, result["bytes"]):
        return {}
    return {"raw_bytes": raw, "raw_bpb": result["final_bpb"] * result["bytes"] / raw}


def read(paths: list[Path]) -> np.ndarray:
    """The uint16 of shards behind their headers, as int64."""
    parts = [np.fromfile(path, "<u2", offset=SHARD_HEADER) for path in paths]
    return np.concatenate(parts).astype(np.int64)


if __name__ == "__main__":
    run_main("evaluate", main)
