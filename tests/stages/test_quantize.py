import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.codec.artifact import encode_arrays
from golf.data.shards import write_shard
from golf.model.weights import build, load_state, save_model, tensor_groups
from golf.params.base import load as load_section
from golf.params.compress import Compress
from golf.quant.heldout import bits_per_byte, read_heldout
from golf.quant.quantized import QuantizedTensor, dequantize_model, load
from golf.quant.stored import read_arrays
from golf.runtime.errors import DataError, MissingInput
from stages import quantize
from tests.golf.quant import tiny
from tests.stages.world import report, write, write_params

SEED = 314


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages.quantize", "--seed", str(SEED)])
    tiny.write_data(tmp_path)
    save_model(tmp_path / f"runs/select/{SEED}", "model", tiny.state(1), tiny.CONFIG, tiny.VOCAB, 1)
    parameters(tmp_path)
    return tmp_path


def parameters(root: Path, **changed: object) -> None:
    write_params(root, quant={"calibration_tokens": 1024, "seq_len": 32, "heldout_tokens": 512, **changed})


def test_it_writes_codes_a_table_and_a_small_report(workspace: Path) -> None:
    quantize.main()
    folder = workspace / f"runs/quantize/{SEED}"
    assert {path.name for path in folder.iterdir()} == {"quantized.safetensors", "model.json", "tensors.csv"}
    quantised, groups = load(folder), tensor_groups(build(tiny.SPEC))
    widths = {name: tensor.bits for name, tensor in quantised.tensors.items() if isinstance(tensor, QuantizedTensor)}
    assert widths == {name: {"matrix": 6, "embed": 8}[group] for name, group in groups.items() if group != "control"}
    rows = list(csv.DictReader((folder / "tensors.csv").open()))
    assert [row["name"] for row in rows] == [
        name for name in load_state(workspace / f"runs/select/{SEED}", "model") if name in widths
    ]
    numbers = report(workspace, "quantize", SEED)
    assert len(numbers) <= 12
    assert (numbers["seed"], numbers["bits"], numbers["embed_bits"], numbers["retries"]) == (SEED, 6, 8, 0)
    assert 0 < numbers["output_error"] < numbers["nearest_error"]
    assert numbers["worst_tensor"] in widths
    timing = report(workspace, "timing/quantize", SEED)
    assert set(timing["parts"]) == {"read", "hessians", "gptq", "score", "write"}


def test_bpb_before_and_after_are_of_the_same_held_out_text(workspace: Path) -> None:
    quantize.main()
    table = tiny.byte_table()
    heldout = read_heldout(workspace / "data/shards", table, tokens=512, seq_len=32, spec=tiny.SPEC)
    restored = build(tiny.SPEC, dequantize_model(load(workspace / f"runs/quantize/{SEED}")))
    numbers = report(workspace, "quantize", SEED)
    assert numbers["pre_bpb"] == pytest.approx(bits_per_byte(tiny.model(1), heldout), abs=1e-6)
    assert numbers["post_bpb"] == pytest.approx(bits_per_byte(restored, heldout), abs=1e-6)


def test_fewer_bits_are_coarser(workspace: Path) -> None:
    quantize.main()
    six = report(workspace, "quantize", SEED)
    parameters(workspace, bits=5)
    quantize.main()
    five = report(workspace, "quantize", SEED)
    assert five["bits"] == 5
    assert five["output_error"] > 2 * six["output_error"]
    assert five["weight_mse"] > six["weight_mse"]
    largest = max(
        int(tensor.codes.abs().max())
        for name, tensor in load(workspace / f"runs/quantize/{SEED}").tensors.items()
        if isinstance(tensor, QuantizedTensor) and "blocks" in name
    )
    assert largest <= 15


def test_twice_is_the_same_bytes(workspace: Path) -> None:
    files = [f"reports/quantize/{SEED}.json"]
    files += [f"runs/quantize/{SEED}/{name}" for name in ("quantized.safetensors", "model.json", "tensors.csv")]
    quantize.main()
    before = [(workspace / file).read_bytes() for file in files]
    shutil.rmtree(workspace / "runs/quantize")
    quantize.main()
    assert before == [(workspace / file).read_bytes() for file in files]


def test_calibration_reads_training_text_and_scores_held_out_text(workspace: Path, opened: list[str]) -> None:
    quantize.main()
    assert set(opened) == {"train_000000.bin", "heldout_000000.bin"}
    codes = (workspace / f"runs/quantize/{SEED}/quantized.safetensors").read_bytes()
    (workspace / "data/shards/val_000000.bin").unlink()
    write_shard(workspace / "data/shards/heldout_000000.bin", tiny.tokens(3000, seed=77))
    quantize.main()
    assert (workspace / f"runs/quantize/{SEED}/quantized.safetensors").read_bytes() == codes


def test_reads_of_training_text_are_timed_and_own_text_is_none(workspace: Path, opened: list[str]) -> None:
    quantize.main()
    timing = report(workspace, "timing/quantize", SEED)
    assert 0 < timing["text_seconds"] <= timing["parts"]["hessians"] + 0.001
    parameters(workspace, calibration="self")
    opened.clear()
    quantize.main()
    assert set(opened) == {"heldout_000000.bin"}
    assert report(workspace, "timing/quantize", SEED)["text_seconds"] == 0


def test_nan_weights_are_refused_before_calibration(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quantize.main()
    before = (workspace / f"runs/quantize/{SEED}/quantized.safetensors").read_bytes()
    broken = tiny.state(1)
    broken["blocks.0.mlp.up.weight"][0, 0] = float("nan")
    save_model(workspace / f"runs/select/{SEED}", "model", broken, tiny.CONFIG, tiny.VOCAB, 1)

    def never(*_: object, **__: object) -> None:
        raise AssertionError("calibrated")

    monkeypatch.setattr(quantize, "calibrate", never)
    with pytest.raises(DataError, match=r"^blocks.0.mlp.up.weight: 1 values NaN"):
        quantize.main()
    assert (workspace / f"runs/quantize/{SEED}/quantized.safetensors").read_bytes() == before


def test_complex_weights_are_refused_before_calibration(workspace: Path) -> None:
    weights = tiny.state(1)
    weights["blocks.0.mlp.up.weight"] = weights["blocks.0.mlp.up.weight"].to(torch.complex64)
    save_model(workspace / f"runs/select/{SEED}", "model", weights, tiny.CONFIG, tiny.VOCAB, 1)
    with pytest.raises(DataError, match=r"^blocks.0.mlp.up.weight: found torch.complex64, needed real numbers. Try: "):
        quantize.main()
    assert not (workspace / f"runs/quantize/{SEED}").exists()


def test_missing_weights_are_one_error_and_nothing_is_written(workspace: Path) -> None:
    (workspace / f"runs/select/{SEED}/model.safetensors").unlink()
    with pytest.raises(MissingInput, match=r"model.safetensors: no such file"):
        quantize.main()
    assert not (workspace / "runs/quantize").exists()


def test_shards_of_another_tokenizer_are_refused(workspace: Path) -> None:
    write_shard(workspace / "data/shards/train_000000.bin", np.full(5000, 900, dtype=np.uint16))
    with pytest.raises(DataError, match="train split: found token 900, needed 0 to 47"):
        quantize.main()


def test_a_model_that_training_left_half_zero_is_no_problem(workspace: Path) -> None:
    """Output projections start at zero: Hessians of dead inputs, rows without deviation."""
    torch.manual_seed(0)
    fresh = {name: value.detach() for name, value in build(tiny.SPEC).state_dict().items()}
    save_model(workspace / f"runs/select/{SEED}", "model", fresh, tiny.CONFIG, tiny.VOCAB, 1)
    quantize.main()
    restored = dequantize_model(load(workspace / f"runs/quantize/{SEED}"))
    assert not restored["blocks.0.mlp.down.weight"].any()
    assert report(workspace, "quantize", SEED)["retries"] == 0


@pytest.mark.parametrize("changed", [{"steps": "column"}, {"method": "trellis"}, {"steps": "curvature"}])
def test_every_grid_comes_out_as_it_was_scored(workspace: Path, changed: dict[str, str]) -> None:
    quantize.main()
    plain = report(workspace, "quantize", SEED)
    parameters(workspace, **changed)
    quantize.main()
    numbers = report(workspace, "quantize", SEED)
    assert numbers["post_bpb"] != plain["post_bpb"]
    heldout = read_heldout(workspace / "data/shards", tiny.byte_table(), tokens=512, seq_len=32, spec=tiny.SPEC)
    restored = build(tiny.SPEC, dequantize_model(load(workspace / f"runs/quantize/{SEED}")))
    assert numbers["post_bpb"] == pytest.approx(bits_per_byte(restored, heldout), abs=1e-6)


def budget(root: Path, artifact_bytes: int, code_bytes: int) -> None:
    parameters(root, fit=True)
    text = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(text.replace("artifact_bytes: 16000000", f"artifact_bytes: {artifact_bytes}"))
    write(root / "reports/bundle.json", json.dumps({"code_bytes": code_bytes, "modules": 1}))


def test_fitted_to_what_the_program_leaves_of_the_budget(workspace: Path) -> None:
    budget(workspace, 6_000, 3_100)
    quantize.main()
    fitted = report(workspace, "quantize", SEED)["fit"]
    metadata, arrays = read_arrays(workspace / f"runs/quantize/{SEED}")
    blob, _ = encode_arrays(metadata, arrays, load_section(Compress, workspace / "params.yaml"))
    assert 0 <= 2_900 - len(blob) == fitted["slack_bytes"] < 256
    assert fitted["multiplier"] > 1
    assert set(report(workspace, "timing/quantize", SEED)["parts"]) == {
        "read",
        "hessians",
        "gptq",
        "fit",
        "score",
        "write",
    }


def test_a_budget_that_cannot_be_kept_is_one_error_and_nothing_is_written(workspace: Path) -> None:
    budget(workspace, 6_000, 5_900)
    with pytest.raises(DataError, match=r"^fit: steps, controls and header take [\d,]+ bytes, the program leaves 100 "):
        quantize.main()
    assert not (workspace / "runs/quantize").exists()


def test_a_fit_needs_the_program(workspace: Path) -> None:
    parameters(workspace, fit=True)
    with pytest.raises(MissingInput, match=r"Try: dvc repro bundle"):
        quantize.main()


@pytest.mark.parametrize("content", ["{}", '{"code_bytes": "many"}', '{"code_bytes": 3100.5}'])
def test_a_damaged_report_of_the_program_is_one_error(workspace: Path, content: str) -> None:
    parameters(workspace, fit=True)
    write(workspace / "reports/bundle.json", content)
    with pytest.raises(DataError, match=r"bundle.json: found code_bytes .*, needed an integer"):
        quantize.main()
    assert not (workspace / "runs/quantize").exists()
