"""What a step computes, counted by hand; and the rows that tell its speed."""

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from golf.model.transformer import Transformer
from golf.params.model import Model
from golf.train import meter as metering
from golf.train.flops import Work, count_work, peak_flops
from golf.train.loop import train
from golf.train.meter import COLUMNS, Meter, write_speed
from tests.golf.train.tiny import make_config

PLAIN = Model(
    num_layers=3, dim=32, num_heads=4, num_kv_heads=2, mlp_ratio=3.0, rope_dims=4, xsa_layers=0, bigram_buckets=0,
    smear_gate=False, unet_skips="none",
)  # fmt: skip
LAYER = 32 * 32 * 2 + 2 * 32 * 16 + 2 * 32 * 96  # query, output; key, value; up, down


def test_work_is_six_flops_a_weight_and_twelve_a_pair_and_channel() -> None:
    assert count_work(Transformer(PLAIN, 50)) == Work(6 * (3 * LAYER + 50 * 32), 12 * 32 * 3)


def test_a_looped_layer_counts_each_time_it_runs() -> None:
    model = Transformer(dataclasses.replace(PLAIN, loop_first=1, loop_last=1, loop_passes=3), 50)
    for passes, layers in ((1, 3), (2, 4), (3, 5)):
        model.set_passes(passes)
        assert count_work(model) == Work(6 * (layers * LAYER + 50 * 32), 12 * 32 * layers)
    assert not any(module._forward_hooks for module in model.modules())


def test_what_kernels_contain_is_counted_too() -> None:
    model = Transformer(PLAIN, 50)
    model.kernels = True
    assert count_work(model) == count_work(Transformer(PLAIN, 50))
    assert model.kernels


def test_peaks_are_told_apart_by_the_device_s_name() -> None:
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989.4e12
    assert peak_flops("NVIDIA H100 PCIe") == 756e12
    assert peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("cpu, 1 threads") is None


def test_a_row_is_what_was_done_since_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    graphs = 3
    monkeypatch.setattr(metering, "compiled_graphs", lambda: graphs)
    meter = Meter(torch.device("cpu"), ranks=2, peak=1000.0)
    meter.work = {1: Work(10, 2), 3: Work(20, 4)}
    meter.count(50, 7, 1)  # warm-up
    meter.begin(5.0)
    for passes in (1, 1, 3, 3):
        meter.count(100, 25, passes)
    now, graphs = 102.0, 4
    meter.row(4, 5.5)
    row = dict(zip(COLUMNS, meter.rows[-1], strict=True))
    flops = 2 * (10 * 50 + 2 * 25) + 2 * (20 * 50 + 4 * 25)  # a rank's own half of the tokens
    assert (row["step"], row["ms_per_step"], row["tokens_per_second"]) == (4, 500.0, 200.0)
    assert row["mfu"] == pytest.approx(flops / 2 / 1000)
    assert row["wait_ms"] == pytest.approx(125.0)
    assert (row["recompiles"], row["sm_mhz"]) == (1, None)
    meter.row(4, 5.5)
    assert len(meter.rows) == 1, "no step, no row"
    assert meter.utilisation(4.0) == pytest.approx(flops / 4 / 1000)
    assert meter.waited == pytest.approx(0.5)
    assert write_speed(meter.rows).decode().splitlines()[1].endswith(",,1"), "what is not known is empty"


def test_a_run_has_a_row_of_speed_beside_each_of_the_curve_and_no_mfu_on_a_cpu(tmp_path: Path) -> None:
    result = train(make_config(tmp_path))
    assert [row[0] for row in result.speed] == [row[0] for row in result.curve]
    assert "mfu" not in result.timing
    assert {"recompiles", "data_wait_seconds", "clock_seconds", "nccl"} <= set(result.timing)


def test_graphs_compiled_after_the_warm_up_are_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    graphs = iter(range(1000))
    monkeypatch.setattr(metering, "compiled_graphs", lambda: next(graphs))
    assert train(make_config(tmp_path)).timing["recompiles"] > 0
    assert "graphs were compiled after the warm-up" in capsys.readouterr().err
