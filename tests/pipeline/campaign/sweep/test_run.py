"""What a sweep asks of the machine: which stages candidates share, slots, the ledger, the lock, DVC itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from golf.params.hardware import Hardware
from golf.params.train import Train
from golf.runtime.errors import ConfigError
from pipeline.campaign.sweep import ledger, run, verb, workspace
from pipeline.campaign.sweep.drive import drive
from pipeline.campaign.sweep.journal import Journal
from pipeline.campaign.sweep.sharing import read_graph, shares
from pipeline.campaign.sweep.spec import from_options
from pipeline.mlflow_store import absolute_uri, open_store
from pipeline.supervise import BusyError, locked
from pipeline.use import replace
from tests.pipeline.campaign.graph import git, graph, log_state, write
from tests.pipeline.campaign.sweep.fake import Clock, Runner, plan

ROOT = Path(__file__).resolve().parents[4]


def shared(*overrides: list[str]) -> set[str]:
    stages = read_graph(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    first, second = (shares(stages, one) for one in overrides)
    return {stage for stage, _ in first & second}


def test_what_two_candidates_share_in_the_real_graph() -> None:
    before = {"fetch", "verify", "tokenize"}
    assert shared(["optim.matrix_lr=0.1"], ["optim.matrix_lr=0.2"]) == before
    quantised = shared(["quant.bits=5"], ["quant.bits=6"])
    assert before | {"train", "select", "bundle"} <= quantised
    assert not quantised & {"quantize", "compress", "gate", "evaluate", "submission"}
    assert shared(["tokenizer.vocab_size=512"], []) == {"fetch", "verify", "bundle"}
    assert not shared(["data.path=a"], ["data.path=b"]) & before
    scored = shared(["eval.stride=32"], ["eval.stride=64"])
    assert "train" in scored
    assert "evaluate" not in scored
    assert "train" in shared(["seeds=[1,2]"], ["seeds=[2,3]"])  # they may share a seed


def test_slots_on_cpu_and_on_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "uses_gpu", lambda _: False)
    monkeypatch.setattr(run, "available_cores", lambda: 8)
    monkeypatch.setattr("pipeline.repro.available_cores", lambda: 8)
    monkeypatch.setattr("pipeline.repro.uses_gpu", lambda _: False)
    assert run.slots(Hardware(), Train(), 0) == (8, [])
    assert run.slots(Hardware(threads=4), Train(), 0) == (2, [])
    assert run.slots(Hardware(threads=0), Train(), 0) == (1, [])
    assert run.slots(Hardware(), Train(), 3) == (3, [])
    monkeypatch.setattr(run, "uses_gpu", lambda _: True)
    monkeypatch.setattr(run, "visible", lambda: ["4", "5", "6", "7"])
    assert run.slots(Hardware(), Train(), 0) == (4, ["4", "5", "6", "7"])
    assert run.slots(Hardware(processes=2), Train(), 0) == (2, ["4,5", "6,7"])
    assert run.slots(Hardware(strict_clock=True), Train(gpus=8), 0) == (1, ["4,5,6,7"])
    assert run.slots(Hardware(), Train(), 2) == (2, ["4", "5"])


def test_the_ledger_adds_up(tmp_path: Path) -> None:
    made = plan(from_options(["optim.matrix_lr=0.01,0.02,0.03"]))
    runner = Runner(Clock(), lambda one: {1: 2.0 - one.index} if one.index != 1 else "gate: too big", seconds=900.0)
    journal = Journal(tmp_path / "j", runner.clock)
    stop = drive(made, journal, runner, slots=1, price=4.0, clock=runner.clock)
    found = ledger.content(made, journal.state, stop)
    journal.close()
    assert [row["bpb"] for row in found["runs"]] == [0.0, 2.0, None]
    assert found["stages"] == {"train": 899.0 * 2, "other": pytest.approx(902.0)}
    assert found["dollars"] == pytest.approx(3.0, abs=0.01)
    assert sum(row["dollars"] for row in found["runs"]) + found["rest_dollars"] == pytest.approx(found["dollars"])
    text = "\n".join(ledger.lines(found))
    assert "failed" in text
    assert "stopped: complete: 2 of 3 runs have a score" in text
    json.dumps(found, allow_nan=False)


@pytest.mark.slow  # MLflow makes its database
def test_tags_reach_the_runs_in_mlflow_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(graph(tmp_path, {42: 1.2, 314: 1.21}))
    made = plan(from_options(["quant.bits=5,6"], "bits"))
    names = [one.name for one in made.rungs[0]]
    runner = Runner(Clock(), lambda one: {42: 1.2})
    journal = Journal(tmp_path / "j", runner.clock)
    drive(made, journal, runner, slots=1, price=3.6, clock=runner.clock)
    state = journal.state
    journal.close()
    log_state(tmp_path, **{"dvc.exp_name": names[1]})
    for _ in range(2):
        assert ledger.log_tags(made, state, tmp_path) == "MLflow: 1 runs carry tags.`sweep.name` = 'bits'"
    with open_store(absolute_uri("sqlite:///mlflow.db", tmp_path)) as client:
        number = client.get_experiment_by_name("test").experiment_id
        (found,) = client.search_runs([number], filter_string="tags.`sweep.name` = 'bits'")
    assert found.data.tags["sweep.overrides"] == "quant.bits=6"
    assert found.data.tags["sweep.dollars"] == "0.0100"
    assert found.data.tags["sweep.seconds.train"] == "9.0"


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("params.yaml", "dvc.yaml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / ".gitignore").write_text("/logs/\n/.locks/\n")
    git(tmp_path, "init", "-q", ".")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "start")
    return tmp_path


def test_money_without_a_price_is_one_error_and_only_then(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = verb.sweep_of(None, ["quant.bits=5,6"], "", None, 40.0)
    with pytest.raises(ConfigError, match=r"budget of 40 dollars, and hardware\.dollars_per_hour is 0\. Try: write"):
        verb.run(asked)
    runner = Runner(Clock(), lambda one: {42: 1.0}, seconds=0.0)
    monkeypatch.setattr(verb, "DvcRunner", lambda *_: runner)
    found = verb.run(verb.sweep_of(None, ["quant.bits=5,6"], "", None, None), tell=lambda _: None)
    assert found["dollars"] is None
    assert len(found["runs"]) == 2
    assert json.loads((repository / "logs/sweep/grid-quant-bits.json").read_text()) == found


def test_two_sweeps_at_once_and_other_sweeps_of_one_name_are_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "DvcRunner", lambda *_: Runner(Clock(), lambda one: {42: 1.0}, seconds=0.0))
    go = lambda *options: verb.run(verb.sweep_of(None, options, "a", None, None), tell=lambda _: None)  # noqa: E731
    with locked("graph"), pytest.raises(BusyError, match=r"graph: held by process"):
        go("quant.bits=5,6")
    go("quant.bits=5,6")
    with pytest.raises(ConfigError, match=r"a\.jsonl: begun with other candidates"):
        go("quant.bits=5,7")
    before = workspace.workspace_state(repository)
    (repository / "params.yaml").write_text((ROOT / "params.yaml").read_text() + "\n")
    assert workspace.workspace_state(repository) != before
    with pytest.raises(ConfigError, match="begun with other code or parameters"):
        go("quant.bits=5,6")


@pytest.mark.parametrize(
    ("file", "options", "hours", "told"),
    [
        (None, [], None, "neither of FILE and -S"),
        (Path("x.yaml"), ["a.b=1,2"], None, "both of FILE and -S"),
        (None, ["quant.bits"], None, "needed section.key=value"),
        (None, ["quant.bits=5,6"], 0.0, "--hours: found 0.0"),
    ],
)
def test_a_wrong_command_line_is_told(file: Any, options: list[str], hours: Any, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        verb.sweep_of(file, options, "", hours, None)
    assert told in str(caught.value)


def test_outside_git_it_says_what_is_needed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="needed a repository with a commit"):
        workspace.workspace_state(tmp_path)


def test_what_a_kill_left_is_put_back_and_an_edit_is_not(repository: Path) -> None:
    file, logs = repository / "params.yaml", repository / "logs/sweep/a"
    good, state, head = file.read_text(), workspace.workspace_state(repository), workspace.branch(repository)
    workspace.keep(repository, logs)
    go = lambda: workspace.put_back(repository, logs, state, head, [["quant.bits=4"], ["quant.bits=5"]])  # noqa: E731
    assert go() == []
    for left in ("", replace(good, ("quant", "bits"), 5)):
        file.write_text(left)
        assert [line.partition(":")[0] for line in go()] == ["params.yaml"]
        assert file.read_text() == good
    for mine in (replace(good, ("quant", "bits"), 7), good + "\n# a note\n", "mine: 1\n", "{", "seeds: ["):
        file.write_text(mine)
        assert go() == []
        assert file.read_text() == mine
    file.write_text(replace(good, ("quant", "bits"), 5))  # all that DVC was seen to leave
    write(repository / workspace.PACKED, "x")
    git(repository, "add", "-f", workspace.PACKED, "params.yaml")
    write(repository / ".git" / workspace.DVC_LOCK, "")
    assert len(go()) == 3
    assert workspace.workspace_state(repository) == state
    git(repository, "checkout", "-q", "--detach")
    assert [line.partition(":")[0] for line in go()] == [head]
    assert workspace.branch(repository) == head
    git(repository, "checkout", "-q", "--detach")
    git(repository, "commit", "-q", "--allow-empty", "-m", "elsewhere")
    assert go() == []


def test_a_sweep_does_not_go_on_over_an_edit(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "SETTLE", 0.0)
    monkeypatch.setattr(run, "untracked_inputs", list)
    runner = run.DvcRunner(repository, repository / "logs", (), workspace.workspace_state(repository))
    (repository / "params.yaml").write_text("mine: 1\n")
    with pytest.raises(ConfigError, match="changed while it runs"):
        runner.start(plan(from_options(["quant.bits=5,6"])).rungs[0][0], 0)
