import json
import shutil
from pathlib import Path

import pytest

from golf.runtime.errors import ConfigError, DataError, MissingInput
from golf.stats.noise import Observation, noise_floor
from pipeline.campaign.noise import lines, measure, report
from pipeline.campaign.sides import resolve
from pipeline.campaign.tracked import observations, read_states
from pipeline.mlflow_store import absolute_uri, open_store
from tests.pipeline.campaign.graph import BYTES, graph, log_state
from tests.pipeline.campaign.verbs import run

pytest.importorskip("mlflow")


@pytest.fixture(scope="module")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two configurations on three seeds, one of them run again, and a change that restores every seed."""
    root = tmp_path_factory.mktemp("tracked")
    commit = {"git.commit": "abc"}
    graph(root, {42: 1.20, 314: 1.21, 999: 1.22}, bits=6, trained_at=1.70e9)
    log_state(root, **commit, **{"dvc.exp_name": "mossy-vole"})
    graph(root, {42: 1.20, 314: 1.21, 999: 1.22}, bits=6, alpha=0.05, trained_at=1.70e9)
    log_state(root, **commit)  # nothing was run: another test on the same seeds
    graph(root, {42: 1.30, 314: 1.31, 999: 1.33}, bits=5, trained_at=1.71e9)
    log_state(root, **commit)
    graph(root, {42: 1.204, 314: 1.21, 999: 1.22}, bits=6, trained_at=1.72e9)
    log_state(root, **commit)
    graph(root, {7: 1.5}, bits=4, trained_at=1.73e9)
    log_state(root, **commit)
    return root


@pytest.fixture
def here(tracked: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copyfile(tracked / "mlflow.db", tmp_path / "mlflow.db")
    shutil.copyfile(tracked / "params.yaml", tmp_path / "params.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_each_run_that_happened_counts_once(here: Path) -> None:
    found = observations(read_states(here))
    by_configuration = {
        name: [o for o in found if o.configuration == name] for name in {o.configuration for o in found}
    }
    assert sorted(len(runs) for runs in by_configuration.values()) == [1, 3, 6]
    assert {o.machine for o in found} == {"cpu"}
    assert observations(read_states(here), BYTES) == found
    assert observations(read_states(here), BYTES + 1) == []


def test_the_floor_of_what_was_tracked(here: Path) -> None:
    floor = measure(here)
    assert (floor.configurations, floor.runs) == (2, 9)
    assert floor.machine is not None
    assert floor.machine.df == 3
    assert floor.machine.std == pytest.approx((0.004**2 / 2 / 3) ** 0.5)
    assert floor.paired is not None


def test_the_verb_prints_and_writes_the_same(here: Path) -> None:
    text = run("noise", "--effect", "0.02", "--best", "3:5", "--json", "noise.json")
    content = json.loads((here / "noise.json").read_text())
    assert "seed sigma" in text
    assert f"needs {content['needed']['unpaired']} seeds a side" in text
    assert f"look {content['best']['bias']:.5f} bpb better than they are" in text
    gains = [row["unpaired"] for row in content["detectable"]]
    assert gains == sorted(gains, reverse=True)
    assert content["detectable"][1]["seeds"] == 3


def test_what_is_unknown_is_said_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph(tmp_path, {1: 1.0})
    monkeypatch.chdir(tmp_path)
    text = "\n".join(lines(report(noise_floor([Observation("a", 1, 1.0), Observation("a", 2, 1.1)]))))
    assert "no seed was run twice" in text
    assert "no two configurations share enough seeds" in text


@pytest.mark.parametrize("best", ["3", "5:3", "0:2", "a:b", "3:5:7", "-1:2"])
def test_a_bad_choice_is_refused(here: Path, best: str) -> None:
    with pytest.raises(ConfigError, match="--best"):
        run("noise", f"--best={best}")


def test_a_bad_effect_is_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="--effect"):
        run("noise", "--effect=-0.1")


def test_nothing_tracked_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracked: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("tracking: {uri: sqlite:///mlflow.db, experiment: other, notify: ''}\n")
    with pytest.raises(MissingInput, match="no such database"):
        run("noise")
    shutil.copyfile(tracked / "mlflow.db", tmp_path / "mlflow.db")
    with pytest.raises(MissingInput, match="none named 'other'"):
        run("noise")
    with open_store(absolute_uri("sqlite:///mlflow.db", tmp_path)) as client:
        client.create_experiment("other", (tmp_path / "art").as_uri())
    with pytest.raises(DataError, match="none run twice"):
        run("noise")


def test_a_tracked_run_by_any_of_its_names(here: Path) -> None:
    state = next(state for state in read_states(here) if state.tags.get("dvc.exp_name") == "mossy-vole")
    sides = [
        resolve(name, here) for name in ("mossy-vole", state.run_id, state.run_id[:8], state.tags["fairway.key"][:10])
    ]
    assert all(side == sides[0] for side in sides)
    assert sides[0].scores == {42: 1.20, 314: 1.21, 999: 1.22}
    assert sides[0].total_bytes == 900 + 999
    assert sides[0].seconds["train"] == 100.0
    assert sides[0].all_seconds == 3 * 7 * 100.0
    assert sides[0].bytes_per_token == 2.5


def test_two_tracked_runs_against_the_floor(here: Path) -> None:
    fewer = next(state.run_id for state in read_states(here) if state.params["quant.bits"] == "5")
    text = run("compare", "mossy-vole", fewer, "--json", "out.json")
    content = json.loads((here / "out.json").read_text())
    assert content["differing"] == {"quant.bits": ["6", "5"]}
    assert content["paired"]["p"] < 0.01
    assert content["basis"] == "noise floor, same seeds"
    assert "better by 0.1" in content["verdict"]
    assert content["a"]["dollars"] == pytest.approx(3.6 * 2100 / 3600)
    assert content["verdict"] in text
    assert "within noise" in run("compare", fewer, fewer)
