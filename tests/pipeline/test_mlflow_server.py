"""A remote MLflow: with a password, with a wrong one, and away, when what it was not told waits for it."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import pipeline.track
from benchmarks.browser import chromium, missing
from golf.runtime.errors import Exit, FairwayError
from pipeline import serve
from pipeline.graph_state import GraphState
from pipeline.untracked import FOLDER
from tests.pipeline.test_track import PARENT, make_state, runs, store, write

assert store is not None  # a fixture

pytest.importorskip("mlflow")
from mlflow.exceptions import MlflowException  # noqa: E402

USER, PASSWORD = "admin", "correct-horse-battery"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tracked_at(root: Path, uri: str, seeds: str = "[42, 314]") -> None:
    write(root / "params.yaml", f"seeds: {seeds}\ntracking: {{uri: '{uri}', experiment: test, notify: ''}}\n")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """``python -m pipeline.track`` in a folder, without the seconds that importing MLflow again takes."""

    def run(root: Path) -> str:
        monkeypatch.chdir(root)
        monkeypatch.setattr(sys, "argv", ["track"])
        pipeline.track.main()
        return capsys.readouterr().out

    return run


def test_an_experiment_outlives_a_server_that_is_away_and_is_told_later(
    tmp_path: Path, store: Path, here: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    top = tmp_path / "repository"
    copy = make_state(top / ".dvc/tmp/exps/standalone/tmp1", bpb=1.8)
    shutil.copyfile(store, top / "mlflow.db")
    tracked_at(copy, f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("DVC_EXP_NAME", "mossy-vole")
    assert "track: NOT TRACKED: MLflow at http://127.0.0.1:" in here(copy)
    assert json.loads((copy / "reports/track.json").read_text())["runs"] == 3
    assert len(list((top / FOLDER).iterdir())) == 1
    monkeypatch.delenv("DVC_EXP_NAME")
    make_state(top, bpb=1.9)  # the same repository later, MLflow being there again
    (top / FOLDER / "half").mkdir()
    write(top / FOLDER / "half/tags.json", "{}")
    said = here(top)
    assert "track: told of mossy-vole, which waited" in said
    assert "half: not tracked: " in said
    assert [path.name for path in (top / FOLDER).iterdir()] == ["half"]
    parents = [run for run in runs(top) if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(run.data.metrics["aggregate.bpb_mean"] for run in parents) == [1.8, 1.9]
    assert sum(run.data.tags.get("dvc.exp_name") == "mossy-vole" for run in parents) == 1


def test_a_state_that_is_refused_for_ever_holds_up_no_other(
    tmp_path: Path, store: Path, here: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    top = make_state(tmp_path, bpb=1.9)
    shutil.copyfile(store, top / "mlflow.db")
    write(top / FOLDER / "old/tags.json", "{}")
    shutil.copytree(top / "reports", top / FOLDER / "old/reports")
    shutil.copytree(top / "build", top / FOLDER / "old/build")
    write(top / FOLDER / "old/build/submission/params.json", {"quant": {"bits": 5}})
    upsert = pipeline.track.upsert

    def refused(client: object, experiment: str, state: GraphState, tags: dict[str, str]) -> bool:
        if state.params["quant.bits"] == "5":
            raise MlflowException("INVALID_PARAMETER_VALUE")
        return upsert(client, experiment, state, tags)

    monkeypatch.setattr(pipeline.track, "upsert", refused)
    said = here(top)
    assert "3 runs in 'test'" in said
    assert "NOT TRACKED: " in said
    assert "INVALID_PARAMETER_VALUE" in said
    assert (top / FOLDER / "old/tags.json").is_file()
    assert len(runs(top)) == 3


@contextlib.contextmanager
def server(folder: Path) -> Iterator[str]:
    """MLflow's own server with basic auth; its URI."""
    port = free_port()
    (folder / "auth.ini").write_text(
        "[mlflow]\ndefault_permission = NO_PERMISSIONS\n"
        f"database_uri = sqlite:///{folder}/auth.db\nadmin_username = {USER}\nadmin_password = {PASSWORD}\n"
        "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--workers", "1",
               "--host", "127.0.0.1", "--port", str(port), "--backend-store-uri", f"sqlite:///{folder}/mlflow.db",
               "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    env = {**os.environ, "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"), "MLFLOW_DISABLE_TELEMETRY": "true",
           "MLFLOW_FLASK_SERVER_SECRET_KEY": "tests only", "NO_PROXY": "127.0.0.1"}  # fmt: skip
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log, start_new_session=True)
        try:
            end = time.monotonic() + 120
            while not _answers(f"http://127.0.0.1:{port}/health"):
                assert process.poll() is None, (folder / "server.log").read_text()[-2000:]
                assert time.monotonic() < end
                time.sleep(0.2)
            yield f"http://127.0.0.1:{port}"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            process.wait()


def _answers(url: str) -> bool:
    with contextlib.suppress(OSError), serve._direct().open(url, timeout=5):
        return True
    return False


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URI of a server that asks for a password."""
    pytest.importorskip("flask_wtf", reason="MLflow's basic auth needs it: pip install 'mlflow[auth]'")
    with server(tmp_path_factory.mktemp("server")) as uri:
        yield uri


@pytest.mark.slow
def test_a_server_with_a_password(
    tmp_path: Path, secured: str, here: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parent and children, curves, tags and artifacts, as in a file of one's own; the password is printed nowhere."""
    from mlflow.tracking import MlflowClient

    root = make_state(tmp_path / "root", [42])
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    tracked_at(root, secured, "[42]")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-horse")
    with pytest.raises(FairwayError, match="results are safe") as refused:
        here(root)
    assert refused.value.code == Exit.RETRY
    assert "wrong-horse" not in str(refused.value)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    said = here(root)
    assert "track: 2 runs in 'test': no claim" in said
    assert "track: nothing new in 'test'" in (again := here(root))
    assert PASSWORD not in said + again
    client = MlflowClient(secured)
    found = client.search_runs([client.get_experiment_by_name("test").experiment_id])
    parent = next(run for run in found if PARENT not in run.data.tags)
    children = [run for run in found if run.data.tags.get(PARENT) == parent.info.run_id]
    assert sorted(run.info.run_name for run in children) == ["seed 42"]
    assert parent.data.metrics["aggregate.bpb_mean"] == 1.9
    assert parent.data.tags["mlflow.note.content"] == "no claim"
    assert len(client.get_metric_history(children[0].info.run_id, "curve.loss")) == 1501
    artifacts = [file.path for file in client.list_artifacts(parent.info.run_id)]
    assert sorted(artifacts) == ["aggregate.json", "bundle.json", "params.json", "submission.json"]


@pytest.mark.slow
def test_runs_are_compared_in_the_browser(
    tmp_path: Path, secured: str, here: Callable[[Path], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow's own page shows what differs between two experiments, and asks nobody else for anything."""
    if why := missing():
        pytest.skip(why)
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", USER)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    for bits, bpb in ((6, 1.9), (5, 1.95)):
        root = make_state(tmp_path / str(bits), [42], bpb=bpb)
        write(root / "build/submission/params.json", {"quant": {"bits": bits}, "train": {"steps": 80}})
        write(root / "params.yaml", f"seeds: [42]\ntracking: {{uri: '{secured}', experiment: compared, notify: ''}}\n")
        here(root)
    client = MlflowClient(secured)
    number = client.get_experiment_by_name("compared").experiment_id
    parents = [run.info.run_id for run in client.search_runs([number]) if PARENT not in run.data.tags]
    assert len(parents) == 2
    asked: list[str] = []
    with chromium() as browser:
        page = browser.new_context(http_credentials={"username": USER, "password": PASSWORD}).new_page()
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"{secured}/#/compare-runs?runs={json.dumps(parents)}&experiments={json.dumps([number])}")
        row = page.get_by_role("row").filter(has=page.get_by_text("quant.bits", exact=True))
        row.first.wait_for(timeout=60_000)
        assert sorted(row.first.inner_text().split()) == ["5", "6", "quant.bits"]
        assert page.get_by_text("1.95", exact=True).count()
    assert all(url.startswith((secured, "data:", "blob:")) for url in asked)
