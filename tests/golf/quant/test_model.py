import csv
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from golf.model.weights import build, tensor_groups
from golf.params.quant import Quant
from golf.quant.fast import round_to_nearest
from golf.quant.heldout import bits_per_byte, read_heldout, sample
from golf.quant.hessian import collect
from golf.quant.model import TensorReport, check_state, summary, write_table
from golf.quant.quantized import QuantizedTensor, dequantize_model
from golf.runtime.errors import DataError
from tests.golf.quant import tiny

CONFIG = Quant(bits=4, embed_bits=6, clip_sigma=6.0, embed_clip_sigma=6.0)


@pytest.fixture
def parts(tmp_path: Path):
    shards = tiny.write_data(tmp_path)
    state = tiny.state()
    model = build(tiny.SPEC, state)
    hessians = collect(model, sample(shards, "train", tokens=2048, seq_len=32, seed=0, spec=tiny.SPEC), 16)
    return shards, state, model, hessians


def test_gptq_where_there_is_a_hessian_and_nearest_where_not(parts) -> None:
    _, state, model, hessians = parts
    quantised, reports = tiny.quantise(state, hessians, CONFIG)
    methods = {report.name: report.method for report in reports}
    assert methods["bigram.table.weight"] == "nearest"
    assert methods["embed.weight"] == "gptq"
    assert set(methods) == {name for name, group in tensor_groups(model).items() if group != "control"}
    table = quantised.tensors["bigram.table.weight"]
    assert isinstance(table, QuantizedTensor)
    assert torch.equal(table.codes, round_to_nearest(state["bigram.table.weight"], 6, 6.0).codes)
    assert {report.name: report.bits for report in reports}["embed.weight"] == 6
    assert {report.name: report.bits for report in reports}["blocks.0.mlp.up.weight"] == 4


def test_it_beats_rounding_to_nearest_on_every_matrix_and_on_the_model(parts) -> None:
    shards, state, model, hessians = parts
    quantised, reports = tiny.quantise(state, hessians, CONFIG)
    for report in reports:
        if report.method == "gptq":
            assert report.output_error is not None
            assert report.nearest_error is not None
            assert 0 < report.output_error < report.nearest_error, report
    _, nearest = tiny.quantise(state, {}, CONFIG)
    assert all(report.output_error is None for report in nearest)
    heldout = read_heldout(shards, tiny.byte_table(), tokens=2048, seq_len=32, spec=tiny.SPEC)
    assert (
        abs(bits_per_byte(build(tiny.SPEC, dequantize_model(quantised)), heldout) - bits_per_byte(model, heldout)) < 0.2
    )


def test_more_bits_cost_less(parts) -> None:
    _, state, _, hessians = parts
    errors = [summary(tiny.quantise(state, hessians, replace(CONFIG, bits=bits))[1]) for bits in (4, 5, 6, 8)]
    assert [error["output_error"] for error in errors] == sorted(
        (error["output_error"] for error in errors), reverse=True
    )


def test_the_same_call_gives_the_same_codes_and_changes_nothing(parts) -> None:
    _, state, _, hessians = parts
    before = {name: value.clone() for name, value in state.items()}
    one, two = (tiny.quantise(state, hessians, CONFIG) for _ in range(2))
    first, second = dequantize_model(one[0]), dequantize_model(two[0])
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert one[1] == two[1]
    assert all(torch.equal(before[name], state[name]) for name in state)


def test_retries_are_counted_and_said(parts) -> None:
    _, state, _, hessians = parts
    bad = torch.eye(16).double()
    bad[0, 1] = bad[1, 0] = 1.04
    said: list[str] = []
    name = "blocks.0.attention.key.weight"
    _, reports = tiny.quantise(state, {**hessians, name: bad}, CONFIG, warn=said.append)
    assert summary(reports)["retries"] == 1
    assert len(said) == 1
    assert said[0].startswith(name)


def test_nan_is_refused_by_name(parts) -> None:
    _, state, _, hessians = parts
    broken = {**hessians, "blocks.1.mlp.down.weight": torch.full((32, 32), float("nan"))}
    with pytest.raises(DataError, match=r"^Hessian of blocks.1.mlp.down.weight"):
        tiny.quantise(state, broken, CONFIG)
    state["skips.weights"][0, 0] = float("inf")
    with pytest.raises(DataError, match=r"^skips.weights: 1 values NaN or infinite"):
        check_state(state)


def test_the_summary_averages_over_tensors_and_names_the_worst(tmp_path: Path) -> None:
    reports = [
        TensorReport("a", 2, 5, 6, "gptq", 0.1, 0.3, 4.0, 1, 0),
        TensorReport("b", 4, 5, 6, "gptq", 0.3, 0.5, 2.0, 2, 1),
        TensorReport("t", 10, 1, 7, "nearest", None, None, 0.0, 0, 0),
    ]
    assert summary(reports) == {
        "output_error": 0.2,
        "nearest_error": 0.4,
        "worst_error": 0.3,
        "worst_tensor": "b",
        "weight_mse": 0.15,
        "clipped_share": 0.075,
        "retries": 1,
    }
    write_table(reports, tmp_path / "tensors.csv")
    rows = list(csv.DictReader((tmp_path / "tensors.csv").open()))
    assert [row["name"] for row in rows] == ["a", "b", "t"]
    assert rows[1]["output_error"] == "0.3"
    assert rows[2]["output_error"] == ""
