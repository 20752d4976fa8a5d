"""One switch at a time: which runs are asked for, and what is said of each."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from golf.runtime.errors import ConfigError, DataError, MissingInput
from golf.stats.noise import Component, NoiseFloor
from pipeline.campaign import ablate
from pipeline.campaign.sides import Side
from pipeline.campaign.sweep.candidates import configurations
from tests.pipeline.campaign.graph import git, graph, write

FLOOR = NoiseFloor(Component(1e-3, 20), Component(1e-3, 20), None, Component(1e-3, 20), 24, 4, 1)


def side(name: str, *scores: float, size: int = 1000) -> Side:
    return Side(name, "DVC", dict(enumerate(scores)), 1e6, 2.5, total_bytes=size)


def test_each_switch_is_alone_against_the_base() -> None:
    made = ablate.sweep_of(["quant.bits=5,7", "model.smear_gate=false", "quant.bits=5"], "a", 2.0, None)
    assert configurations(made) == [(), ("quant.bits=5",), ("quant.bits=7",), ("model.smear_gate=false",)]
    assert (made.hours, made.dollars) == (2.0, 0.0)
    with pytest.raises(ConfigError, match="needed one or more"):
        ablate.sweep_of([], "a", None, None)
    with pytest.raises(ConfigError, match=r"needed section\.key"):
        ablate.sweep_of(["quant"], "a", None, None)


@pytest.mark.parametrize(
    ("difference", "interval", "before", "expected"),
    [
        (-0.01, (-0.02, -0.001), None, "helps"),
        (-0.01, (-0.02, 0.001), None, "within noise"),
        (0.01, (0.001, 0.02), None, "harmful"),
        (0.01, (0.001, 0.02), 0.005, "harmful"),
        (0.01, (0.001, 0.02), -0.005, "harmful after quantisation"),
        (0.01, None, -0.005, "no claim: no spread known"),
    ],
)
def test_the_verdict(difference: float, interval: Any, before: float | None, expected: str) -> None:
    assert ablate.word(difference, interval, before) == expected


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Side]:
    monkeypatch.chdir(graph(tmp_path, {42: 1.2}))
    sides = {
        "a": side("a", 1.2, 1.21, 1.22),
        "b": side("b", 1.19, 1.2, 1.21, size=900),
        "c": side("c", 1.3, 1.31, 1.32),
    }
    numbers = {
        "a": {"before": 1.1, "ms_per_step": 50.0},
        "b": {"before": 1.09},
        "c": {"before": 1.0, "ms_per_step": 49},
    }
    rows = [{"run": name, "bpb": 1.0, "overrides": [] if name == "a" else [f"x.y={name}"]} for name in sides]
    rows.append({"run": "d", "bpb": None, "overrides": ["x.y=d"]})
    monkeypatch.setattr(ablate.verb, "run", lambda *_, **__: {"runs": rows, "stopped": "complete"})
    monkeypatch.setattr(ablate, "kept_experiment", lambda name, _root: sides.get(name))
    monkeypatch.setattr(ablate, "details", lambda name, *_: numbers[name])
    monkeypatch.setattr(ablate, "measure", lambda _root: FLOOR)
    return sides


def go() -> dict[str, Any]:
    return ablate.run(ablate.sweep_of(["quant.bits=5"], "a", None, None), jobs=1, retry=False, tell=print)


def test_the_table_of_what_ended(measured: dict[str, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    found = go()
    assert [one["switch"] for one in found["effects"]] == ["x.y=b", "x.y=c"]
    first, second = found["effects"]
    assert first["difference"] == pytest.approx(-0.01)
    assert (first["verdict"], first["total_bytes"], first["ms_per_step"]) == ("helps", -100, None)
    assert (second["verdict"], second["ms_per_step"]) == ("harmful after quantisation", -1.0)
    text = "\n".join(ablate.lines(found))
    assert "noise floor, same seeds" in text
    json.dumps(found, allow_nan=False)

    def nothing(_root: Path) -> NoiseFloor:
        raise DataError("no two runs")

    monkeypatch.setattr(ablate, "measure", nothing)
    alone = go()
    assert alone["effects"][0]["verdict"] == "within noise"  # these seeds' own spread is 0.01
    assert "no noise floor: no two runs" in ablate.lines(alone)[-1]


def test_without_the_base_there_is_no_table(measured: dict[str, Side]) -> None:
    del measured["a"]
    with pytest.raises(MissingInput, match="a: no such experiment any more"):
        go()


def test_details_are_read_from_the_commit_and_dvc_s_cache(tmp_path: Path) -> None:
    timing = json.dumps({"ms_per_step": 65.5})
    digest = hashlib.md5(timing.encode()).hexdigest()
    path = "reports/timing/train/42.json"
    write(tmp_path / "reports/quantize/42.json", {"pre_bpb": 1.5})
    write(tmp_path / "dvc.lock", json.dumps({"stages": {"train@42": {"outs": [{"path": path, "md5": digest}]}}}))
    git(tmp_path, "init", "-q", ".")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "x")
    git(tmp_path, "update-ref", "refs/exps/aa/bb/a-1", "HEAD")
    assert ablate.details("a-1", tmp_path, [42]) == {"before": 1.5}  # the timing isn't here
    write(tmp_path / f".dvc/cache/files/md5/{digest[:2]}/{digest[2:]}", timing)
    assert ablate.details("a-1", tmp_path, [42]) == {"before": 1.5, "ms_per_step": 65.5}
    assert ablate.details("a-1", tmp_path, [42, 7]) == {}
    assert ablate.details("gone", tmp_path, [42]) == {}
