from pathlib import Path

import numpy as np
import pytest
import torch

from golf.data.bytecount import ByteTable
from golf.data.shards import write_shard
from golf.data.static import CHECKS as STATIC
from golf.scoring.audit import CHECKS
from tests.stages.world import SEED, report, stage


def test_the_shipped_program_passes_its_audit(world: Path) -> None:
    result = stage("audit", world, f"--seed={SEED}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.endswith("\naudit: all 14 checks passed\n")
    found = report(world, "audit")
    assert found == {"seed": SEED, "passed": True, "checks": 14, **dict.fromkeys([*CHECKS, *STATIC], "passed")}
    timing = report(world, "timing/audit")
    assert set(timing["evidence"]) == {*CHECKS, *STATIC}
    assert "recounted the same" in timing["evidence"]["bytes"]
    assert timing["sample"]["documents"] >= 2
    assert timing["sample"]["chunk_tokens"] == 100


def test_a_failed_check_is_reported_and_ends_the_stage(world: Path) -> None:
    right = ByteTable.load(world / "data/tokenizer/bytes.safetensors")
    wrong = ByteTable(right.base + right.leading_space.to(torch.int16), right.leading_space, right.boundary)
    wrong.save(world / "data/tokenizer/bytes.safetensors")
    result = stage("audit", world, f"--seed={SEED}")
    assert result.returncode == 65
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith(f"audit: 2 of 14 checks failed (seed {SEED}): bytes: ")
    assert "byte-table: base of token " in line
    assert "docs/rules.md" in line
    assert "Traceback" not in result.stderr
    assert report(world, "audit")["passed"] is False
    assert report(world, "audit")["bytes"] == "failed"
    assert report(world, "audit")["byte-table"] == "failed"


@pytest.mark.parametrize(
    ("missing", "text"),
    [
        (f"reports/gate/{SEED}.json", "the size gate has not passed"),
        (f"runs/compress/{SEED}/model.golf", "no such file or folder"),
        ("data/tokenizer/tokenizer.model", "no such file or folder"),
        ("build/train_gpt.py", "no such file or folder"),
        ("data/raw/manifest.json", "no such file"),
    ],
)
def test_what_is_missing_is_named(world: Path, missing: str, text: str) -> None:
    (world / missing).unlink()
    result = stage("audit", world, f"--seed={SEED}")
    assert result.returncode == 66
    assert text in result.stderr
    assert "Traceback" not in result.stderr
    assert not (world / f"reports/audit/{SEED}.json").exists()


def test_no_validation_shards(world: Path) -> None:
    for path in (world / "data/shards").glob("val_*.bin"):
        path.unlink()
    result = stage("audit", world, f"--seed={SEED}")
    assert result.returncode == 66
    assert "no validation shard" in result.stderr


def test_what_the_program_refuses_is_one_line(world: Path) -> None:
    write_shard(world / "data/shards/val_000000.bin", np.array([1, *[9000] * 1199], np.uint16))
    result = stage("audit", world, f"--seed={SEED}")
    assert result.returncode == 65
    assert "check_gpt.py audit: byte table: found token 9000, needed 0 to 299" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (world / f"reports/audit/{SEED}.json").exists()


def test_two_tokens_are_no_sample(world: Path) -> None:
    (world / "data/shards/val_000001.bin").unlink()
    write_shard(world / "data/shards/val_000000.bin", np.array([1, 5], np.uint16))
    result = stage("audit", world, f"--seed={SEED}")
    assert result.returncode == 65
    assert "needed 3 tokens" in result.stderr
    assert not (world / f"reports/audit/{SEED}.json").exists()
