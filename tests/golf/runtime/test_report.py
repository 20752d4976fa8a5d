"""Reports: a result that repeats byte for byte, and apart from it what never does."""

import json
import time
from pathlib import Path

import pytest

from golf.runtime.errors import DataError, MissingInput
from golf.runtime.report import Stopwatch, read_report, report_path, timing_path, write_report, write_timing


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_places() -> None:
    assert report_path("verify").as_posix() == "reports/verify.json"
    assert report_path("train", 42).as_posix() == "reports/train/42.json"
    assert timing_path("verify").as_posix() == "reports/timing/verify.json"
    assert timing_path("train", 0).as_posix() == "reports/timing/train/0.json"


def test_a_result_has_no_time_host_or_path() -> None:
    write_report("gate", {"total_bytes": 5}, seed=42)
    first = report_path("gate", 42).read_bytes()
    time.sleep(0.01)
    write_report("gate", {"total_bytes": 5}, seed=42)
    assert report_path("gate", 42).read_bytes() == first
    assert set(json.loads(first)) <= {"seed", "total_bytes"}


def test_timing_holds_the_rest() -> None:
    watch = Stopwatch()
    with watch.part("a"):
        time.sleep(0.02)
    with watch.part("a"), watch.part("b"):
        time.sleep(0.02)
    with pytest.raises(ZeroDivisionError), watch.part("broken"):
        raise ZeroDivisionError
    write_timing("train", watch, seed=42, device="cpu")
    timing = json.loads(timing_path("train", 42).read_text())
    assert timing["device"] == "cpu"
    assert {"started_at", "seconds", "host", "python", "platform", "cpus"} <= set(timing)
    assert timing["parts"]["a"] >= 0.04
    assert timing["parts"]["b"] >= 0.02
    assert set(timing["parts"]) == {"a", "b", "broken"}
    assert timing["seconds"] >= timing["parts"]["a"]
    assert abs(timing["started_at"] - time.time()) < 60


def test_a_report_is_read_back_or_refused_with_the_command_that_makes_it() -> None:
    path = report_path("gate", 42)
    with pytest.raises(MissingInput, match=r"gate/42\.json: no such report, .* Try: dvc repro gate@42$"):
        read_report(path, "gate@42")
    write_report("gate", {"total_bytes": 5}, seed=42)
    assert read_report(path, "gate@42") == {"seed": 42, "total_bytes": 5}
    for content, said in ((b"{", "not JSON"), (b"\xff", "not JSON"), (b"[" * 100_000, "too deeply"), (b"[]", "list")):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"gate/42\.json: .*{said}.* Try: dvc repro -f -s gate@42$"):
            read_report(path, "gate@42")
