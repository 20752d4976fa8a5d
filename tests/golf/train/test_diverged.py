"""A run whose loss goes wrong stops, and says where to look."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch

from golf.train import step as stepping
from golf.train.checkpoint import Store
from golf.train.distributed import Ranks
from golf.train.log import ENOUGH, Curve, Diverged
from golf.train.loop import train
from tests.golf.train.test_checkpoint import TENSORS
from tests.golf.train.test_loop import break_at
from tests.golf.train.tiny import make_config

ALONE = Ranks(0, 1, torch.device("cpu"))


def feed(curve: Curve, losses: list[float], done: int = 0) -> None:
    for index, loss in enumerate(losses):
        curve.add(torch.tensor(loss), torch.tensor(1.0), torch.tensor([0.5, float(index)]), 10 * (done + index))
    curve.flush(done + len(losses), 10 * (done + len(losses)), 1.0)


def test_a_spike_is_measured_from_the_median_of_the_steps_before() -> None:
    curve = Curve(ALONE, spike_nats=0.5)
    feed(curve, [3.0] * ENOUGH + [3.4, 9.0 - 5.6])
    with pytest.raises(
        Diverged, match=r"step 20: loss 3.6000, needed at most train.spike_nats = 0.5 above 3.0000"
    ) as caught:
        feed(curve, [3.0, 3.6], done=ENOUGH + 2)
    assert (caught.value.step, caught.value.begins, caught.value.norms) == (20, 190, [0.5, 1.0])


def test_the_first_steps_and_a_switched_off_limit_are_no_spike() -> None:
    feed(Curve(ALONE, spike_nats=0.5), [3.0] * (ENOUGH - 1) + [9.0])
    feed(Curve(ALONE), [3.0] * 50 + [90.0])


def test_another_function_is_not_measured_by_the_losses_of_the_one_before() -> None:
    """The loop that switches on makes the loss jump, as it should."""
    curve = Curve(ALONE, spike_nats=0.5)
    curve.expect_change(20)
    feed(curve, [3.0] * 20 + [4.0] * ENOUGH)
    with pytest.raises(Diverged, match=r"above 4.0000"):
        feed(curve, [4.6], done=20 + ENOUGH)


def test_a_spike_ends_the_run_with_its_batch_and_a_run_without_the_limit_goes_on_from_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path, steps=30, spike_nats=2.0, checkpoint_seconds=1e-9, log_every=1, qat_share=0.0)
    with monkeypatch.context() as patch:
        break_at(27, patch, 3.0)
        with pytest.raises(
            Diverged, match=r"step 27: loss .* above .*; batch of seed 7, step 26, from token 6,656 "
        ) as caught:
            train(config)
    assert "largest gradients " in str(caught.value)
    assert "not finite" not in str(caught.value)
    result = train(dataclasses.replace(config, train=dataclasses.replace(config.train, spike_nats=0.0)))
    assert result.resumed
    assert result.steps == 30


def test_weights_that_are_no_numbers_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_at(6, monkeypatch, math.nan)
    with pytest.raises(Diverged, match=r"step 6: loss nan.*largest gradients \S+ nan.* of \d+ weights not finite: \S+"):
        train(make_config(tmp_path))


def test_a_checkpoint_of_weights_that_are_no_numbers_is_not_kept(tmp_path: Path) -> None:
    lines: list[str] = []
    with Store(tmp_path, 0.0, lines.append) as store:
        store.save(1, 0.0, [], TENSORS)
        store.save(2, 0.0, [], {**TENSORS, "model/w": torch.tensor([1.0, math.inf])})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001.safetensors"]
    assert "model/w is not finite after step 2" in lines[0]


def test_the_norms_of_a_step_stand_at_their_tensors(tmp_path: Path) -> None:
    params = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    params[0].grad, params[2].grad = torch.tensor([3.0, 4.0]), torch.tensor([0.0, 2.0])
    assert stepping.gradient_norms(params).tolist() == [5.0, 0.0, 2.0]
