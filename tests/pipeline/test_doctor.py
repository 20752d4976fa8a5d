"""What the doctor says of what it finds; that it says it in time, and never with a traceback."""

import os
import random
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from golf.data.shards import write_shard
from golf.runtime.errors import FairwayError
from golf.runtime.files import write_json
from pipeline import cli
from pipeline.doctor import hardware, plan, report
from pipeline.doctor.checks import Result, child, run
from tests.stages.world import write_params

H100 = {"name": "NVIDIA H100 80GB HBM3", "memory.total": "81559", "memory.used": "4", "clocks.max.sm": "1980",
        "power.limit": "700.00", "power.default_limit": "700.00", "ecc.mode.current": "Enabled",
        "ecc.errors.uncorrected.volatile.total": "0", "mig.mode.current": "Disabled"}  # fmt: skip


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_params(tmp_path)
    return tmp_path


def eight(**changes: str) -> list[dict[str, str]]:
    """Eight H100s, the last one with ``changes``."""
    rows = [{"index": str(index), **H100} for index in range(8)]
    rows[-1] |= {key.replace("__", "."): value for key, value in changes.items()}
    return rows


def test_checks_run_side_by_side_and_keep_their_order() -> None:
    def slow() -> list[Result]:
        time.sleep(0.3)
        return [Result("slow", "ok", "")]

    begin = time.monotonic()
    found = run({"a": slow, "b": slow, "c": lambda: [Result("c1", "ok", ""), Result("c2", "warn", "")]}, 5)
    assert [result.name for result in found] == ["slow", "slow", "c1", "c2"]
    assert time.monotonic() - begin < 0.55


def test_a_crash_a_refusal_and_a_hang_are_failed_lines() -> None:
    def crashes() -> list[Result]:
        return [Result("crash", "ok", str({}["nothing"]))]

    def refuses() -> list[Result]:
        raise FairwayError("disk: full", hint="df -h")

    def hangs() -> list[Result]:
        time.sleep(30)
        return []

    crashed, refused, hung, fine = run(
        {"crash": crashes, "refusal": refuses, "hang": hangs, "fine": lambda: [Result("fine", "ok", "yes")]}, 0.5
    )
    assert (crashed.state, crashed.found) == ("fail", "the check itself failed: KeyError: 'nothing'")
    assert (refused.state, refused.found, refused.todo) == ("fail", "disk: full", "df -h")
    assert (hung.name, hung.state, hung.found) == ("hang", "fail", "no answer within 0.5 s")
    assert fine.state == "ok"


def test_a_child_that_hangs_is_ended_with_its_children(tmp_path: Path) -> None:
    with pytest.raises(FairwayError, match=r"no answer within 0\.3 s"):
        child(["bash", "-c", f"sleep 60 & echo $! > {tmp_path}/pid; wait"], 0.3)
    deadline, pid = time.monotonic() + 5, int((tmp_path / "pid").read_text())
    while (state := Path(f"/proc/{pid}/stat")).exists() and state.read_text().split()[2] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_any_failure_makes_the_exit_code_and_json_says_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = {"a": lambda: [Result("a", "ok", "fine")], "b": lambda: [Result("b", "warn", "hm", "look")]}
    monkeypatch.setattr(report, "CHECKS", lines)
    assert report.diagnose(as_json=False)
    assert capsys.readouterr().out.splitlines()[:2] == [
        "ok       a            fine",
        "warn     b            hm. Try: look",
    ]
    monkeypatch.setattr(report, "CHECKS", {**lines, "c": lambda: [Result("c", "fail", "no")]})
    assert not report.diagnose(as_json=True)
    assert '"ok": false' in capsys.readouterr().out
    done = CliRunner().invoke(cli.build(), ["doctor"])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1].startswith("not ready: mend what failed first (1 ok, 1 warn, 1 fail; ")


@pytest.mark.parametrize(
    ("changes", "state", "said"),
    [
        ({}, "ok", "8 x NVIDIA H100 80GB HBM3, 80 GiB, 1980 MHz at most, ECC Enabled, MIG Disabled"),
        ({"ecc__errors__uncorrected__volatile__total": "2"}, "fail", "GPU 7: uncorrected ECC errors"),
        ({"ecc__errors__uncorrected__volatile__total": "[N/A]"}, "ok", "8 x"),
        ({"mig__mode__current": "Enabled"}, "warn", "GPU 7: MIG is on"),
        ({"memory__used": "20000"}, "warn", "GPU 7: 20000 MiB in use"),
        ({"power__limit": "350.00"}, "warn", "GPU 7: power held to 350.00 of 700.00 W"),
        ({"name": "NVIDIA A100-SXM4-80GB"}, "warn", "chips of several kinds"),
    ],
)
def test_gpus_are_judged_by_the_worst(changes: dict[str, str], state: str, said: str) -> None:
    found = hardware.judge_gpus(eight(**changes), 8, by_clock=True, strict=True)
    assert found.state == state
    assert said in found.found
    assert bool(found.todo) == (state != "ok")


@pytest.mark.parametrize(
    ("strict", "by_clock", "state"), [(True, True, "fail"), (False, True, "warn"), (True, False, "ok")]
)
def test_fewer_gpus_than_the_clock_counts_on(strict: bool, by_clock: bool, state: str) -> None:
    assert hardware.judge_gpus(eight()[:4], 8, by_clock=by_clock, strict=strict).state == state


def test_nvidia_smi_is_read_as_it_answers(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = here / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    answer = ", ".join(eight()[0][key] for key in hardware.QUERY)
    tool.write_text(f"#!/bin/sh\necho '{answer}'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(hardware, "uses_gpu", lambda _: True)
    assert hardware.gpus()[0].found.startswith("1 x NVIDIA H100 80GB HBM3, 80 GiB")
    tool.write_text("#!/bin/sh\necho 'No devices were found'\nexit 6\n")
    assert hardware.gpus()[0].state == "fail"
    assert "No devices were found" in hardware.gpus()[0].found


@pytest.mark.parametrize(
    ("needed", "rate", "peak", "state"),
    [(0, 780, 989.4, "ok"), (0, 500, 989.4, "warn"), (0, 0.1, None, "ok"), (700, 780, 989.4, "ok"),
     (700, 690, 989.4, "fail"), (700, 0.1, None, "fail"), (300, 500, 989.4, "ok")],
)  # fmt: skip
def test_products_are_held_against_the_parameter_else_the_chip(
    here: Path, needed: float, rate: float, peak: float | None, state: str
) -> None:
    write_params(here, hardware={"min_tflops": float(needed)})
    devices = [{"name": "H100", "tflops": 800, "peak": peak}, {"name": "H100", "tflops": rate, "peak": peak}]
    found = hardware.judge_products({"devices": devices})
    assert found.state == state
    assert f"{rate:g} TFLOP/s, the slowest of 2" in found.found


def test_attention_names_what_would_be_faster() -> None:
    missing = {"name": "fa3", "missing": "package flash_attn_interface is not installed", "get": "build it"}
    rows: list[dict[str, Any]] = [missing, {"name": "cudnn", "tflops": 400}, {"name": "sdpa", "tflops": 300}]
    found = hardware.judge_attention({"chosen": "cudnn", "reason": "r", "rows": rows})
    assert (found.state, found.todo) == ("warn", "build it")
    found = hardware.judge_attention({"chosen": "sdpa", "reason": "r", "rows": rows})
    assert (found.state, found.todo) == ("warn", "dvc exp run -S hardware.attention=cudnn")
    found = hardware.judge_attention({"chosen": "fa3", "reason": "r", "rows": rows})
    assert (found.state, found.todo) == ("fail", "build it")
    assert hardware.judge_attention({"chosen": "sdpa", "reason": "r", "rows": rows[2:]}).state == "ok"


def test_a_probe_that_dies_fails_each_of_its_lines(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = SimpleNamespace(stdout='{"part": "exchange", "error": "no all-reduce within 30 s"}\n', stderr="Bus error\n")
    monkeypatch.setattr(hardware, "child", lambda *_: SimpleNamespace(**vars(done), returncode=-7))
    exchange, products, attention = hardware.measured()
    assert exchange.found.startswith("no all-reduce within 30 s; no NCCL_* set")
    assert {products.state, attention.state} == {"fail"}
    assert products.found == "the measurement ended with -7: Bus error"


def test_disks_that_are_one_add_up(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=100 * 2**30, free=100 * 2**30)
    monkeypatch.setattr(hardware.shutil, "disk_usage", lambda _: usage)
    first = hardware.disks()
    assert {result.state for result in first} == {"ok"}
    usage.free = first[0].facts["needed_bytes"] - 1
    full = hardware.disks()[0]
    assert (full.name, full.state) == ("disk root", "fail")
    assert full.todo
    usage.free = first[0].facts["needed_bytes"]
    assert hardware.disks()[0].state == "warn"


def test_the_published_shards_are_counted_until_they_are_there(here: Path) -> None:
    write_params(here, data={"source": "fineweb"})
    before = hardware.needed_bytes(here, fineweb=True).cache
    (here / "data/shards").mkdir(parents=True)
    assert before - hardware.needed_bytes(here, fineweb=True).cache == 81 * 200_000_000


def test_the_dataset_is_held_to_its_index(here: Path) -> None:
    assert plan.dataset()[0].state == "skipped"
    write_shard(here / "data/shards/train_000000.bin", np.arange(1000, dtype=np.uint16))
    index = {"vocab_size": 2048, "bos_id": 1, "splits": {"train": {"tokens": 1000}}}
    write_json(here / "data/shards/shards.json", index)
    assert plan.dataset()[0].state == "warn"
    write_json(here / "reports/verify.json", {"files": 1})
    assert plan.dataset()[0].found == "verified; tokens: 1,000 train"
    shard = here / "data/shards/train_000000.bin"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    with pytest.raises(FairwayError, match=r"train_000000\.bin"):
        plan.dataset()
    shard.unlink()
    with pytest.raises(FairwayError):
        plan.dataset()


GRAPH = {
    "fetch": {"outs": ["raw"]},
    "train": {"matrix": {}, "deps": ["raw"], "outs": ["runs/${item.seed}"], "metrics": [{"m/${item.seed}.json": {}}]},
    "gate": {"matrix": {}, "deps": ["runs/${item.seed}/model"]},
    "aggregate": {"deps": ["m"]},
}


@pytest.mark.parametrize(
    ("status", "following"),
    [
        ({}, []),
        ({"gate@2": []}, ["gate@2"]),
        ({"train@1": []}, ["train@1", "gate@1", "aggregate"]),
        ({"fetch": []}, ["fetch", "train@1", "train@2", "gate@1", "gate@2", "aggregate"]),
    ],
)
def test_what_follows_a_change(status: dict, following: list[str]) -> None:
    assert plan.follow(GRAPH, status, [1, 2]).following == following


def test_what_follows_is_closed_under_reading() -> None:
    """Of random graphs: every stage that reads what a listed one writes is listed, and nothing else is."""
    random.seed(0)
    for _ in range(100):
        graph = {f"s{n}": {"deps": [f"d{m}/x" for m in range(n) if random.random() < 0.2], "outs": [f"d{n}"]}
                 for n in range(12)}  # fmt: skip
        changed = [name for name in graph if random.random() < 0.2]
        listed = set(plan.follow(graph, dict.fromkeys(changed), []).following)
        reads = {name: {f"s{dep[1:-2]}" for dep in stage["deps"]} for name, stage in graph.items()}
        assert listed == {name for name in graph if name in changed or reads[name] & listed}


def test_minutes_and_money_from_the_clock_and_earlier_timings(here: Path) -> None:
    stages = ["train@42", "train@314", "evaluate@42", "gate@42"]
    assert plan.estimate(stages).state == "skipped"
    write_params(here, train={"steps": 0, "seconds": 600.0, "gpus": 8}, hardware={"dollars_per_hour": 20.0})
    found = plan.estimate(stages)  # on one CPU: 8 times the clock, twice, and the evaluation's budget
    assert found.facts["seconds"] == 2 * 8 * 600 + 600
    assert found.found == "at least 170 minutes; not known: gate@42; $56.67 at $20 an hour"
    write_json(here / "reports/timing/gate/42.json", {"seconds": 30.0})
    write_json(here / "reports/timing/evaluate/42.json", {"seconds": 300.0})
    assert plan.estimate(stages).facts["seconds"] == 2 * 8 * 600 + 300 + 30
    (here / "reports/timing/gate/42.json").write_text('{"seconds": 3')
    assert plan.estimate(stages).facts["unknown"] == ["gate@42"]
