import json
import math
import random
from pathlib import Path

import pytest

from golf.runtime.errors import DataError, MissingInput
from pipeline.campaign import database
from pipeline.campaign.tracked import SeedRun, State, read_histories, read_tracked
from pipeline.mlflow_store import absolute_uri, open_store
from pipeline.report import files, own, published
from pipeline.report.content import Omissions, columns, gather, thin
from tests.pipeline.campaign.graph import graph, log_state
from tests.pipeline.report.sample import effect, ledger, record, write

EMPTY = "seeds: [42]\nstats: {}\ntracking: {uri: sqlite:///none.db, experiment: test, notify: ''}\n"


def state(name: str = "a", seeds: int = 3, params: dict[str, str] | None = None, **metrics: float) -> State:
    known = {"evaluate.bpb": 1.1, "evaluate.bytes": 151_080_363.0, "audit.passed": 1.0, "gate.total_bytes": 15e6,
             "seconds.train": 600.0, "seconds.audit": 60.0, **metrics}  # fmt: skip
    ran = {"train": "2026-01-02T00:00:00+00:00", "evaluate": "2026-01-02T01:00:00+00:00"}
    found = [
        SeedRun(seed, {**known, "gate.total_bytes": known["gate.total_bytes"] + seed}, "H100", ran, f"{name}{seed}")
        for seed in range(seeds)
    ]
    return State(name, name, {}, params or {}, tuple(found), 1000)


def decoded(found: dict) -> list[dict]:
    lists = {name: column if isinstance(column, list) else [column["values"][i] for i in column["of"]]
             for name, column in found.items()}  # fmt: skip
    return [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]


@pytest.fixture
def left_out() -> Omissions:
    return Omissions()


def test_columns_are_the_rows_again() -> None:
    draw = random.Random(0)
    cells = [None, "", "a", "a", "b", 1, 2.5, True, "\u2028", "é"]
    rows = [{"text": draw.choice(["x", "y", None]), "any": draw.choice(cells), "n": draw.random()} for _ in range(200)]
    found = decoded(columns(rows))
    assert [row["any"] for row in found] == [row["any"] for row in rows]
    assert [row["n"] for row in found] == pytest.approx([row["n"] for row in rows], rel=1e-8)
    assert columns([]) == {}


def test_what_json_has_no_number_for_is_none() -> None:
    assert columns([{"a": math.nan}, {"a": math.inf}, {"a": 1.0}]) == {"a": [None, None, 1.0]}


@pytest.mark.parametrize("count", [0, 1, 79, 80, 81, 5000])
def test_a_thinned_curve_keeps_its_ends(count: int) -> None:
    points = [(step, float(step)) for step in range(count)]
    found = thin([*points, (count, math.nan)], 80)
    assert len(found) == min(count, 80)
    assert found[:1] + found[-1:] == points[:1] + points[-1:]
    assert found == sorted(set(found))


def test_a_state_is_a_line_with_its_legality_and_its_text() -> None:
    line = own.entry(state())
    assert (line["legal"], line["fits"], line["seeds"], line["bytes"]) == (True, True, 3, 15_000_002)
    assert line["text"] == own.WHOLE_SPLIT
    assert own.entry(state(**{"audit.passed": 0.0}))["legal"] is False
    assert own.entry(state(**{"gate.total_bytes": 16e6}))["fits"] is False
    assert own.entry(state(**{"gate.total_bytes": 16e6, "gate.limit": 17e6}))["fits"] is True
    assert own.entry(state(**{"audit.passed": math.nan}))["legal"] is None
    assert own.entry(state(**{"evaluate.bytes": 5000.0}))["text"] == "text of 5,000 bytes"
    assert own.entry(state(seeds=0))["bpb"] is None


def test_what_a_restored_stage_took_is_not_spent_again(left_out: Omissions) -> None:
    priced = state(seeds=1, params={"hardware.dollars_per_hour": "36"})
    again = State(
        "b", "b", {}, priced.params, (SeedRun(0, priced.seeds[0].metrics, "H100", {}, "b0", frozenset({"train"})),)
    )
    runs = own.runs([priced, again], left_out)
    assert [run["seconds"] for run in runs] == [660.0, 60.0]
    assert [run["dollars"] for run in runs] == pytest.approx([6.6, 0.6])
    assert {line["stage"]: (line["seconds"], line["runs"]) for line in own.spend([priced, again])} == {
        "train": (600.0, 1), "audit": (120.0, 2),
    }  # fmt: skip


@pytest.mark.parametrize("price", ["0", "nan", "-3", "free"])
def test_without_a_price_there_are_no_dollars(price: str, left_out: Omissions) -> None:
    assert own.runs([state(params={"hardware.dollars_per_hour": price})], left_out)[0]["dollars"] is None


def test_scores_that_are_none_are_named(left_out: Omissions) -> None:
    own.runs([state("odd", seeds=1, **{"evaluate.bpb": math.nan}), state("bare", seeds=0)], left_out)
    assert [one["what"] for one in left_out.found] == ["score of odd, seed 0", "MLflow run bare"]


def test_only_parameters_that_differ_are_kept() -> None:
    found = own.params(
        [state(params={"a": "1", "b": "2"}), state(params={"a": "1", "b": "3"}), state(params={"a": "1"})]
    )
    assert found == {"b": {"values": ["2", "3", None], "of": [0, 1, 2]}}


def test_published_records_keep_their_standing(left_out: Omissions) -> None:
    rows = [
        record("one", 1.1),
        record("two", 1.2, legal=False, text=None, date="", significance=None),
        record("three", 1.3, sizes={"stated": None, "logged": {"value": 16_000_001}}),
        {"folder": "bad"},
        7,
    ]
    found = published.entries({"rows": rows, "failed": {"four": "no score"}}, left_out)
    assert [(line["name"], line["legal"], line["fits"]) for line in found] == [
        ("One", True, True), ("Two", False, True), ("Three", True, False),
    ]  # fmt: skip
    assert found[0]["std"] == pytest.approx(0.001 / 2**0.5)
    assert [line["text"] for line in found[:2]] == [own.WHOLE_SPLIT, "unknown text"]
    assert [one["what"] for one in left_out.found] == [f"published record {name}" for name in ("bad", "5", "four")]


def test_records_that_are_named_must_be_there(tmp_path: Path, left_out: Omissions) -> None:
    with pytest.raises(MissingInput, match="no such checkout"):
        published.read(tmp_path, tmp_path / "none", left_out)
    with pytest.raises(DataError, match="found no rows"):
        published.read(tmp_path, write(tmp_path, "foreign.json", {"a": 1}), left_out)
    assert published.read(tmp_path, None, left_out) == {}
    write(tmp_path, str(published.KEPT), '{"rows": [')
    assert published.read(tmp_path, None, left_out) == {}
    assert "not JSON" in left_out.found[0]["why"]


def test_ledgers_and_what_is_wrong_with_them(tmp_path: Path, left_out: Omissions) -> None:
    write(tmp_path, "logs/sweep/good.json", ledger("good"))
    write(tmp_path, "logs/sweep/good.jsonl", "")
    write(tmp_path, "logs/sweep/unpriced.json", ledger("unpriced", dollars=None, rest_dollars=None))
    write(tmp_path, "logs/sweep/half.json", '{"sweep": "ha')
    write(tmp_path, "logs/sweep/foreign.json", {"something": "else"})
    write(tmp_path, "logs/sweep/list.json", [1])
    (tmp_path / "logs/sweep/folder.json").mkdir()
    head = {"event": "sweep", "at": 0, "spec": {}, "state": "", "branch": "main"}
    journal = [head, {"event": "session", "slots": 1, "price": 36, "at": 0},
               {"event": "start", "run": "a", "at": 1}, {"event": "beat", "at": 100}]  # fmt: skip
    write(tmp_path, "logs/sweep/killed.jsonl", "".join(map("{}\n".format, map(json.dumps, journal))) + '{"event": "be')
    write(tmp_path, "logs/sweep/damaged.jsonl", "no json\n{}\n")
    found = {one["sweep"]: one for one in files.ledgers(tmp_path, left_out)}
    assert list(found) == ["good", "unpriced", "killed"]
    assert (found["good"]["runs"], found["good"]["failed"], found["unpriced"]["dollars"]) == (2, 1, None)
    assert (found["killed"]["seconds"], found["killed"]["dollars"]) == (100, 1.0)
    why = {Path(one["what"]).name: one["why"] for one in left_out.found}
    assert why["foreign.json"] == "it has no 'dollars': half-written, or of another program"
    assert "Unterminated" in why["half.json"]
    assert "needed an object" in why["list.json"]
    assert "directory" in why["folder.json"]
    assert "damaged" in why["damaged.jsonl"]


def test_ablations_machines_and_streams(tmp_path: Path, left_out: Omissions) -> None:
    write(tmp_path, "logs/ablate/a.json", {"effects": [effect("x=1"), effect("y=2", interval=None, difference=None)]})
    write(tmp_path, "logs/ablate/b.json", {"effects": [effect("x=1", difference="much")]})
    checks = [
        {"name": "products", "found": "ok", "facts": {"devices": [{"name": "H100", "tflops": 700, "peak": 989}]}},
        {"name": "attention", "facts": {"chosen": "fa3", "rows": [{"name": "fa3", "tflops": 500}, {"name": "x"}]}},
    ]
    write(tmp_path, "logs/doctor/pod.json", {"checks": checks})
    write(tmp_path, "logs/doctor/slow.json", {"checks": [{"name": "products", "found": "it hangs", "facts": {}}]})
    write(tmp_path, "runs/compress/42/streams.csv", "stream,raw,coded,codec\na,20,10,rans\nb,5,5,stored\n")
    write(tmp_path, "reports/gate/42.json", {"code_bytes": 7, "model_bytes": 18})
    write(tmp_path, "runs/compress/7/streams.csv", "stream,raw,coded,codec\na,20,ten,rans\n")
    found = files.effects(tmp_path, left_out)
    assert [(one["switch"], one["low"]) for one in found] == [("x=1", 0.001), ("y=2", None)]
    [machine] = files.machines(tmp_path, left_out)
    assert (machine["tflops"], machine["attention"], machine["chosen"]) == (700, 500, "fa3")
    rows = files.streams(tmp_path, [42, 7, 8], left_out)
    assert {row["stream"]: row["bytes"] for row in rows} == {"a": 10, "b": 5, "program": 7, "header and index": 3}
    assert [Path(one["what"]).name for one in left_out.found] == ["b.json", "slow.json", "streams.csv"]


def test_the_log_s_bars_and_broken_rows(tmp_path: Path, left_out: Omissions) -> None:
    rows = [
        "| idea | measured | verdict |",
        "|---|---|---|",
        r"| `a|b` | c \| d | e |",
        "| two | cells |",
        "| ` | b | c |",
    ]
    write(tmp_path, "docs/log.md", "\n".join(["# Log", *rows]))
    assert files.findings_log(tmp_path, left_out) == [["`a|b`", "c | d", "e"], ["`", "b", "c"]]
    assert left_out.found == [{"what": "docs/log.md:5", "why": "found 2 cells, needed idea, measured and verdict"}]
    (tmp_path / "docs/log.md").write_bytes(b"\xff|a|")
    assert files.findings_log(tmp_path, left_out) == []


def test_a_folder_where_a_file_belongs_is_named(tmp_path: Path, left_out: Omissions) -> None:
    places = ("docs/log.md", "logs/records.json", "runs/compress/42/streams.csv")
    for place in places:
        (tmp_path / place).mkdir(parents=True)
    files.findings_log(tmp_path, left_out)
    published.read(tmp_path, None, left_out)
    files.streams(tmp_path, [42], left_out)
    assert [one["what"] for one in left_out.found] == ["docs/log.md", "published records", places[2]]


def test_nothing_at_all_is_a_page_that_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "params.yaml", EMPTY)
    monkeypatch.chdir(tmp_path)
    found = gather(tmp_path, None, "now")
    assert (found["entries"], found["runs"], found["log"]) == ({}, {}, [])
    assert [one["what"] for one in found["left_out"]] == ["runs of MLflow"]


@pytest.mark.slow  # MLflow is imported
def test_a_store_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    write(tmp_path, "params.yaml", EMPTY)
    write(tmp_path, "none.db", "not a database, but long enough to be looked at: " * 20)
    monkeypatch.chdir(tmp_path)
    [one] = gather(tmp_path, None, "now")["left_out"]
    assert "not a database" in one["why"]


@pytest.fixture
def tracked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("mlflow")
    for seed in (42, 314):
        write(
            tmp_path, f"reports/curves/{seed}.csv", "step,loss\n" + "".join(f"{n},{9 - n / 100}\n" for n in range(300))
        )
    graph(tmp_path, {42: 1.20, 314: 1.21}, bits=6)
    write(
        tmp_path,
        "reports/timing/train/42.json",
        {"started_at": 1.7e9, "seconds": 50.0, "device": "H100", "ms_per_step": 90.5},
    )
    log_state(tmp_path, **{"git.commit": "abc"})
    graph(tmp_path, {42: 1.10, 314: 1.12}, bits=5, trained_at=1.71e9)
    log_state(tmp_path, **{"sweep.name": "bits"})
    with open_store(absolute_uri("sqlite:///mlflow.db", tmp_path)) as client:
        experiment = client.get_experiment_by_name("test").experiment_id
        client.create_run(experiment, run_name="of somebody else")
        client.create_run(experiment, run_name="broke off", tags={"fairway.key": "1"})
        client.delete_run(client.create_run(experiment, run_name="deleted").info.run_id)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow  # a database is made
def test_the_tables_hold_what_the_client_tells(tracked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One store, read by SQL and through MLflow; then gathered."""
    quick = read_tracked(tracked)
    runs = [seed.run_id for one in quick.states for seed in one.seeds]
    curves = read_histories(tracked, [*runs, "unknown"], "curve.loss")
    assert (len(quick.states), quick.unfinished, quick.foreign) == (2, ("broke off",), 1)
    assert set(curves) == set(runs)
    found = gather(tracked, None, "now")
    entries, lines = decoded(found["entries"]), decoded(found["runs"])
    assert [round(one["bpb"], 3) for one in entries] == [1.205, 1.11]
    assert entries[1]["sweep"] == "bits"
    assert [one["ms"] for one in lines] == [90.5, None, None, None]
    assert [one["dollars"] for one in lines] == [None] * 4
    assert {name: len(column["values"]) for name, column in found["params"].items()} == {"quant.bits": 2}
    assert [len(curve["step"]) for curve in found["curves"]] == [80] * 4
    assert {one["what"] for one in found["left_out"]} >= {"MLflow run broke off", "1 MLflow runs"}
    monkeypatch.setattr(database, "read_runs", lambda *_: None)
    monkeypatch.setattr(database, "read_histories", lambda *_: None)
    slow = read_tracked(tracked)
    assert [one.seeds for one in slow.states] == [one.seeds for one in quick.states]
    assert slow == quick
    assert read_histories(tracked, runs, "curve.loss") == curves


def test_tables_that_are_not_as_expected_are_left_to_the_client(tmp_path: Path) -> None:
    assert database.read_runs(tmp_path / "none.db", "1") is None
    assert database.read_histories(write(tmp_path, "foreign.db", ""), ["a"], "loss") is None
