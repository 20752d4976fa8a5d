"""Planning and the loop with a fake runner: order, limits, kills at every byte."""

import contextlib
import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest

from golf.runtime.errors import DataError
from pipeline.campaign.sweep.candidates import Candidate
from pipeline.campaign.sweep.drive import drive
from pipeline.campaign.sweep.journal import Journal, read
from pipeline.campaign.sweep.plan import Plan, Stop
from pipeline.campaign.sweep.spec import from_document
from tests.pipeline.campaign.sweep.fake import Clock, Killed, Runner, plan, table


def sweep(count: int = 4, **more: Any) -> Any:
    document = {"parameters": {"optim.matrix_lr": [0.01 * (i + 1) for i in range(count)]}, **more}
    return from_document(document, "lr", "lr.yaml")


def halving(count: int = 9, **more: Any) -> Any:
    return sweep(count, method="halving", resource="train.steps", rungs=[1, 3, 9], **more)


def score(candidate: Candidate) -> dict[int, float]:
    return {seed: 1 + candidate.index / 100 + seed / 1000 - candidate.rung / 10 for seed in (1, 2, 3)}


def go(path: Path, made: Plan, runner: Runner, **more: Any) -> Stop:
    journal = Journal(path, runner.clock)
    try:
        return drive(made, journal, runner, clock=runner.clock, **{"slots": 1, **more})
    finally:
        journal.close()


def state(path: Path) -> Any:
    with contextlib.closing(Journal(path, Clock())) as journal:
        return journal.state


def test_a_grid_runs_each_candidate_once_in_order(tmp_path: Path) -> None:
    runner, made = Runner(Clock(), score), plan(sweep())
    stop = go(tmp_path / "j", made, runner)
    assert stop == Stop("complete: 4 of 4 runs have a score", complete=True)
    assert runner.started == [one.name for one in made.rungs[0]]
    again = Runner(Clock(), score)
    assert go(tmp_path / "j", made, again).complete
    assert not again.started


def test_eighty_failing_candidates_stop_after_three_with_the_reason(tmp_path: Path) -> None:
    runner = Runner(Clock(), lambda one: f"train: no memory for {one.index}")
    stop = go(tmp_path / "j", plan(sweep(80)), runner)
    assert len(runner.started) == 3
    assert not stop.complete
    assert stop.reason.startswith("3 failures in a row; the last: lr-")
    assert stop.reason.endswith("train: no memory for 2")
    assert go(tmp_path / "j", plan(sweep(80)), runner) == stop  # going on changes nothing
    assert len(runner.started) == 3
    journal = Journal(tmp_path / "j", runner.clock)
    journal.append("retry")
    journal.close()
    runner.score = score
    assert go(tmp_path / "j", plan(sweep(80)), runner).complete
    assert len(runner.started) == 83


def test_a_success_breaks_the_row_and_runs_beside_a_failure_are_waited_for(tmp_path: Path) -> None:
    flaky = lambda one: score(one) if one.index % 3 == 2 else "no"  # noqa: E731
    runner = Runner(Clock(), flaky)
    assert go(tmp_path / "j", plan(sweep(9)), runner).reason == "complete: 3 of 9 runs have a score"
    side = Runner(Clock(), lambda _: "no")
    assert "in a row" in go(tmp_path / "k", plan(sweep(80)), side, slots=2).reason
    assert len(side.started) <= 4
    assert not side.ended


@pytest.mark.parametrize(
    ("made", "slots", "step"),
    [(plan(sweep(3)), 1, 1), (plan(sweep(5)), 2, 41), (plan(halving(4, keep=0.5)), 2, 41)],
    ids=["every byte", "two at a time", "halving"],
)
def test_killed_at_any_byte_the_table_is_the_same(
    made: Plan, slots: int, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal cut off there, with what DVC kept up to then: the same table, nothing finished runs again."""
    monkeypatch.setattr(os, "fsync", lambda _: None)  # thousands of journals

    def mixed(one: Candidate) -> dict[int, float] | str:
        return score(one) if one.index != 1 else "gate: too big"

    whole = Runner(Clock(), mixed, seconds=0.3)
    path = tmp_path / "whole"
    assert go(path, made, whole, slots=slots).complete
    expected, raw = table(state(path)), path.read_bytes()
    ends = [i + d for i, byte in enumerate(raw) if byte == 10 for d in (0, 1)]
    for length in sorted({*range(0, len(raw), step), *ends}):
        cut = tmp_path / "cut"
        cut.write_bytes(raw[:length])
        done = state(cut).outcomes
        runner = Runner(Clock(), mixed, 0.3, store={k: v for k, v in whole.store.items() if k in done})
        assert go(cut, made, runner, slots=slots).complete, length
        after = state(cut)
        assert table(after) == expected, length
        assert not set(runner.started) & set(done), length
        assert not after.begun, length


def test_a_result_that_was_kept_and_not_written_down_is_found(tmp_path: Path) -> None:
    made, runner = plan(sweep(3)), Runner(Clock(), score)
    go(tmp_path / "j", made, runner)
    (tmp_path / "j").unlink()  # the whole journal is lost
    found = Runner(Clock(), score, store=runner.store)
    assert go(tmp_path / "j", made, found).complete
    assert not found.started
    assert all(outcome.found for outcome in state(tmp_path / "j").outcomes.values())


def test_killed_in_any_poll_only_what_ran_is_run_again(tmp_path: Path) -> None:
    made, clock = plan(sweep(6)), Clock()
    runner = Runner(clock, score, seconds=1.0)
    for kill in range(2, 60, 3):

        def poll(run: Any, left: list[int] = [kill]) -> Any:  # noqa: B006
            left[0] -= 1
            if left[0] == 0:
                raise Killed
            return Runner.poll(runner, run)

        runner.poll = poll  # type: ignore[method-assign]
        try:
            go(tmp_path / "j", made, runner, slots=2)
        except Killed:
            continue
        break
    assert len(state(tmp_path / "j").outcomes) == 6
    assert len(runner.store) == 6


def test_a_damaged_line_in_the_middle_is_told_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "j"
    go(path, plan(sweep(2)), Runner(Clock(), score))
    lines = path.read_bytes().splitlines(keepends=True)
    for bad in (b"{}\n", b"[1]\n", b'{"at": 1}\n', b"\xff\x00\n", b'{"event": "x", "at": "1"}\n'):
        path.write_bytes(b"".join([*lines[:2], bad, *lines[2:]]))
        with pytest.raises(DataError, match=r"j:3: .*Try: mv"):
            Journal(path, Clock())
        assert bad in path.read_bytes()


@pytest.mark.parametrize(
    "line",
    ['{"event": "finish", "at": 1, "run": "a"}', '{"event": "session", "at": 1}', '{"event": "sweep", "at": 1}',
     '{"event": "finish", "at": 1, "run": "a", "scores": 3}', '{"bpb": 1.1}', '{"event": ["start"], "at": 1, "x": {}}',
     '[1, 2]', "\x00"],
)  # fmt: skip
def test_a_foreign_file_is_refused_and_left_as_it_is(tmp_path: Path, line: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{line}\n{line}\n")
    with pytest.raises(DataError, match=r"a\.jsonl:1: .*: damaged, needed one JSON object a line\. Try: mv "):
        Journal(path)
    assert path.read_text() == f"{line}\n{line}\n"


def test_a_full_disk_names_the_journal_and_the_half_record_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "a.jsonl")
    journal.append("session", slots=1, price=0.0)
    write = os.write

    def full(descriptor: int, data: bytes) -> int:
        if len(data) < 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(descriptor, data[:20])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match=r"No space left on device: .*a\.jsonl"):
            journal.append("beat")
    journal.close()
    assert [record["event"] for record in read(tmp_path / "a.jsonl")] == ["session"]


def test_waiting_for_a_device_spends_no_budget(tmp_path: Path) -> None:
    runner = Runner(Clock(), score, seconds=1000.0)
    with contextlib.closing(Journal(tmp_path / "j", runner.clock)) as journal:
        runner.clock.sleep(7 * 86400)
        assert drive(plan(sweep(2, hours=1)), journal, runner, slots=1, clock=runner.clock).complete
        assert journal.state.seconds == pytest.approx(2000, abs=2)


def test_an_hour_is_an_hour_whatever_the_wall_clock_says(tmp_path: Path) -> None:
    clock = Clock()
    runner = Runner(clock, score, seconds=1000.0)
    real = clock.sleep

    def back(seconds: float) -> None:
        real(seconds)
        clock.wall -= 7.0  # set back at every look

    clock.sleep = back  # type: ignore[method-assign]
    stop = go(tmp_path / "j", plan(sweep(80, hours=1)), runner)
    assert len(runner.started) == 3
    assert stop.reason == "the budget of 1 hours has 600 seconds left, and the shortest run took 1000"
    other = Clock(now=5.0, wall=0.0)  # another boot, in 1970
    stop = go(tmp_path / "j", plan(sweep(80, hours=1)), Runner(other, score, seconds=1000.0))
    assert not stop.complete
    assert state(tmp_path / "j").seconds < 3600


def test_money_counts_over_sessions_and_what_runs_is_ended(tmp_path: Path) -> None:
    runner = Runner(Clock(), score, seconds=1e6)
    stop = go(tmp_path / "j", plan(sweep(80, dollars=2)), runner, price=4.0)
    assert stop.reason == "the budget of 2 dollars is spent"
    assert runner.ended == runner.started == [plan(sweep(80)).rungs[0][0].name]
    assert state(tmp_path / "j").dollars == pytest.approx(2.0, abs=0.05)  # the last line is a beat
    assert not state(tmp_path / "j").outcomes
    more = Runner(Clock(), score, seconds=100.0)
    go(tmp_path / "j", plan(sweep(80, dollars=4)), more, price=4.0)
    assert len(more.started) in (17, 18)  # 1,800 seconds


def first_then_all(candidate: Candidate) -> frozenset[tuple[str, str]]:
    return frozenset({("data", ""), ("train", candidate.overrides[0])})


def test_what_candidates_share_is_computed_by_the_first_alone(tmp_path: Path) -> None:
    made = plan(sweep(6), first_then_all)
    runner = Runner(Clock(), score)
    go(tmp_path / "j", made, runner, slots=3)
    events = [(one["event"], one.get("run")) for one in read(tmp_path / "j") if one["event"] in ("start", "finish")]
    first = made.rungs[0][0].name
    assert events[:2] == [("start", first), ("finish", first)]
    assert [event for event, _ in events[2:5]] == ["start"] * 3
    assert runner.most == 3
    assert set(runner.slots) == {0, 1, 2}


def test_while_the_first_ones_fail_nothing_runs_beside_them(tmp_path: Path) -> None:
    runner = Runner(Clock(), lambda one: "no" if one.index < 2 else score(one))
    go(tmp_path / "j", plan(sweep(6), first_then_all), runner, slots=4)
    kinds = [one["event"] for one in read(tmp_path / "j") if one["event"] in ("start", "finish")]
    assert kinds[:7] == ["start", "finish", "start", "finish", "start", "finish", "start"]
    assert runner.most == 3


def test_halving_keeps_the_best_third_of_each_rung(tmp_path: Path) -> None:
    runner, made = Runner(Clock(), score), plan(halving())
    assert go(tmp_path / "j", made, runner).complete
    ran = [[one.index for one in rung if one.name in runner.started] for rung in made.rungs]
    assert ran == [list(range(9)), [0, 1, 2], [0]]


def test_halving_drops_who_is_behind_by_more_than_the_noise(tmp_path: Path) -> None:
    made = plan(halving())
    wide = Runner(Clock(), score)
    go(tmp_path / "j", made, wide, margin=lambda _plan, _rung: 0.015)  # neighbours are 0.01 apart
    assert [sum(one.name in wide.started for one in rung) for rung in made.rungs] == [9, 2, 1]
    fine = Runner(Clock(), score)
    stop = go(tmp_path / "k", made, fine, margin=lambda _plan, _rung: 0.005)
    best = made.rungs[0][0].name
    assert stop.complete
    assert stop.reason.startswith(f"the remaining candidates cannot beat {best} within the noise floor: at rung 1 of 3")
    assert "0.01000 bpb behind, and 0.00500 is detectable" in stop.reason
    assert len(fine.started) == 9
    margins = []
    go(tmp_path / "k", made, fine, margin=lambda *_: margins.append(1))
    assert not margins  # judged once: a later floor does not change what was decided


def test_a_grid_is_never_cut_by_the_noise(tmp_path: Path) -> None:
    runner = Runner(Clock(), score)
    go(tmp_path / "j", plan(sweep(5)), runner, margin=lambda _plan, _rung: 1e-9)
    assert len(runner.started) == 5


def test_a_rung_without_a_score_ends_a_halving(tmp_path: Path) -> None:
    runner = Runner(Clock(), lambda _: "no")
    stop = go(tmp_path / "j", plan(halving(3, failures=9)), runner)
    assert stop == Stop("no candidate of rung 1 of 3 has a score")


def test_every_record_is_json_with_both_clocks(tmp_path: Path) -> None:
    go(tmp_path / "j", plan(sweep(2)), Runner(Clock(), score, seconds=100.0))
    found = [json.loads(line) for line in (tmp_path / "j").read_text().splitlines()]
    assert all(isinstance(one["time"], float) and isinstance(one["at"], (int, float)) for one in found)
    assert sum(one["event"] == "beat" for one in found) >= 4
