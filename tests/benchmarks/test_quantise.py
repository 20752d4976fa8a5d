"""Whole files of one size, and the lines that a GPU run is read by."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import quantise
from golf.codec.model import encode_model
from golf.data.shards import write_shard
from golf.model.weights import build, save_model, tensor_groups
from golf.params.compress import Compress
from golf.params.quant import Quant
from golf.quant.curvature import curvature
from golf.quant.heldout import HeldOut, bits_per_byte
from golf.quant.hessian import collect
from tests.golf.quant import tiny


@pytest.fixture(scope="module")
def parts() -> dict[str, Any]:
    state = tiny.state()
    model = build(tiny.SPEC, state)
    text = torch.from_numpy(tiny.tokens(16 * 33).astype("int64")).view(16, 33)
    found: dict[str, Any] = {"spec": tiny.SPEC, "state": state, "text": HeldOut(text, 1024), "device": "cpu"}
    found |= {"groups": tensor_groups(model), "build": lambda weights: build(tiny.SPEC, weights)}
    found["bpb"] = bits_per_byte(model, found["text"])
    found["hessians"] = found["heldout"] = collect(model, text, 16)
    return found | {"curvature": curvature(model, text, 16)}


def test_both_files_are_as_large(parts: dict[str, Any]) -> None:
    row = quantise.compare(Quant(steps="curvature", bits=6), Quant(bits=6), parts)
    assert row["artifact_bytes"] == pytest.approx(row["bytes"], rel=1e-3)
    assert row["ratio"] == pytest.approx(row["bpb_lost"] / row["row_bpb_lost"], rel=0.01)


def test_what_brotli_packs_is_the_whole_model(parts: dict[str, Any]) -> None:
    """Within a few per cent of an artifact that is allowed brotli alone, whose header has the names."""
    model = quantise.quantizer_of(Quant(), parts)()
    blob, _ = encode_model(model, Compress(codecs=("brotli",), layouts=("column", "split")))
    assert 0.85 < quantise.packed_bytes(model) / len(blob) < 1.02


def test_a_row_a_variant_at_equal_bytes(parts: dict[str, Any]) -> None:
    rows = quantise.measure({"row": {}, "curvature": {"steps": "curvature"}}, parts)
    assert [row["variant"] for row in rows] == ["row", "curvature"]
    assert rows[1]["bytes"] == pytest.approx(rows[0]["bytes"], rel=quantise.CLOSE)


def test_the_next_pass_is_a_line_through_the_last_two_within_the_bracket() -> None:
    near = {"slope": -100.0, "finer": -1.0, "coarser": 1.0}
    assert quantise.next_octaves({0.0: 1000.0}, 990.0, **near) == pytest.approx(0.1)
    assert quantise.next_octaves({0.0: 1000.0, 0.1: 980.0}, 990.0, **near) == pytest.approx(0.05)
    assert quantise.next_octaves({0.0: 1000.0}, 200.0, **near) == 0.0, "the middle"


def test_the_ratio_of_the_mean_is_that_of_the_losses() -> None:
    rows = [{"bits": 6, "row_bpb_lost": 0.02, "bpb_lost": 0.01}, {"bits": 6, "row_bpb_lost": 0.04, "bpb_lost": 0.02}]
    assert quantise.mean_of(rows) == pytest.approx({"bits": 6, "row_bpb_lost": 0.03, "bpb_lost": 0.015, "ratio": 0.5})


def test_runs_are_read_from_their_folders_and_text_from_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        save_model(tmp_path / str(seed), "raw", tiny.state(seed), tiny.CONFIG, tiny.VOCAB, 1)
    for split, count in (("train", 6000), ("heldout", 4000), ("val", 2100)):
        write_shard(tmp_path / f"{split}_000000.bin", tiny.tokens(count))
    tiny.byte_table().save(tmp_path / "bytes.safetensors")
    words = f"--run {tmp_path}/0 {tmp_path}/1 --tokenizer {tmp_path} --shards {tmp_path} --profile record"
    words += f" --bits 6 --windows 4 --scored 4 --files-only --out {tmp_path}/out.json"
    monkeypatch.setattr("sys.argv", ["quantise", *words.split()])
    quantise.main()
    found = json.loads((tmp_path / "out.json").read_text())
    assert [run["files"][0]["bits"] for run in found["runs"]] == [6, 6]
    assert found["tokens"] == 2048, "the shard holds no third window"
    assert f"mean of 2: bpb lost {found['mean'][0]['bpb_lost']:+.5f} against" in capsys.readouterr().out


def test_scoring_text_counts_the_bytes_of_its_targets_alone(tmp_path: Path) -> None:
    tiny.byte_table().save(tmp_path / "bytes.safetensors")
    write_shard(tmp_path / "val.bin", tiny.tokens(100))
    text = quantise.scoring_text(tmp_path / "val.bin", tmp_path, 24, 16)
    assert text.windows.shape == (6, 17)
    assert text.windows[1, 0] == text.windows[0, -1]
    assert text.bytes == int(tiny.byte_table().count(torch.from_numpy(tiny.tokens(97).astype("int64"))).sum())
