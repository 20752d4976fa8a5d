"""What a record says of itself, from timings and totals."""

import dataclasses
import math
from typing import Any

import pytest

from golf.records.record import Record, compliance
from golf.records.results import Results
from golf.stats.baseline import FINEWEB_VAL_BYTES


def record(timings: dict[int, Any]) -> Record:
    results = Results(
        seeds=(1, 2), bpb={1: 1.0, 2: 1.0}, losses={1: 2.0, 2: 2.0}, tokens=100, bytes=240, code_bytes=5,
        total_bytes={1: 10, 2: 10}, flags=(),
    )  # fmt: skip
    return Record(results=results, aggregate={}, reports={}, timings={"train": timings}, params={})


@pytest.mark.parametrize(
    ("first", "second", "within"),
    [
        ({"seconds": 600.0}, {"seconds": 0.01}, True),  # a smoke run is in time too
        ({"seconds": 600.0}, {"seconds": 600.1}, False),
        ({"seconds": 600.0}, {}, False),  # no proof
        ({"seconds": 900.0, "parts": {"train": 599.0}}, {"clock_seconds": 3.0}, True),
        ({"seconds": 9.0, "program": {"clock_seconds": 700.0}}, {"seconds": 1.0}, False),
    ],
)
def test_every_seed_must_be_known_to_be_in_time(first: Any, second: Any, within: bool) -> None:
    run = record({1: first, 2: second})
    assert compliance(run)["train_under_600s"] is within
    assert compliance(run)["eval_under_600s"] is False


def test_reads_of_training_text_after_the_last_step_count_as_training() -> None:
    run = record({1: {"clock_seconds": 590.0}, 2: {"clock_seconds": 599.0}})
    late = {"quantize": {1: {"text_seconds": 6.0}, 2: {"text_seconds": 0.6}}, "select": {2: {"text_seconds": 0.6}}}
    assert compliance(run)["train_under_600s"] is True
    run = dataclasses.replace(run, timings={**run.timings, **late})
    assert (run.seconds("train", 1), run.seconds("train", 2)) == (596.0, 600.2)
    assert compliance(run)["train_under_600s"] is False


@pytest.mark.parametrize(
    ("train", "total", "said"),
    [
        ({"gpus": 8, "steps": 0, "seconds": 600.0}, 16_000_000, []),
        ({"gpus": 4, "steps": 0, "seconds": 600.0}, 16_000_000, ["not trained by the clock of 600 s on 8 GPUs"]),
        ({"gpus": 8, "steps": 9, "seconds": 600.0}, 16_000_000, ["not trained by the clock of 600 s on 8 GPUs"]),
        ({"gpus": 8, "steps": 0, "seconds": 601.0}, 16_000_000, ["not trained by the clock of 600 s on 8 GPUs"]),
        ({"gpus": 8, "steps": 0, "seconds": 600.0}, 16_000_001, ["the largest seed is over 16,000,000 bytes"]),
    ],
)
def test_what_keeps_a_run_out_of_the_record_track(train: Any, total: int, said: list[str]) -> None:
    timing = {seed: {"seconds": 1.0} for seed in (1, 2)}
    run = record(timing)
    results = dataclasses.replace(run.results, bytes=FINEWEB_VAL_BYTES, total_bytes={1: total, 2: 10})
    run = Record(results, {}, {}, {"train": timing, "evaluate": timing}, {"train": train})
    assert run.obstacles() == [*said, "2 seed(s), needed 3"]


def test_a_score_as_nats_a_token_of_the_scored_text() -> None:
    assert record({}).loss(1.5) == pytest.approx(1.5 * math.log(2) * 2.4)
