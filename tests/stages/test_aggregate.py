import csv
import json
from pathlib import Path

import pytest

from golf.runtime.errors import DataError, MissingInput
from stages.aggregate import main
from tests.stages.world import ROOT, write, write_params

SEEDS = {42: 1.114, 314: 1.1145, 999: 1.115}


def report(folder: Path, stage: str, seed: int, **numbers: object) -> None:
    write(folder / "reports" / stage / f"{seed}.json", {"seed": seed, **numbers})


@pytest.fixture
def graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Reports of three finished seeds on the published split."""
    params(tmp_path, list(SEEDS))
    for seed, bpb in SEEDS.items():
        report(tmp_path, "train", seed, steps=300, parameters=1000)
        report(tmp_path, "evaluate", seed, bpb=bpb, nats_per_token=1.88, tokens=62_021_632, bytes=151_080_363)
        report(tmp_path, "gate", seed, total_bytes=15_900_000 + seed, code_bytes=50_000, model_bytes=15_850_000 + seed)
        report(tmp_path, "audit", seed, passed=True)
        report(tmp_path, "quantize", seed, pre_bpb=1.12, post_bpb=1.1215)
        write(tmp_path / f"reports/curves/{seed}.csv", "step,tokens,loss\n1,8,6.5\n2,16,5.25\n")
        write(tmp_path / f"runs/compress/{seed}/streams.csv", "stream,raw,coded,codec\na,9,15000000,rans\nb,9,7,lzma\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["stages.aggregate"])
    return tmp_path


def params(folder: Path, seeds: list[int], baseline: str = "pr549") -> None:
    write_params(folder, seeds=seeds, stats={"baseline": str(ROOT / f"golf/stats/baselines/{baseline}.json")})


def result() -> dict:
    return json.loads(Path("reports/aggregate.json").read_text())


def test_three_seeds_against_a_record(graph: Path) -> None:
    main()
    found = result()
    assert found["seeds"] == [42, 314, 999]
    assert found["bpb_mean"] == 1.1145
    assert found["bpb_std"] == 0.0005  # divided by n - 1
    assert found["loss_mean"] == 1.88
    assert found["artifact_bytes_max"] == 15_900_999
    assert found["slack_bytes"] == 99_001
    assert found["test"]["kind"] == "welch"
    assert found["test"]["p"] < found["test_with_margin"]["p"] < 0.01
    assert found["comparable"] is True
    assert found["flags"] == []
    assert "better by more than 0.005 nats" in found["verdict"]
    assert len(found) <= 12


def test_what_dvc_shows_of_it_has_no_text_and_adds_up(graph: Path) -> None:
    main()
    numbers = json.loads((graph / "reports/result.json").read_text())
    assert len(numbers) <= 12
    assert all(isinstance(value, (int, float)) for value in numbers.values())
    assert numbers["p_with_margin"] == result()["test_with_margin"]["p"]
    drawn = {path.stem: list(csv.DictReader(path.open())) for path in (graph / "reports/drawn").iterdir()}
    assert {row["seed"] for rows in drawn.values() for row in rows} == {"42", "314", "999"}
    assert [row["loss"] for row in drawn["loss"]] == ["6.5", "5.25"] * 3
    assert {row["gap_bpb"] for row in drawn["gap"]} == {"0.0015"}
    for seed in SEEDS:
        sizes = {row["stream"]: int(row["bytes"]) for row in drawn["streams"] if row["seed"] == str(seed)}
        assert sizes["a"] == 15_000_000
        assert sum(sizes.values()) == 15_900_000 + seed


@pytest.mark.parametrize(
    ("name", "bad"), [("reports/curves/314.csv", "step\n1\n"), ("runs/compress/314/streams.csv", "stream,coded\na,\n")]
)
def test_a_missing_or_cut_table_is_named(graph: Path, name: str, bad: str) -> None:
    (graph / name).unlink()
    with pytest.raises(MissingInput, match=rf"{name}: no such table.*Try: dvc repro \w+@314"):
        main()
    write(graph / name, bad)
    with pytest.raises(DataError, match=rf"{name}:2: found .*needed the columns st"):
        main()
    assert not Path("reports/aggregate.json").exists()


def test_other_text_is_said(graph: Path) -> None:
    for seed, bpb in SEEDS.items():
        report(graph, "evaluate", seed, bpb=bpb, nats_per_token=1.0, tokens=100, bytes=240)
    params(graph, list(SEEDS), "naive-baseline")
    main()
    assert result()["comparable"] is False
    assert "no claim against Naive baseline: other text" in result()["verdict"]
    assert "p" not in json.loads(Path("reports/result.json").read_text())


def test_exactly_the_seeds_asked_for(graph: Path) -> None:
    params(graph, [42])
    main()
    assert result()["seeds"] == [42]
    assert result()["test"] is None
    assert result()["bpb_std"] is None
    params(graph, [42, 7])
    with pytest.raises(MissingInput, match=r"reports/evaluate/7.json: .*Try: dvc repro evaluate@7"):
        main()


@pytest.mark.parametrize("stage", ["train", "quantize", "gate", "evaluate", "audit"])
def test_a_missing_or_foreign_report_is_named(graph: Path, stage: str) -> None:
    path = graph / f"reports/{stage}/314.json"
    content = json.loads(path.read_text())
    path.unlink()
    with pytest.raises(MissingInput, match=rf"{stage}/314.json: .*Try: dvc repro {stage}@314"):
        main()
    write(path, content | {"seed": 42})
    with pytest.raises(DataError, match=rf"{stage}/314.json: found the report of seed 42, needed seed 314"):
        main()
    for bad in ("{", "[]", "\x00"):
        write(path, bad)
        with pytest.raises(DataError, match=rf"{stage}/314.json"):
            main()
    assert not Path("reports/aggregate.json").exists()


@pytest.mark.parametrize(
    ("stage", "numbers", "text"),
    [
        ("evaluate", {"bpb": 1.1, "nats_per_token": 1.0, "tokens": 5, "bytes": 151_080_363}, "different text .tokens"),
        ("evaluate", {"bpb": None, "nats_per_token": 1.0, "tokens": 62_021_632, "bytes": 151_080_363}, "bpb: found"),
        ("evaluate", {"bpb": "x", "nats_per_token": 1.0, "tokens": 62_021_632, "bytes": 151_080_363}, "bpb: found"),
        ("gate", {"total_bytes": 16_000_001, "code_bytes": 50_000}, "16,000,001 bytes, needed 16,000,000"),
        ("gate", {"total_bytes": 15_000_000, "code_bytes": 50_001}, "different programs"),
        ("audit", {"passed": False}, "passed: found False"),
        ("audit", {}, "passed: found None"),
    ],
)
def test_seeds_that_do_not_belong_together_are_refused(graph: Path, stage: str, numbers: dict, text: str) -> None:
    report(graph, stage, 314, **numbers)
    with pytest.raises(DataError, match=text):
        main()


def test_what_weakens_the_result_is_flagged(graph: Path) -> None:
    report(graph, "train", 42, resumed=True, parameters=1000)
    report(graph, "train", 314, clock="stretched x2", parameters=1001)
    main()
    flags = " | ".join(result()["flags"])
    assert "seed 42: its training was resumed" in flags
    assert "seed 314: clock stretched x2" in flags
    assert "mixed configurations" in flags
