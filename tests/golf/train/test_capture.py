"""Recorded micro-batches add up to the same loss and gradients, whatever stood in them before.

No graph can be recorded here: one that replays what it was given stands for it. tests/gpu has the real one.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from golf.train import capture
from golf.train.capture import Captured
from golf.train.distributed import join
from golf.train.feed import Request
from golf.train.phases import phase_at
from golf.train.plan import make_plan
from golf.train.run import Run, set_up
from golf.train.step import accumulate, enter
from tests.golf.train.tiny import GROWING, PACKED, make_config


class Replayed:
    """What :func:`golf.runtime.graphs.record` gives, without a GPU."""

    def __init__(self, work: Callable[[], None], pool: object) -> None:
        self.replay, self.shared = work, pool
        work()

    def pool(self) -> str:
        return "pool"


@pytest.fixture(params=[GROWING, PACKED], ids=["windows", "documents"])
def run(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.setattr(capture, "record", Replayed)
    config = make_config(tmp_path, **request.param)
    with join(config.hardware) as ranks:
        run = set_up(config, make_plan(config.train, config.hardware, 1, config.model.loop_passes), ranks)
        with run.feed:
            yield run


Gradients = list[torch.Tensor]


def at(run: Run, share: float, take: Callable[..., torch.Tensor]) -> Gradients:
    """The loss of a step at ``share`` of the run, as ``take`` makes it of micro-batches, and its gradients."""
    phase = phase_at(share, run.config.train, run.config.model.loop_passes)
    enter(run, phase, 0)
    request = Request(0, phase.batch_tokens // run.plan.row_tokens, phase.seq_len)
    run.state.optimizer.zero_grad()
    loss = take(run.feed.micro_batches(request, run.plan.divisions[phase.batch_tokens].micro_rows))
    return [loss, *(param.grad.clone() for param in run.state.model.parameters() if param.grad is not None)]


def test_a_recorded_step_is_the_accumulated_one_in_every_phase(run: Run) -> None:
    captured = Captured(run.state.model, run.forward)
    for share in (0.0, 0.35, 0.5, 0.9, 0.0, 0.9):
        plain = at(run, share, lambda batches: accumulate(run.forward, batches))
        recorded = at(run, share, captured)
        for ours, theirs in zip(recorded, plain, strict=True):
            assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-7)
    assert captured.count == 4, "one for each phase, and none when it comes back"
