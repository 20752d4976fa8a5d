"""Training on GPUs: no waiting inside a step, no compilation after warm-up, NCCL, resuming across devices."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from golf.params.hardware import Hardware
from golf.train.distributed import join
from golf.train.loop import enter, set_up, take_step, train, warm_up
from golf.train.plan import TrainConfig, make_plan
from tests.golf.train.test_checkpoint import interrupt
from tests.golf.train.tiny import GROWING, make_config
from tests.ranks import torchrun

pytestmark = pytest.mark.gpu


def on_gpu(config: TrainConfig, compiled: str = "off", graphs: str = "off") -> TrainConfig:
    hardware = Hardware(device="cuda", compile=compiled, graphs=graphs)  # type: ignore[arg-type]
    return dataclasses.replace(config, hardware=hardware)


@pytest.mark.parametrize("graphs", ["off", "auto"])
def test_a_step_never_waits_for_the_device(tmp_path: Path, graphs: str) -> None:
    config = on_gpu(make_config(tmp_path, micro_batch_tokens=128), graphs=graphs)
    with join(config.hardware) as ranks:
        run = set_up(config, make_plan(config.train, config.hardware, 1), ranks)
        with run.feed:
            warm_up(run)
            enter(run, run.plan.phases[-1], 0)
            torch.cuda.set_sync_debug_mode("error")
            try:
                for step in range(3):
                    take_step(run, step, 1.0, 0.9)
            finally:
                torch.cuda.set_sync_debug_mode("default")
            run.curve.flush(3, run.state.place.tokens, 1.0)
    assert math.isfinite(run.curve.last_loss)


def test_a_compiled_run_switches_to_late_qat_without_compiling_and_follows_the_eager_one(tmp_path: Path) -> None:
    config = make_config(tmp_path, steps=40, qat_share=0.5, checkpoint_seconds=1e-9)
    eager = train(on_gpu(dataclasses.replace(config, checkpoints=None)))
    compiled = train(on_gpu(config, "on"))
    assert compiled.timing["compiled"] is True
    assert compiled.timing["recompiles"] == 0
    for ours, theirs in zip(compiled.curve, eager.curve, strict=True):
        assert ours[2] == pytest.approx(theirs[2], rel=0.03)
    assert compiled.final_loss < 2.5


def test_a_recorded_run_is_the_eager_one_through_every_phase(tmp_path: Path) -> None:
    """A loop that switches on, late QAT, growing rows: each is a graph of its own, recorded in the warm-up."""
    config = make_config(tmp_path, **GROWING)
    eager = train(on_gpu(config))
    recorded = train(on_gpu(config, graphs="auto"))
    assert recorded.timing["graphs"] is True
    assert recorded.timing["recompiles"] == 0
    for ours, theirs in zip(recorded.curve, eager.curve, strict=True):
        assert ours[2] == pytest.approx(theirs[2], rel=1e-3)


def test_a_run_begun_on_a_gpu_ends_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config(tmp_path, steps=40, checkpoint_seconds=1e-9)
    interrupt(on_gpu(config), 30, monkeypatch)
    result = train(config)
    assert result.resumed
    assert result.final_loss < 2.5


RANKS = """
import dataclasses, sys
from pathlib import Path
from golf.params.hardware import Hardware
from golf.train.loop import train
from tests.golf.train.tiny import GROWING, make_config
config = make_config(Path(sys.argv[1]), **eval(sys.argv[2]))
result = train(dataclasses.replace(config, hardware=Hardware(device="cuda")))
print("rank", result.first, result.steps, result.clock, result.timing["clock_seconds"], result.final_loss, flush=True)
"""


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_ranks_over_nccl_train_as_one_gpu_does_and_end_together(tmp_path: Path) -> None:
    steps = {"steps": 30, "micro_batch_tokens": 128}
    alone = train(on_gpu(make_config(tmp_path, **steps)))
    printed = torchrun(2, tmp_path, steps, program=RANKS)
    first = next(line for line in printed.splitlines() if line.startswith("rank True"))
    assert float(first.split()[-1]) == pytest.approx(alone.final_loss, rel=0.03)
    clocked = {"steps": 0, "seconds": 3.0, "gpus": 4, "log_every": 10}
    lines = [line.split() for line in torchrun(2, tmp_path, clocked, program=RANKS).splitlines() if "rank" in line]
    assert len({line[2] for line in lines}) == 1
    assert all(float(line[5]) <= 6.2 for line in lines), "stretched x2: 6 seconds"
