import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError, MissingInput
from golf.runtime.place import top_folder
from pipeline.graph_state import SEED_STAGES, flatten, lock_hashes, read_curves, read_state
from pipeline.mlflow_store import absolute_uri, file_lock, open_store
from pipeline.track import COMPLETE, KEY, PARENT, describe, title, upsert

pytest.importorskip("mlflow")
REPOSITORY = Path(__file__).resolve().parents[2]
SEEDS = [42, 314]


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))


def make_state(root: Path, seeds: list[int] = SEEDS, bpb: float = 1.9, trained_at: float = 1_700_000_000.0) -> Path:
    """The files that a finished graph leaves."""
    reports = root / "reports"
    write(root / "build/submission/params.json", {"seeds": seeds, "quant": {"bits": 6}, "train": {"ema_decays": [0.9]}})
    write(root / "build/submission/submission.json", {"val_bpb": bpb})
    write(reports / "aggregate.json", {"seeds": seeds, "bpb_mean": bpb, "verdict": "no claim", "comparable": False})
    write(reports / "bundle.json", {"bytes": 50_000})
    for seed in seeds:
        for order, stage in enumerate(SEED_STAGES):
            write(reports / stage / f"{seed}.json", {"seed": seed, "bpb": bpb + seed / 1e6, "name": stage})
            timing = {"started_at": trained_at + 10 * order, "seconds": 5.0, "device": "cpu"}
            write(reports / "timing" / stage / f"{seed}.json", timing)
        curve = "step,loss,lr\n" + "".join(f"{step},{7 - step / 1000},\n" for step in range(1, 1502))
        write(reports / "curves" / f"{seed}.csv", curve)
    write(
        root / "params.yaml", f"seeds: {seeds}\ntracking: {{uri: sqlite:///mlflow.db, experiment: test, notify: ''}}\n"
    )
    return root


def track(root: Path, **environment: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipeline.track"]
    full = {**os.environ, "PYTHONPATH": str(REPOSITORY), **environment}
    return subprocess.run(command, cwd=root, env=full, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated, empty database: creating one takes seconds, copying it does not."""
    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    with open_store(absolute_uri("sqlite:///mlflow.db", file.parent)):
        pass
    return file


@pytest.fixture
def root(tmp_path: Path, store: Path) -> Path:
    shutil.copyfile(store, tmp_path / "mlflow.db")
    return make_state(tmp_path)


def log(root: Path, seeds: list[int] = SEEDS, tags: dict[str, str] | None = None) -> bool:
    uri = absolute_uri("sqlite:///mlflow.db", root)
    state = read_state(root, seeds)
    with open_store(uri) as client:
        found = client.get_experiment_by_name("test")
        number = found.experiment_id if found else client.create_experiment("test", (root / "art").as_uri())
        return upsert(client, number, state, tags if tags is not None else describe(root, state))


def snapshot(root: Path) -> dict:
    """Every run and every row of the tables that hold what was logged."""
    with sqlite3.connect(root / "mlflow.db") as database:
        names = ("runs", "metrics", "latest_metrics", "params", "tags")
        return {name: sorted(map(repr, database.execute(f"select * from {name}"))) for name in names}


def runs(root: Path) -> list:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    return client.search_runs([client.get_experiment_by_name("test").experiment_id])


def test_a_parent_and_a_child_a_seed_with_everything_on_them(root: Path) -> None:
    write(root / "dvc.lock", "stages: {train@42: {cmd: x}, train@7: {cmd: y}, verify: {cmd: v}, track: {cmd: z}}\n")
    assert log(root)
    parent = next(run for run in runs(root) if PARENT not in run.data.tags)
    children = [run for run in runs(root) if run.data.tags.get(PARENT) == parent.info.run_id]
    assert [run.data.tags["seed"] for run in sorted(children, key=lambda run: run.info.run_name)] == ["314", "42"]
    assert parent.data.metrics["aggregate.bpb_mean"] == 1.9
    assert parent.data.params["quant.bits"] == "6"
    assert parent.data.tags["mlflow.note.content"] == "no claim"
    assert parent.data.tags["comparable"] == "false"
    assert {"dvc.stage.train.42", "dvc.stage.verify", "dvc.lock.sha256"} <= set(parent.data.tags)
    assert "dvc.stage.train.7" not in parent.data.tags
    child = next(run for run in children if run.data.tags["seed"] == "42")
    assert child.data.metrics["evaluate.bpb"] == pytest.approx(1.900042)
    assert child.data.metrics["seconds.train"] == 5.0
    assert child.data.tags["dvc.stage.train"]
    assert child.data.tags["device"] == "cpu"
    assert child.data.tags["cached"] == "false"
    assert child.info.start_time == 1_700_000_000_000
    assert parent.info.end_time == 1_700_000_065_000
    with open_store(f"sqlite:///{root / 'mlflow.db'}") as client:
        curve = client.get_metric_history(child.info.run_id, "curve.loss")
        assert [point.step for point in curve] == list(range(1, 1502))
        files = {item.path for item in client.list_artifacts(parent.info.run_id)}
        assert {"aggregate.json", "submission.json", "params.json"} <= files
        assert {item.path for item in client.list_artifacts(child.info.run_id)} == set(SEED_STAGES)


def test_a_run_is_called_by_what_differs_from_the_last_and_its_score(root: Path) -> None:
    state = read_state(root, SEEDS)
    assert title(state, {}) == f"{state.key[:8]} · 1.9000 bpb"
    assert title(state, {}, "gauge-vina") == "gauge-vina · 1.9000 bpb"
    assert title(state, {**state.params, "quant.bits": "5"}, "gauge-vina") == "quant.bits=6 · 1.9000 bpb"
    assert title(state, state.params, "gauge-vina") == "gauge-vina · 1.9000 bpb", "only the code differs"
    assert title(state, {"another": "1"}, "gauge-vina") == "gauge-vina · 1.9000 bpb", "too much differs"
    assert log(root)
    (parent,) = (run for run in runs(root) if PARENT not in run.data.tags)
    assert parent.info.run_name.endswith(" · 1.9000 bpb")


def test_again_changes_nothing(root: Path) -> None:
    assert log(root)
    before = snapshot(root)
    assert not log(root)
    assert not log(root, tags={"git.commit": "another", "dvc.exp_name": "other"})
    assert snapshot(root) == before


def test_what_an_interrupted_run_left_is_replaced(root: Path) -> None:
    assert log(root)
    with open_store(f"sqlite:///{root / 'mlflow.db'}") as client:
        found = runs(root)
        parent = next(run for run in found if PARENT not in run.data.tags)
        client.set_tag(parent.info.run_id, COMPLETE, "false")
        client.delete_run(next(run for run in found if PARENT in run.data.tags).info.run_id)
    assert log(root)
    assert len(runs(root)) == 3
    assert all(run.info.status == "FINISHED" for run in runs(root))


def test_another_result_is_another_state_and_knows_what_was_reused(root: Path) -> None:
    assert log(root)
    for seed in SEEDS:  # quantised again with 5 bits: the training was restored from the cache
        write(root / f"reports/quantize/{seed}.json", {"seed": seed, "bpb": 2.0})
        write(root / f"reports/timing/quantize/{seed}.json", {"started_at": 1_700_009_000.0, "seconds": 1.0})
    assert log(root)
    found = runs(root)
    assert len({run.data.tags[KEY] for run in found if KEY in run.data.tags}) == 2
    newest = [run for run in found if run.data.tags.get("cached.stages")]
    assert len(newest) == 2
    assert all(run.data.tags["cached"] == "true" for run in newest)
    assert all("train" in run.data.tags["cached.stages"] for run in newest)
    assert all("quantize" not in run.data.tags["cached.stages"] for run in newest)


def test_the_key_rests_on_results_and_not_on_times(root: Path) -> None:
    key = read_state(root, SEEDS).key
    make_state(root, trained_at=1_800_000_000.0)
    write(root / "reports/evaluate/7.json", {"seed": 7})  # another seed's report
    assert read_state(root, SEEDS).key == key
    make_state(root, bpb=1.91)
    assert read_state(root, SEEDS).key != key


def test_reports_that_do_not_fit(root: Path) -> None:
    with pytest.raises(DataError, match=r"found seeds \[42, 314\], needed \[42\]"):
        read_state(root, [42])
    (root / "reports/gate/314.json").unlink()
    with pytest.raises(MissingInput, match="dvc repro gate@314"):
        read_state(root, SEEDS)
    write(root / "reports/gate/314.json", "{")
    with pytest.raises(DataError, match="not JSON"):
        read_state(root, SEEDS)
    write(root / "reports/gate/314.json", [1])
    with pytest.raises(DataError, match="found list"):
        read_state(root, SEEDS)


def test_curves(tmp_path: Path) -> None:
    write(tmp_path / "1.csv", "step,loss,qat\n1,7.5,\n2,nan,1\n")
    assert read_curves(tmp_path / "1.csv") == {"loss": [(1, 7.5)], "qat": [(2, 1.0)]}
    write(tmp_path / "1.csv", "loss\n7.5\n")
    with pytest.raises(DataError, match="not a curve"):
        read_curves(tmp_path / "1.csv")
    assert list(flatten({"a": {"b": [1], "c": 2}})) == [("a.b", [1]), ("a.c", 2)]
    assert lock_hashes(tmp_path, [1]) == {}


def test_the_store_is_one_for_the_repository_and_its_temporary_experiments(tmp_path: Path) -> None:
    inside = tmp_path / ".dvc" / "tmp" / "exps" / "standalone" / "tmpabc"
    inside.mkdir(parents=True)
    assert top_folder(inside) == top_folder(tmp_path) == tmp_path.resolve()
    assert absolute_uri("sqlite:///mlflow.db", tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert absolute_uri("sqlite:////var/x.db", tmp_path) == "sqlite:////var/x.db"
    assert absolute_uri("http://localhost:1", tmp_path) == "http://localhost:1"
    for good in ("mysql+pymysql://u:p@h/db", "postgresql+psycopg2://u@h/db", "postgresql://h/db"):
        assert absolute_uri(good, tmp_path) == good
    for bad in ("sqlite:///", "sqlite:///:memory:", "mlruns", "file:///x", "ftp://x", "http://["):
        with pytest.raises(ConfigError, match=r"tracking\.uri"):
            absolute_uri(bad, tmp_path)


def test_a_server_that_is_away_costs_seconds_and_no_result(root: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    write(
        root / "params.yaml",
        f"seeds: [42, 314]\ntracking: {{uri: 'http://u:secret@127.0.0.1:{port}', experiment: t, notify: ''}}\n",
    )
    done = track(root)
    assert done.returncode == Exit.RETRY
    assert (
        "The results are safe in reports/ and build/submission; to log them later. Try: dvc repro track" in done.stderr
    )
    assert "secret" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (root / "reports/track.json").exists()


def test_mlflow_not_installed(root: Path) -> None:
    write(root / "mlflow.py", "raise ImportError('no mlflow here')\n")
    done = track(root)
    assert done.returncode == Exit.CONFIG
    assert "MLflow is not installed" in done.stderr
    assert "pip install mlflow" in done.stderr


def test_a_database_without_its_driver(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymysql", None)
    refused = pytest.raises(FairwayError, match=r"\*\*\*@127\.0\.0\.1:1/db: .*driver.* Try: pip install pymysql")
    with refused as found, open_store("mysql+pymysql://u:secret@127.0.0.1:1/db") as client:
        client.search_experiments()
    assert found.value.code == Exit.CONFIG


def test_a_file_that_is_no_database(root: Path) -> None:
    (root / "mlflow.db").write_bytes(b"not a database" * 100)
    with pytest.raises(FairwayError, match="results are safe"):
        log(root)


def test_the_lock_is_waited_for_and_given_up(tmp_path: Path) -> None:
    lock = tmp_path / "a.lock"
    held = pytest.raises(FairwayError, match="held by another process")
    with file_lock(lock), held as found, file_lock(lock, wait_seconds=0.3):
        pass
    assert found.value.code == Exit.RETRY
    with file_lock(lock, wait_seconds=0.3):
        pass


def test_processes_that_create_one_database_together(tmp_path: Path) -> None:
    make_state(tmp_path)
    with ThreadPoolExecutor(2) as pool:  # each waits for a process of its own
        assert [done.returncode for done in pool.map(track, [tmp_path] * 2)] == [0, 0]
    assert len(runs(tmp_path)) == 3
    report = json.loads((tmp_path / "reports/track.json").read_text())
    assert report == {"key": read_state(tmp_path, SEEDS).key, "experiment": "test", "runs": 3}
    assert not list(tmp_path.glob(".mlflow.db*"))
