"""Flows under a real Prefect server and worker: registered, cancelled, killed and gone on with, two at once."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.scheduled import again
from pipeline.supervise import BusyError, locked
from tests.pipeline.prefect_server import ROOT, Server, alive, make_repository, running, wait_for

pytest.importorskip("prefect")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running(tmp_path_factory.mktemp("prefect")) as found:
        yield found


def ran(place: Path) -> list[str]:
    return (place / "ran").read_text().splitlines() if (place / "ran").is_file() else []


@pytest.mark.parametrize(
    ("name", "next_one"),
    [("merry-owl", ("merry-owl-resumed-1", 1)), ("merry-owl-resumed-2", ("merry-owl-resumed-3", 3)),
     ("a-resumed-run", ("a-resumed-run-resumed-1", 1)), ("a-resumed-1-resumed-9", ("a-resumed-1-resumed-10", 10))],
)  # fmt: skip
def test_a_resumption_is_counted_in_its_name(name: str, next_one: tuple[str, int]) -> None:
    assert again(name) == next_one


@pytest.mark.slow
def test_all_four_deployments_are_registered(server: Server) -> None:
    command = [sys.executable, "-m", "pipeline.deploy"]
    done = subprocess.run(command, cwd=ROOT, env=server.env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in server.ask("deployments/filter")}
    assert {name: one["work_pool_name"] for name, one in found.items()} == {
        "nightly": "fairway-gpu", "weekly-record": "fairway-gpu", "sweep": "fairway-gpu", "on-demand": "fairway-cpu",
    }  # fmt: skip
    pools = {one["name"]: one["concurrency_limit"] for one in server.ask("work_pools/filter")}
    assert pools["fairway-gpu"] == 1 <= pools["fairway-cpu"]
    assert [one["active"] for one in found["nightly"]["schedules"]] == [True]
    assert [one["active"] for one in found["weekly-record"]["schedules"]] == [False]


@pytest.mark.slow
def test_killed_it_goes_on_and_cancelled_nothing_of_it_is_left(server: Server, tmp_path: Path) -> None:
    """Ranks in sessions of their own that ignore every signal but SIGKILL; an engine that dies by it."""
    (tmp_path / "how").write_text("hang")
    repository = make_repository(tmp_path / "alone", tmp_path)
    text = (repository / "params.yaml").read_text()
    (repository / "params.yaml").write_text(text.replace("notify: ''", f"notify: {tmp_path / 'told'}"))
    server.register(repository, "alone")
    with server.worker(repository):
        run = server.start("alone")
        wait_for((tmp_path / "pids").is_file)
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        engine = supervisor_of(pids[0])
        (tmp_path / "pids").unlink()
        os.kill(engine, signal.SIGKILL)
        wait_for(lambda: not any(map(alive, pids)))
        wait_for((tmp_path / "pids").is_file)  # started again, by itself
        assert ran(tmp_path) == ["fetch 6", "train 6", "train 6"]
        pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
        assert all(map(alive, pids))
        assert server.state(run) == "Crashed"
        (run,) = server.unfinished()
        server.ask(f"flow_runs/{run}/set_state", state={"type": "CANCELLING"})
        assert server.finish(run) == "Cancelled"
        wait_for(lambda: not any(map(alive, pids)))
        told = tmp_path / "told"
        wait_for(lambda: told.is_file() and len(told.read_text().splitlines()) == 2)
        lines = [json.loads(line) for line in told.read_text().splitlines()]
        assert [line["state"] for line in lines] == ["Crashed", "Cancelling"]
    assert not [path for path in (repository / ".locks").iterdir() if not free(path)]


def free(lock: Path) -> bool:
    with contextlib.suppress(BusyError), locked(lock.name, lock.parent):
        return True
    return False


def supervisor_of(pid: int) -> int:
    """The engine: the nearest process above that runs Prefect."""
    while True:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        if any(word.startswith("prefect") for word in words):
            return pid


@pytest.mark.slow
def test_two_workers_share_a_remote_and_compute_nothing_twice(server: Server, tmp_path: Path) -> None:
    (tmp_path / "how").write_text("1")
    remote = tmp_path / "remote"
    pair = [make_repository(tmp_path / name, tmp_path, remote) for name in ("one", "two")]
    for repository in pair:
        server.register(repository, repository.name)
    with server.worker(pair[0]), server.worker(pair[1]):
        runs = [server.start(repository.name) for repository in pair]
        assert [server.finish(run) for run in runs] == ["Completed"] * 2
    assert sorted(ran(tmp_path)) == ["evaluate 6", "fetch 6", "train 6"]
    assert all((repository / "evaluate").read_text() == "6" for repository in pair)
    said = [line for run in runs for line in server.logs(run)]
    assert any("waiting: " in line and "/tmp/fairway-stages/" in line for line in said)
