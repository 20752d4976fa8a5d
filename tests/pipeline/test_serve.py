"""Serving on this machine alone: nothing that a user's environment says may come between."""

import http.server
import json
import socket
import subprocess
import threading
from collections.abc import Iterator

import pytest

from golf.runtime.errors import ConfigError, FairwayError
from pipeline import serve


@pytest.fixture
def port() -> Iterator[int]:
    """Of a server that answers."""
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer((serve.HOST, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address[1]
        server.shutdown()


@pytest.fixture
def behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "intranet")


@pytest.fixture
def running() -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(["sleep", "60"], text=True) as process:
        yield process
        process.kill()


@pytest.mark.usefixtures("behind_a_proxy")
def test_a_proxy_is_not_asked_for_this_machine(port: int, running: subprocess.Popen[str]) -> None:
    serve._ready("page", running, f"http://{serve.HOST}:{port}/")
    env = serve.environment(port)
    assert env["NO_PROXY"] == env["no_proxy"] == f"intranet,{serve.HOST}"
    assert env["PREFECT_API_URL"] == f"http://{serve.HOST}:{port}/api"


def test_a_service_that_ended_is_told_with_its_last_words(
    tmp_path, monkeypatch: pytest.MonkeyPatch, running: subprocess.Popen[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    serve.LOGS.mkdir()
    (serve.LOGS / "page.log").write_text("first\nport is taken\n")
    running.kill()
    running.wait()
    with socket.socket() as unused:
        unused.bind((serve.HOST, 0))
        url = f"http://{serve.HOST}:{unused.getsockname()[1]}/"
        with pytest.raises(
            FairwayError, match=r"page: ended with code -9: first \| port is taken\. Try: cat logs/page"
        ):
            serve._ready("page", running, url)


def test_a_port_that_is_taken_is_refused_with_the_next(port: int) -> None:
    with pytest.raises(ConfigError, match=rf"{port}: Address already in use.*--mlflow-port {port + 1}"):
        serve._free("--mlflow-port", port)


def test_runs_that_an_earlier_worker_left_are_ended_before_a_new_one_starts() -> None:
    asked: list[tuple[str, dict]] = []

    class Api(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
            body = json.dumps([{"id": "1-2", "name": "purple-fox"}] if self.path.endswith("filter") else {}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((serve.HOST, 0), Api) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://{serve.HOST}:{server.server_address[1]}/api/flow_runs"
        assert serve.end_orphans(url) == ["purple-fox"]
        server.shutdown()
    (path, filters), (end, state) = asked
    assert path == "/api/flow_runs/filter"
    assert filters["work_pools"] == {"name": {"any_": ["fairway-gpu", "fairway-cpu"]}}
    assert filters["flow_runs"]["state"]["type"]["any_"] == ["RUNNING", "PENDING", "CANCELLING"]
    assert end == "/api/flow_runs/1-2/set_state"
    assert state["force"] is True
    assert state["state"]["type"] == "CRASHED"
