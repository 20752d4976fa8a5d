"""Prefect's server with a worker a pool, and MLflow's page, on this machine alone: ``python -m pipeline.serve``.

Until Ctrl-C. The server keeps its database in .prefect/; the deployments of prefect.yaml are registered at each start.
Logs are in logs/. Each service runs in a session of its own under a watcher, and they stop in the order in which they
can: the workers first (one whose server is gone does not end by itself), the server last.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from golf.params.base import load
from golf.params.tracking import Tracking
from golf.runtime.errors import ConfigError, Exit, FairwayError, run_main
from golf.runtime.place import top_folder
from pipeline.deploy import POOLS, deploy, last_lines
from pipeline.mlflow_store import absolute_uri, database_file, open_store
from pipeline.remote import shown
from pipeline.supervise import started, with_this_python
from pipeline.track import experiment_id

HOST = "127.0.0.1"
LOGS = Path("logs")
READY_SECONDS = 180.0  # a first start migrates databases
STOP_SECONDS = 20.0


def environment(port: int) -> dict[str, str]:
    """What Prefect's processes must know: their own server and folder, to reach it directly, and to call nobody."""
    inherited = dict(os.environ)
    direct = {name: ",".join(filter(None, [inherited.get(name), HOST])) for name in ("NO_PROXY", "no_proxy")}
    return with_this_python(
        {
            **inherited,
            **direct,
            "PREFECT_HOME": str(Path.cwd() / ".prefect"),
            "PREFECT_API_URL": f"http://{HOST}:{port}/api",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "1",
        }
    )


def serve(prefect_port: int, mlflow_port: int) -> None:
    """Start everything, say where it is, and wait for a signal.

    Raises:
        ConfigError: a port is taken, or Prefect or MLflow is not installed.
        FairwayError: a service ended or was not ready in time; its log's last lines are shown.
    """
    for flag, port in (("--prefect-port", prefect_port), ("--mlflow-port", mlflow_port)):
        _free(flag, port)
    LOGS.mkdir(exist_ok=True)
    env = environment(prefect_port)
    tracking = load(Tracking)
    uri = absolute_uri(tracking.uri, top_folder(Path.cwd()))
    with contextlib.ExitStack() as services:

        def start(name: str, *arguments: str) -> subprocess.Popen[str]:
            log = services.enter_context((LOGS / f"{name}.log").open("w", encoding="utf-8"))
            command = [sys.executable, "-m", *arguments]
            return services.enter_context(started(command, name, grace=STOP_SECONDS, output=log, env=env))

        server = start("prefect-server", "prefect", "server", "start", "--host", HOST, "--port", str(prefect_port))
        runs = ""
        if database_file(uri):
            with open_store(uri) as client:  # made here, once: MLflow's own processes would race to make it
                runs = f"/#/experiments/{experiment_id(client, tracking.experiment, uri)}/runs"
        away = uri.startswith(("http://", "https://"))  # MLflow's own server, which has a page
        page = None if away else start("mlflow", "mlflow", *_mlflow(uri, mlflow_port))
        _ready("prefect-server", server, f"http://{HOST}:{prefect_port}/api/health")
        deploy(env)
        for name in end_orphans(f"{env['PREFECT_API_URL']}/flow_runs"):
            print(f"serve: run {name} was cut off with an earlier worker: marked as crashed. "
                  f"It goes on with: prefect flow-run retry {name}", flush=True)  # fmt: skip
        watched = {"prefect-server": server}
        for pool in POOLS:
            name = f"prefect-worker-{pool.rpartition('-')[2]}"
            watched[name] = start(name, "prefect", "worker", "start", "--pool", pool, "--name", f"local-{pool}")
        if page:
            watched["mlflow"] = page
            _ready("mlflow", page, f"http://{HOST}:{mlflow_port}/health")
        print(instructions(prefect_port, shown(uri) if away else f"http://{HOST}:{mlflow_port}{runs}"), flush=True)
        _wait(watched)


def end_orphans(flow_runs: str) -> list[str]:
    """Mark the pools' unfinished runs as crashed, and return their names: they would hold their places for ever.

    To be called before a worker starts. The server is this folder's own, and so was any worker before.
    """
    begun = {"state": {"type": {"any_": ["RUNNING", "PENDING", "CANCELLING"]}}}
    found = _post(f"{flow_runs}/filter", {"flow_runs": begun, "work_pools": {"name": {"any_": list(POOLS)}}})
    for run in found:
        state = {"type": "CRASHED", "message": "The worker was stopped while it ran."}
        _post(f"{flow_runs}/{run['id']}/set_state", {"state": state, "force": True})
    return [run["name"] for run in found]


def _post(url: str, content: dict[str, Any]) -> Any:
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(content).encode(), headers, method="POST")
    with _direct().open(request, timeout=30) as response:
        return json.load(response)


def _direct() -> urllib.request.OpenerDirector:
    """Without a proxy: a user's knows nothing of this machine."""
    return urllib.request.build_opener(urllib.request.ProxyHandler({}))


def instructions(prefect_port: int, mlflow: str) -> str:
    """Where the pages are and how a run is started; ``mlflow`` is the address of its page."""
    api = f"http://{HOST}:{prefect_port}/api"
    return f"""
Prefect  http://{HOST}:{prefect_port}
MLflow   {mlflow}

Run now:      PREFECT_API_URL={api} prefect deployment run nightly/nightly
With a knob:  PREFECT_API_URL={api} prefect deployment run on-demand/on-demand -p overrides='["quant.bits=5"]'
Stop:         Ctrl-C"""


def _mlflow(uri: str, port: int) -> list[str]:
    arguments = ["server", "--backend-store-uri", uri, "--host", HOST, "--port", str(port), "--workers", "1"]
    file = database_file(uri)
    return [*arguments, "--default-artifact-root", str(file.parent / "mlartifacts")] if file else arguments


def _free(flag: str, port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ConfigError(
                f"{HOST}:{port}: {error.strerror}; needed a free port",
                hint=f"python -m pipeline.serve {flag} {port + 1}",
            ) from None


def _ready(name: str, process: subprocess.Popen[str], url: str) -> None:
    """Return once ``url`` answers."""
    direct, end = _direct(), time.monotonic() + READY_SECONDS
    while True:
        with contextlib.suppress(OSError, urllib.error.URLError), direct.open(url, timeout=5):
            return
        if process.poll() is not None or time.monotonic() > end:
            state = f"ended with code {process.poll()}" if process.poll() is not None else "is not ready"
            said = last_lines((LOGS / f"{name}.log").read_text(encoding="utf-8", errors="replace"))
            raise FairwayError(f"{name}: {state}: {said}", hint=f"cat {LOGS}/{name}.log", code=Exit.RETRY)
        time.sleep(0.25)


def _wait(services: dict[str, subprocess.Popen[str]]) -> None:
    """Until SIGINT or SIGTERM comes or a service ends by itself."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup means it
            signal.signal(number, lambda number, _frame: received.append(number))
    while not received:
        time.sleep(0.5)
        for name, process in services.items():
            if process.poll() is not None:
                raise FairwayError(f"{name} ended with code {process.poll()}", hint=f"cat {LOGS}/{name}.log")
    print("stopping: workers, MLflow, server", flush=True)


def _installed(packages: Sequence[str]) -> None:
    from importlib.util import find_spec

    for package in packages:
        if find_spec(package) is None:
            raise ConfigError(
                f"{package} is not installed", hint="pip install -e '.[track,schedule]' -c constraints.txt"
            )


def main() -> None:
    """Parse the ports and serve."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prefect-port", type=int, default=4200)
    parser.add_argument("--mlflow-port", type=int, default=5000)
    arguments = parser.parse_args()
    _installed(("prefect", "mlflow"))
    serve(arguments.prefect_port, arguments.mlflow_port)


if __name__ == "__main__":
    run_main("serve", main)
