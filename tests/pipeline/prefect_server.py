"""A Prefect server on loopback for tests, with repositories of small stages that write down what they did."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from pipeline import serve
from tests.pipeline.campaign.graph import committed

ROOT = Path(__file__).resolve().parents[2]
ATTEMPTS = 20  # at a question that the server fails at, half a second apart

# Writes down that it began, obeys DIR/how (seconds to sleep, or: hang), and keeps a checkpoint as training does.
STAGE = """
import os, pathlib, signal, subprocess, sys, time, yaml
place, name = pathlib.Path(sys.argv[1]), sys.argv[2]
bits = yaml.safe_load(open("params.yaml"))["quant"]["bits"]
with open(place / "ran", "a") as file:
    file.write(f"{name} {bits}\\n")
how = (place / "how").read_text().split()
if name == "train" and how[0] == "hang":
    deaf = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 3, 15)]; "
    rank = [sys.executable, "-c", deaf + "print(1, flush=True); time.sleep(600)"]
    ranks = [subprocess.Popen(rank, start_new_session=True, stdout=subprocess.PIPE) for _ in "12"]
    [rank.stdout.readline() for rank in ranks]
    (place / "pids").write_text(" ".join(str(pid) for pid in [os.getpid(), *(rank.pid for rank in ranks)]))
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
elif name == "train":
    time.sleep(float(how[0]))
pathlib.Path(name).write_text(f"{bits if name == 'evaluate' else 0}")
"""
FLOWS = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pipeline import flows, scheduled, supervise
supervise.POLL = 0.2
flows.GRACE = 1.0
flows.GROUPS = (("fetch", "train", "evaluate"),)
scheduled.preflight = lambda: None
scheduled.table.rows = lambda seeds: []
scheduled.table.verdict = lambda seeds: ""
nightly, on_demand, sweep = flows.nightly, flows.on_demand, flows.sweep
"""


class Server:
    """Commands and questions to a running server."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{port}/api"
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("PREFECT_")}
        self.env = {
            **inherited, "PREFECT_HOME": str(folder), "PREFECT_API_URL": self.url, "PYTHONPATH": str(ROOT),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1", "NO_PROXY": "127.0.0.1",
            "PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_LOGGING_TO_API_BATCH_INTERVAL": "0.5",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        }  # fmt: skip

    def ask(self, path: str, **content: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/{path}", json.dumps(content).encode(), {"Content-Type": "application/json"}
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        for left in reversed(range(ATTEMPTS)):  # a server that has just started finds its database locked at times
            try:
                with opener.open(request, timeout=30) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                if error.code < 500 or not left:
                    raise
                time.sleep(0.5)

    def state(self, run: str) -> str:
        return self.ask("flow_runs/filter", flow_runs={"id": {"any_": [run]}})[0]["state_name"]

    def unfinished(self) -> list[str]:
        """Runs that have not ended."""
        begun = {"state": {"type": {"any_": ["RUNNING", "PENDING", "SCHEDULED", "CANCELLING"]}}}
        return [one["id"] for one in self.ask("flow_runs/filter", flow_runs=begun)]

    def finish(self, run: str) -> str:
        """Wait for the run to end; the name of its state."""
        wait_for(lambda: run not in self.unfinished(), 120)
        return self.state(run)

    def logs(self, run: str) -> list[str]:
        return [one["message"] for one in self.ask("logs/filter", logs={"flow_run_id": {"any_": [run]}})]

    def start(self, deployment: str, **parameters: Any) -> str:
        """Begin a run of ``flow/deployment``; its id."""
        found = self.ask("deployments/filter", deployments={"name": {"any_": [deployment]}})[0]
        return self.ask(f"deployments/{found['id']}/create_flow_run", parameters=parameters)["id"]

    def register(self, repository: Path, name: str) -> None:
        """A pool of the repository's own, and its nightly run in it as prefect.yaml has it."""
        pool = repository.name
        self.ask("work_pools/", name=pool, type="process")
        flow = self.ask("flows/", name="nightly")["id"]
        self.ask(
            "deployments/", name=name, flow_id=flow, entrypoint="flows.py:nightly", work_pool_name=pool,
            pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(repository)}}],
            concurrency_limit=1, concurrency_options={"collision_strategy": "ENQUEUE"},
        )  # fmt: skip

    @contextlib.contextmanager
    def worker(self, repository: Path) -> Iterator[subprocess.Popen]:
        """A worker of the repository's pool, in the repository."""
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", repository.name, "--type", "process"]
        with (self.folder / f"{repository.name}.log").open("w") as log:
            process = subprocess.Popen(command, cwd=repository, env=self.env, stdout=log, stderr=log)
            try:
                yield process
            finally:
                end(process)


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Server]:
    """A server with a database of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = Server(folder, port)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder, env=server.env, stdout=log, stderr=log, start_new_session=True)
        try:
            opener = serve._direct()
            wait_for(lambda: _answers(opener, f"{server.url}/health"), 120)
            yield server
        finally:
            end(process)


def end(process: subprocess.Popen) -> None:
    """End it, by SIGKILL where it does not end in 20 s."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(opener: urllib.request.OpenerDirector, url: str) -> bool:
    with contextlib.suppress(OSError), opener.open(url, timeout=5):
        return True
    return False


def wait_for(condition: Callable[[], Any], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.1)


def alive(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def make_repository(root: Path, place: Path, remote: Path | None = None) -> Path:
    """A repository of three stages in a row; what they did is in ``place``."""
    root.mkdir(parents=True)
    shutil.copytree(ROOT / ".dvc", root / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    if remote is not None:
        local = f"[core]\n    remote = store\n['remote \"store\"']\n    url = {remote}\n"
        (root / ".dvc/config.local").write_text(local)
    shutil.copy(ROOT / "params.yaml", root)
    (root / "stage.py").write_text(STAGE)
    (root / "flows.py").write_text(FLOWS)
    before, stages = [], {}
    for name in ("fetch", "train", "evaluate"):
        params = ["quant.bits"] if name == "evaluate" else ["optim.matrix_lr"]
        stages[name] = {
            "cmd": f"python stage.py {place} {name}", "deps": ["stage.py", *before], "params": params, "outs": [name],
        }  # fmt: skip
        before = [name]
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    ignored = ["fetch", "train", "evaluate", ".locks/", "logs/", "__pycache__/", "prefect.yaml", ".prefectignore"]
    (root / ".gitignore").write_text("".join(f"/{name}\n" for name in ignored))
    return committed(root)
