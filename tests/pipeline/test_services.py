"""What the doctor says of servers, databases and keys; and the whole command on a small checkout."""

import base64
import json
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.doctor import services
from tests.pipeline.dvc_folder import make_dvc
from tests.stages.world import ROOT, write_params

SECRET = "s3cr3t-v4lue"
GRAPH = """stages:
  first:
    cmd: mkdir -p out && cat dep > out/x
    deps: [dep]
    outs: [out]
  second:
    cmd: cat out/x > last
    deps: [out]
    outs: [last]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in services.theirs():
        if name.startswith(("MLFLOW_", "PREFECT_", "HF_", "AWS_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    write_params(tmp_path)
    return tmp_path


@pytest.fixture
def server() -> Iterator[str]:
    """Prefect's health for anybody, MLflow's experiments for ``user``."""
    right = "Basic " + base64.b64encode(f"user:{SECRET}".encode()).decode()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            allowed = self.path == "/api/health" or self.headers["Authorization"] == right
            self.send_response(200 if allowed else 401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}"
        found.shutdown()


def test_mlflow_behind_a_password(here: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(here, tracking={"uri": server})
    refused = services.mlflow()[0]
    assert (refused.state, refused.found) == ("fail", f"{server} refuses this user (401)")
    assert "MLFLOW_TRACKING_USERNAME" in refused.todo
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "user")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    assert services.mlflow()[0].state == "ok"
    monkeypatch.delenv("MLFLOW_TRACKING_USERNAME")
    write_params(here, tracking={"uri": server.replace("//", f"//user:{SECRET}@")})
    found = services.mlflow()[0]
    assert found.state == "ok"
    assert SECRET not in str(found)


def test_a_server_that_is_down(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_params(here, tracking={"uri": "http://127.0.0.1:1"})
    assert services.mlflow()[0].state == "fail"
    assert "no answer" in services.mlflow()[0].found
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert services.prefect()[0].state == "fail"


def test_mlflow_s_database(here: Path) -> None:
    assert services.mlflow()[0].found == "mlflow.db: the first track makes it"
    with closing(sqlite3.connect(here / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs (id)")
        database.commit()
    assert services.mlflow()[0].found == "mlflow.db: 0 runs"
    (here / "mlflow.db").write_bytes(b"no database, and long enough to be looked at" * 100)
    broken = services.mlflow()[0]
    assert (broken.state, broken.found) == ("fail", "mlflow.db: file is not a database")


def test_prefect_by_its_variable_or_its_profile(here: Path, server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.prefect()[0].state == "skipped"
    (here / ".prefect").mkdir()
    profile = f'active = "own"\n[profiles.own]\nPREFECT_API_URL = "{server}/api"\n'
    (here / ".prefect/profiles.toml").write_text(profile)
    assert services.prefect()[0].found == f"{server}/api answers"
    (here / ".prefect/profiles.toml").write_text(profile[:20])  # half of it
    assert services.prefect()[0].state == "skipped"
    monkeypatch.setenv("PREFECT_API_URL", f"{server}/api")
    assert services.prefect()[0].state == "ok"


def test_keys_are_asked_for_by_what_the_run_talks_to(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert services.keys()[0].state == "skipped"
    (here / ".dvc").mkdir()
    (here / ".dvc/config").write_text("['remote \"store\"']\n    url = s3://bucket/path\n")
    write_params(here, data={"source": "fineweb"})
    found = services.keys()[0]
    assert found.state == "warn"
    assert (
        found.found == "AWS keys not there, for the DVC remote; Hugging Face token not there, for the hub's full speed"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", SECRET)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    found = services.keys()[0]
    assert (found.state, found.found) == ("ok", "AWS keys there; Hugging Face token there")


def doctor(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_TRACKING_PASSWORD": SECRET, "HF_TOKEN": SECRET,
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }  # fmt: skip
    command = [sys.executable, "-m", "pipeline.cli", "doctor", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_whole_command_on_a_cpu(here: Path) -> None:
    for name in ("train", "val", "tokenizer"):
        (here / "data/source" / name).mkdir(parents=True)
    (here / "dep").write_text("one")
    (here / "dvc.yaml").write_text(GRAPH)
    (here / "store").mkdir()
    subprocess.run(["git", "init", "-q", "."], cwd=here, check=True)
    make_dvc(here, f"{here}/store")
    write_params(here, data={"source": "fineweb"}, hardware={"min_tflops": 1e-6})
    done = doctor(here, "--json")
    told = json.loads(done.stdout)
    states = {check["name"]: check["state"] for check in told["checks"]}
    expected = {"gpus": "skipped", "exchange": "ok", "products": "ok", "attention": "ok", "parameters": "ok",
                "dataset": "skipped", "remote": "ok", "keys": "ok", "mlflow": "ok", "rerun": "ok"}  # fmt: skip
    assert expected.items() <= states.items(), told
    assert told["ok"] is (done.returncode == 0) is ("fail" not in states.values())
    assert next(check for check in told["checks"] if check["name"] == "rerun")["facts"]["following"] == [
        "first",
        "second",
    ]
    assert not [path for path in (here / "store").rglob("*") if path.is_file()]  # the round trip leaves nothing

    assert SECRET not in done.stdout + done.stderr

    (here / "store").rename(here / "gone")
    (here / "store").write_text("a file")
    refused = services.remote()[0]
    assert refused.state == "fail"
    assert f"remote 'store' ({here}/store) refuses: " in refused.found
    assert refused.todo
