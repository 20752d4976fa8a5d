"""Real ranks of gloo, each a process: one, two and four must compute the same training."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from golf.model.weights import load_state
from golf.params.hardware import Hardware
from golf.runtime.errors import ConfigError
from golf.train import distributed
from golf.train.checkpoint import Store
from golf.train.distributed import Ranks, join
from golf.train.loop import train
from tests.golf.train.test_checkpoint import interrupt
from tests.golf.train.tiny import make_config, write_shards
from tests.ranks import run_ranks, torchrun

PROGRAM = """
import dataclasses, sys
from pathlib import Path
from golf.train.loop import train
from tests.golf.train.tiny import make_config
top, out = map(Path, sys.argv[1:3])
config = make_config(top, **eval(sys.argv[3]))
result = train(dataclasses.replace(config, out=out))
line = f"rank {result.first} {result.steps} {result.clock} {result.resumed}\\n"
sys.stdout.write(line)  # in one piece: ranks share the pipe
"""


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_any_number_of_ranks_computes_the_same_training(tmp_path: Path, count: int) -> None:
    steps = {"steps": 4, "micro_batch_tokens": 64, "log_every": 1}
    config = make_config(tmp_path, **steps)
    train(config)
    start = torchrun if count == 2 else run_ranks
    printed = start(count, tmp_path, tmp_path / "ranks", steps, program=PROGRAM)
    assert printed.count("rank True 4 steps") == 1
    assert printed.count("rank False 4 steps") == count - 1
    for name in ("raw", "ema-0.98", "ema-0.99", "swa"):
        found, expected = load_state(tmp_path / "ranks", name), load_state(config.out, name)
        for tensor, value in expected.items():
            torch.testing.assert_close(found[tensor], value, rtol=0, atol=1e-6, msg=f"{name} {tensor}")


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_ranks_go_on_with_what_one_process_left_as_if_nothing_had_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    steps: dict[str, Any] = {"steps": 6, "micro_batch_tokens": 64, "log_every": 1, "checkpoint_seconds": 1e-9}
    config = make_config(tmp_path, **steps)
    train(dataclasses.replace(config, checkpoints=None))
    interrupt(config, 4, monkeypatch)
    printed = run_ranks(count, tmp_path, tmp_path / "ranks", steps, program=PROGRAM)
    assert printed.count(" 6 steps True\n") == count
    for name in ("raw", "ema-0.98", "ema-0.99", "swa"):
        found, expected = load_state(tmp_path / "ranks", name), load_state(config.out, name)
        for tensor, value in expected.items():
            torch.testing.assert_close(found[tensor], value, rtol=0, atol=1e-6, msg=f"{name} {tensor}")


@pytest.mark.slow
def test_ranks_end_together_by_the_first_one_s_clock_and_resume_together(tmp_path: Path) -> None:
    # A second of two ranks: a checkpoint after 0.6 is the only one, even when the last step is a slow one.
    clocked = {"steps": 0, "seconds": 0.5, "gpus": 4, "log_every": 1, "checkpoint_seconds": 0.6}
    printed = run_ranks(2, write_shards(tmp_path / "shards").parent, tmp_path / "ranks", clocked, program=PROGRAM)
    lines = [line.split() for line in printed.splitlines() if line.startswith("rank")]
    assert len(lines) == 2
    assert lines[0][2:] == lines[1][2:], "the same step on both"
    assert lines[0][3:5] == ["stretched", "x2"]
    again = run_ranks(2, tmp_path, tmp_path / "ranks", clocked, program=PROGRAM)
    assert again.count("True\n") == 2, "both resumed from the first one's checkpoint"
    last = Store(next((tmp_path / "checkpoints").iterdir()), 0.0, print).latest()
    assert last is not None
    alone = train(make_config(tmp_path, **clocked))
    assert alone.clock == "stretched x4"
    spent = alone.timing["clock_seconds"]
    assert spent >= round(last.rank_seconds, 3) > 0.4, "one rank goes on from what the two had spent"
    # Two slow steps can end the budget at the last checkpoint: then there is no step left to spend more on.
    assert spent > last.rank_seconds or alone.steps == last.step, "one rank has used more of its longer budget"


EXCHANGES = """
from pathlib import Path
import torch
from golf.params.hardware import Hardware
from golf.train import distributed
with distributed.join(Hardware(device="cpu")) as ranks:
    i = float(ranks.index)
    tensors = [torch.full((3, 2), i), torch.full((7,), 2 * i), torch.tensor(i + 1), torch.full((2,), i).double()]
    ranks.mean_(tensors)
    assert [t.flatten().unique().tolist() for t in tensors] == [[0.5], [1.0], [1.5], [0.5]], tensors
    total, share, whole = torch.full((3,), i + 1), torch.empty(1, 2), torch.empty(2, 2)
    under_way = [ranks.sum_(total), ranks.sum_shares(torch.tensor([[i, 1.0], [i, 2.0]]), share)]
    while under_way:
        under_way.pop().wait()
    assert total.tolist() == [3] * 3 and share.tolist() == [[1, 2 * ranks.index + 2]], (total, share)
    ranks.gather_shares(share, whole).wait()
    assert whole.tolist() == [[1, 2], [1, 4]], whole
    shared = {"w": torch.full((2,), i), "n": torch.tensor(7 + ranks.index), "u": torch.tensor([ranks.index]).byte()}
    ranks.take_from_first_(shared)
    assert shared["w"].tolist() == [0, 0] and int(shared["n"]) == 7 and int(shared["u"]) == 0
    assert ranks.first_says(i + 0.1) == 0.1
    ranks.meet(5)
if Path("/proc/self/task").exists():
    left = [thread.joinpath("comm").read_text() for thread in Path("/proc/self/task").iterdir()]
    assert not any("gloo" in name for name in left), left
"""


def test_means_and_broadcasts_over_ranks(tmp_path: Path) -> None:
    run_ranks(2, program=EXCHANGES)


def test_alone_every_exchange_is_nothing() -> None:
    ranks = Ranks(0, 1, torch.device("cpu"))
    tensor = torch.ones(2)
    ranks.mean_([tensor])
    ranks.take_from_first_({"t": tensor})
    ranks.meet()
    assert ranks.first_says(2.5) == 2.5
    assert tensor.tolist() == [1, 1]


def test_a_rank_without_a_gpu_of_its_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setattr(distributed, "uses_gpu", lambda _: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"rank 2 of this machine has no GPU: found 2"), join(Hardware()):
        pass
