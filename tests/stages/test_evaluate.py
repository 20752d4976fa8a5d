import csv
import json
import math
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pyarrow import parquet

from golf.data.bytecount import ByteTable
from golf.data.shards import read_split, write_shard
from tests.stages.world import SEED, report, stage, start, write


def test_the_score_is_the_programs_and_stands_a_recount(world: Path) -> None:
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == 0, result.stderr
    numbers = report(world, "evaluate")
    nll = np.load(world / f"runs/evaluate/{SEED}/nll.npy")
    tokens = read_split(world / "data/shards", "val").astype(np.int64)
    counts = ByteTable.load(world / "data/tokenizer/bytes.safetensors").count(torch.from_numpy(tokens))
    assert nll.shape == (tokens.size - 1,)
    assert numbers["tokens"] == nll.size
    assert numbers["bytes"] == int(counts.sum())
    assert numbers["bpb"] == pytest.approx(nll.sum() / math.log(2) / int(counts.sum()), rel=1e-12)
    assert numbers["ttt_gain_bpb"] == numbers["sliding_bpb"] - numbers["bpb"]
    assert numbers["adapted_chunks"] == numbers["chunks"] - 1
    assert len(numbers) <= 12
    timing = report(world, "timing/evaluate")
    parts = timing["program"]["seconds"]
    assert list(parts) == ["import", "read", "decode", "final", "sliding", "roundtrip"]
    assert parts["import"] > 0.1, "torch"
    assert timing["program"]["clock_seconds"] > sum(parts.values()) - 0.01
    assert timing["network"]
    assert_reports_of_documents(world, numbers)
    again = stage("evaluate", world, f"--seed={SEED}")
    assert again.returncode == 0
    assert report(world, "evaluate") == numbers
    assert (np.load(world / f"runs/evaluate/{SEED}/nll.npy") == nll).all()


def assert_reports_of_documents(world: Path, numbers: dict[str, Any]) -> None:
    """Every score is the sum of its documents; one rank has nobody to wait for."""
    run = world / f"runs/evaluate/{SEED}"
    assert sorted(path.name for path in run.iterdir()) == ["documents.parquet", "nll.npy", "result.json"]
    columns = parquet.read_table(run / "documents.parquet").to_pydict()
    assert sum(columns["tokens"]) == numbers["tokens"]
    assert sum(columns["bytes"]) == numbers["bytes"]
    for name, score in (("final", "bpb"), ("sliding", "sliding_bpb"), ("roundtrip", "roundtrip_bpb")):
        bpb = math.fsum(columns[f"{name}_nats"]) / math.log(2) / numbers["bytes"]
        assert bpb == pytest.approx(numbers[score], rel=1e-12)
    rows = list(csv.DictReader((world / f"reports/gain/{SEED}.csv").open()))
    for by in ("length", "position"):
        gain = sum(float(row["gain_bpb"]) * int(row["bytes"]) for row in rows if row["by"] == by) / numbers["bytes"]
        assert gain == pytest.approx(numbers["roundtrip_bpb"] - numbers["bpb"], abs=1e-6)
    program = report(world, "timing/evaluate")["program"]
    (rank,) = program["by_rank"]
    assert rank["idle_share"] == program["idle_share"] == 0
    assert {"read", "decode", "final", "sliding", "roundtrip"} <= set(rank["seconds"])
    assert rank["peak_memory_bytes"] > 50_000_000
    assert 0 < rank["busy_seconds"] < program["clock_seconds"]


def test_the_clock_starts_before_anything_heavy_is_imported(world: Path) -> None:
    """A tenth of a second, in which nobody can import torch: nothing is learnt, and all is scored."""
    text = (world / "params.yaml").read_text()
    (world / "params.yaml").write_text(text.replace("budget_seconds: 600.0", "budget_seconds: 0.1"))
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == 0, result.stderr
    numbers = report(world, "evaluate")
    assert (numbers["adapted_chunks"], numbers["ttt_gain_bpb"], numbers["tokens"]) == (0, 0.0, 1999)


def test_a_sidecar_counts_the_bytes(world: Path) -> None:
    for number in (0, 1):
        size = np.fromfile(world / f"data/shards/val_{number:06d}.bin", "<u2", offset=1024).size
        write_shard(world / f"data/shards/val_bytes_{number:06d}.bin", np.full(size, 2, np.uint16))
    index = json.loads((world / "data/shards/shards.json").read_text())
    index["splits"]["val"]["raw_bytes"] = 5000
    write(world / "data/shards/shards.json", index)
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == 0, result.stderr
    numbers = report(world, "evaluate")
    assert numbers["bytes"] == 2 * numbers["tokens"]
    assert (numbers["raw_bytes"], numbers["raw_bpb"]) == (5000, numbers["bpb"] * numbers["bytes"] / 5000)
    assert len(numbers) <= 12


def test_shards_of_another_transform_than_the_parameters_say_are_refused(world: Path) -> None:
    write(world / "data/shards/shards.json", {"transform": "caseops", "splits": {"val": {}}})
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == 78
    assert "tokenizer.transform: found 'none', but data/shards/shards.json was made with 'caseops'" in result.stderr


def test_without_a_passed_gate_nothing_is_scored(world: Path) -> None:
    (world / f"reports/gate/{SEED}.json").unlink()
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == 66
    assert "the size gate has not passed" in result.stderr


def test_a_damaged_artifact_is_named_by_the_program(world: Path) -> None:
    path = world / f"runs/compress/{SEED}/model.golf"
    blob = bytearray(path.read_bytes())
    blob[-5] ^= 8
    path.write_bytes(blob)
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == 65
    assert "train_gpt.py evaluate: artifact stream" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (world / f"runs/evaluate/{SEED}").exists()
    assert not (world / f"reports/evaluate/{SEED}.json").exists()


def test_a_part_of_the_split_has_no_score(world: Path) -> None:
    path = world / "data/shards/val_000001.bin"
    blob = path.read_bytes()
    for left in (None, blob[:-200]):
        path.unlink() if left is None else path.write_bytes(left)
        result = stage("evaluate", world, f"--seed={SEED}")
        assert result.returncode == 65
        found = 1200 if left is None else 1900
        assert f"data/shards: {found:,} validation tokens, needed the 2,000 of shards.json" in result.stderr
    (world / "data/shards/val_000000.bin").unlink()
    path.unlink()
    result = stage("evaluate", world, f"--seed={SEED}")
    assert (result.returncode, "no validation shard" in result.stderr) == (66, True)
    assert not (world / f"reports/evaluate/{SEED}.json").exists()


def test_shards_of_another_tokenizer_are_refused(world: Path) -> None:
    write_shard(world / "data/shards/val_000001.bin", np.full(800, 9000, np.uint16))
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == 65
    assert "another tokenizer" in result.stderr


FORGED = """
import json, pathlib, sys
import numpy as np
out = pathlib.Path("out")
nll = np.full({count}, 2.0)
np.save(out / "nll.npy", nll)
for name in ("sliding", "roundtrip"):
    np.save(out / (name + ".npy"), nll.astype(np.float32))
(out / "rank0.json").write_text(json.dumps(dict(seconds={{}}, waited={{}}, peak_memory_bytes=1)))
result = dict(final_bpb={bpb}, sliding_bpb=1.0, roundtrip_bpb=1.0, nats_per_token=2.0, tokens=nll.size, bytes={bytes},
    chunks=1, adapted_chunks=0, seconds={{}}, clock_seconds=0.0, device="cpu", ranks=1, attention="sdpa")
(out / "result.json").write_text(json.dumps(result))
"""


@pytest.mark.parametrize(
    ("count", "bpb", "code", "text"),
    [
        (1999, 0.5, 1, "final_bpb: the program says 0.5, its scores sum to"),
        (1998, 0.5, 65, "needed a finite float64 score for 1999 targets"),
    ],
)
def test_a_score_that_does_not_follow_from_its_scores_is_refused(
    world: Path, count: int, bpb: float, code: int, text: str
) -> None:
    tokens = read_split(world / "data/shards", "val").astype(np.int64)
    total = int(ByteTable.load(world / "data/tokenizer/bytes.safetensors").count(torch.from_numpy(tokens)).sum())
    (world / "build/train_gpt.py").write_text(FORGED.format(count=count, bpb=bpb, bytes=total))
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == code
    assert text in result.stderr
    assert not (world / f"runs/evaluate/{SEED}").exists()


@pytest.mark.parametrize(
    ("end", "code", "text"),
    [
        ("raise ValueError('half-way')", 1, "ValueError: half-way"),
        ("import os; os.kill(os.getpid(), 9)", 75, "train_gpt.py evaluate: killed by SIGKILL"),
    ],
)
def test_scores_of_a_program_that_did_not_end_well_are_no_score(world: Path, end: str, code: int, text: str) -> None:
    (world / "build/train_gpt.py").write_text(FORGED.format(count=1999, bpb=0.5, bytes=9) + end + "\n")
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == code
    assert text in result.stderr
    assert not list((world / "runs").glob("evaluate/*"))
    assert not (world / f"reports/evaluate/{SEED}.json").exists()


def test_sigterm_ends_the_program_too(world: Path) -> None:
    mark = world / "pid"
    (world / "build/train_gpt.py").write_text(
        f"import os, pathlib, time\npathlib.Path({str(mark)!r}).write_text(str(os.getpid()))\ntime.sleep(60)\n"
    )
    process = start("evaluate", world, f"--seed={SEED}")
    for _ in range(300):
        if mark.exists() and mark.read_text():
            break
        time.sleep(0.1)
    child = int(mark.read_text())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
    assert not (world / f"runs/evaluate/{SEED}").exists()


@pytest.mark.slow
def test_two_ranks_score_as_one(world: Path) -> None:
    assert stage("evaluate", world, f"--seed={SEED}").returncode == 0
    alone = report(world, "evaluate")
    text = (world / "params.yaml").read_text()
    (world / "params.yaml").write_text(text.replace("processes: 0", "processes: 2"))
    result = stage("evaluate", world, f"--seed={SEED}")
    assert result.returncode == 0, result.stderr
    assert report(world, "evaluate")["bpb"] == pytest.approx(alone["bpb"], abs=1e-6)
    program = report(world, "timing/evaluate")["program"]
    assert program["ranks"] == 2
    assert [rank["rank"] for rank in program["by_rank"]] == [0, 1]
    assert all(0 < rank["idle_share"] < 1 for rank in program["by_rank"])
    assert program["idle_share"] == max(rank["idle_share"] for rank in program["by_rank"])
