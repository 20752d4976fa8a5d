import time

import pytest
import torch

from golf.train.clock import Pace, StepClock, WallClock
from golf.train.distributed import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


class Hand:
    """A clock that the test moves."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Hand:
    hand = Hand()
    monkeypatch.setattr(time, "perf_counter", hand)
    return hand


def run(clock: WallClock, hand: Hand, step_seconds: float, most: int = 1000) -> list[float]:
    progress = []
    for step in range(most):
        share = clock.progress(step)
        if share >= 1.0:
            break
        progress.append(share)
        hand.now += step_seconds
    return progress


def test_steps_are_counted_whatever_the_time() -> None:
    clock = StepClock(4)
    clock.begin(3.0)
    assert [clock.progress(step) for step in range(5)] == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert clock.after(3, 0.75) == 1.0
    assert 3.0 <= clock.elapsed < 4.0


def test_the_wall_clock_never_begins_a_step_that_would_end_late(hand: Hand) -> None:
    clock = WallClock(10.0, ALONE)
    clock.begin(0.0)
    progress = run(clock, hand, 0.75)
    assert progress[0] == 0.0
    assert progress == sorted(progress)
    assert len(progress) == 13
    assert 9.0 < clock.elapsed <= 10.0


def test_a_step_in_flight_on_the_gpu_counts_as_to_come(hand: Hand) -> None:
    clock = WallClock(10.0, Ranks(0, 1, torch.device("cuda")))
    clock.begin(0.0)
    assert len(run(clock, hand, 0.75)) == 13 - Pace.RUN_AHEAD


def test_a_resumed_clock_goes_on(hand: Hand) -> None:
    clock = WallClock(10.0, ALONE)
    clock.begin(9.0)
    assert run(clock, hand, 0.3)[0] == pytest.approx(0.9)
    assert 9.5 < clock.elapsed <= 10.0
    spent = WallClock(10.0, ALONE)
    spent.begin(10.0)
    assert spent.progress(5) >= 1.0


def test_one_slow_step_does_not_end_the_run(hand: Hand) -> None:
    clock = WallClock(100.0, ALONE)
    clock.begin(0.0)
    clock.progress(0)
    hand.now += 30.0
    assert len(run(clock, hand, 1.0)) > 60


def test_a_cpu_needs_no_pacing() -> None:
    pace = Pace(torch.device("cpu"))
    for _ in range(3):
        pace.step_queued()
