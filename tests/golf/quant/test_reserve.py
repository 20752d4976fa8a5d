"""The seconds that reads after the last step are measured to need."""

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from golf.params.quant import Quant
from golf.params.select import Select
from golf.params.train import Train
from golf.quant import reserve
from golf.quant.reserve import FEW, MARGIN, candidates, extrapolated, measure
from tests.golf.quant import tiny

CPU = torch.device("cpu")
QUANT = Quant(calibration_tokens=1280, seq_len=32)
SELECT = Select(candidates=("raw",), tokens=512, seq_len=32)


class Hand:
    """A clock that moves by what the work is said to cost."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


@pytest.mark.parametrize(
    ("fixed", "each", "passes"), [(0.0, 0.5, 100), (2.0, 0.5, 100), (3.0, 0.25, FEW), (1.0, 0.5, 1)]
)
def test_a_few_passes_tell_of_all(monkeypatch: pytest.MonkeyPatch, fixed: float, each: float, passes: int) -> None:
    hand = Hand(monkeypatch)

    def work(count: int) -> None:
        hand.now += fixed + each * count

    found = extrapolated(work, passes, CPU)
    exact = fixed + each * passes
    assert found >= exact
    assert found == pytest.approx(exact, rel=0.5), "at least half of the mean is taken for a pass"


def test_noise_does_not_make_passes_free(monkeypatch: pytest.MonkeyPatch) -> None:
    hand, costs = Hand(monkeypatch), iter([9.0, 4.0, 4.0])

    def work(count: int) -> None:
        hand.now += next(costs)

    assert extrapolated(work, 101, CPU) == 4.0 + 100 * 4.0 / FEW / 2


def test_more_text_and_more_candidates_need_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass of calibration costs 1 s, every pass of scoring 10: what is done is what is counted."""
    shards, hand = tiny.write_data(tmp_path), Hand(monkeypatch)

    def calibrate(model: object, text: object, *rest: object, **more: object) -> None:
        hand.now += -(-text.tokens.shape[0] // 2)

    def score(name: str, state: object, spec: object, heldout: object, *rest: object) -> None:
        hand.now += 10 * -(-heldout.windows.shape[0] // 2)

    monkeypatch.setattr(reserve, "calibrate", calibrate)
    monkeypatch.setattr(reserve, "score", score)
    monkeypatch.setattr(reserve, "batch_windows", lambda windows, device: 2)

    def found(quant: Quant = QUANT, select: Select = SELECT, train: Train | None = None) -> float:
        return measure(shards, tiny.SPEC, train or Train(), select, quant, 5, "sdpa", CPU) / MARGIN

    assert found() == 20, "of one candidate there is no choice"
    assert found(dataclasses.replace(QUANT, calibration_tokens=2560)) == 40
    both = dataclasses.replace(SELECT, candidates=("raw", "swa"))
    assert found(select=both) == 20 + 2 * 80
    assert found(select=both, train=Train(swa_share=0.0)) == 20
    own = dataclasses.replace(QUANT, calibration="self")
    assert found(own) == 0, "what the model writes is no data"
    assert found(own, both) == 160


def test_all_that_training_keeps_is_counted() -> None:
    every = ("raw", "ema", "swa", "soup")
    assert candidates(Train(), Select(candidates=every)) == 1 + 2 + 1 + 1
    assert candidates(Train(ema_decays=(), swa_share=0.2), Select(candidates=every)) == 2
    assert candidates(Train(ema_decays=(0.9,), swa_share=0.0), Select(candidates=("ema",))) == 1


def test_a_dry_run_measures_and_leaves_the_random_state_to_training(tmp_path: Path) -> None:
    shards = tiny.write_data(tmp_path)
    every = dataclasses.replace(SELECT, candidates=("raw", "ema"))
    curved = dataclasses.replace(QUANT, steps="curvature")
    before = torch.get_rng_state()
    assert 0 < measure(shards, tiny.SPEC, Train(), every, curved, 5, "sdpa", CPU) < 60
    assert torch.equal(before, torch.get_rng_state())
