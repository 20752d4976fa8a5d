import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.research import main
from golf.data.bytecount import ByteTable
from golf.data.shards import write_shard
from golf.runtime.errors import ConfigError, FairwayError
from golf.runtime.files import write_json


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    folder = tmp_path / "shards"
    folder.mkdir()
    for split, count in (("train", 2000), ("val", 300)):
        write_shard(folder / f"{split}_000000.bin", np.arange(count) % 7 + 2)
    write_shard(folder / "val_bytes_000000.bin", np.full(300, 2))
    none = torch.zeros(23, dtype=torch.bool)
    ByteTable(torch.ones(23, dtype=torch.int16), none, none.clone()).save(tmp_path / "tokenizer/bytes.safetensors")
    write_json(folder / "shards.json", {"vocab_size": 23, "bos_id": 1, "splits": {}})
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["research", *map(str, arguments)])
    main()


def test_one_command_trains_compares_and_writes(
    shards: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = shards / "result.json"
    run(monkeypatch, "--shards", shards, "--ideas", "jepa,baseline", "--steps", 2, "--seeds", "1,2", "--out", out)
    table = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert table[-3:] == ["idea", "baseline", "jepa"], "the baseline first, whatever the order asked for"
    result = json.loads(out.read_text())
    baseline, jepa = result["ideas"]
    assert (result["steps"], result["seeds"], result["size"]["length"]) == (2, [1, 2], 128)
    assert "gap_bpb" not in baseline
    gaps = [ours - theirs for ours, theirs in zip(jepa["val_bpb_by_seed"], baseline["val_bpb_by_seed"], strict=True)]
    assert jepa["gap_bpb"] == pytest.approx(sum(gaps) / 2, abs=2e-4)
    assert jepa["artifact_bytes"] == baseline["artifact_bytes"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ideas", "baseline,nothing"], "idea: found 'nothing', needed one of"),
        (["--device", "cuda"], "--device: found cuda, but torch .* sees no GPU. Try: python -m"),
    ],
)
def test_what_cannot_be_run_is_told_before_anything_runs(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(ConfigError, match=message):
        run(monkeypatch, "--shards", tmp_path / "nowhere", *arguments)


def test_missing_shards_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FairwayError, match=r"shards.json: no such file. Try: dvc repro tokenize"):
        run(monkeypatch, "--shards", tmp_path, "--ideas", "baseline")
