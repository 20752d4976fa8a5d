"""Flows: DVC under supervision, the stage's own exit code, retries for a machine's failure alone."""

import json
import logging
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from golf.runtime.errors import ConfigError, Exit
from pipeline import flows, table
from pipeline.supervise import BusyError, locked
from pipeline.use import replace

ROOT = Path(__file__).resolve().parents[2]
STAGE = """
import json, os, pathlib, sys, yaml
bits = yaml.safe_load(open("params.yaml"))["quant"]["bits"]
tries = pathlib.Path("tries")
tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
if bits == 6:
    sys.exit(print("gate: size gate: 16,012,334 bytes > 16,000,000", file=sys.stderr) or 65)
if bits == 7:
    os.kill(os.getpid(), 9)
if bits == 8 and len(tries.read_text()) < 3:
    sys.exit(print("gate: NCCL is gone", file=sys.stderr) or 75)
pathlib.Path("out.json").write_text(json.dumps({"bits": bits}))
"""


def shell(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DVC repository with one stage that fails in every way, by ``quant.bits``."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(ROOT / ".dvc", tmp_path / ".dvc", ignore=shutil.ignore_patterns("tmp", "cache"))
    (tmp_path / "gate.py").write_text(STAGE)
    (tmp_path / "corpus").touch()
    bits(5)
    stage = {
        "cmd": "python gate.py",
        "params": ["quant.bits"],
        "deps": ["gate.py", "corpus"],
        "metrics": [{"out.json": {"cache": False}}],
    }
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"gate": stage}}))
    (tmp_path / ".gitignore").write_text("/tries\n/.locks/\n/data/source/*/*\n!/data/source/*/README.md\n")
    for name in ("train", "val", "tokenizer"):
        (tmp_path / "data/source" / name).mkdir(parents=True)
        (tmp_path / "data/source" / name / "README.md").write_text("Put it here.\n")
    shell("git", "init", "-q", ".")
    commit("start")
    return tmp_path


def commit(message: str) -> None:
    shell("git", "add", "-A")
    shell("git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", message)


def bits(value: int) -> None:
    Path("params.yaml").write_text(replace((ROOT / "params.yaml").read_text(), ("quant", "bits"), value))


def test_every_stage_is_in_one_group_in_the_graph_s_order() -> None:
    stages = list(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])
    assert [stage for group in flows.GROUPS for stage in group] == stages


@pytest.mark.parametrize(
    ("lines", "code", "expected"),
    [
        (["gate: too big", "ERROR: failed to reproduce 'gate@42': failed to run: python -m x, exited with 65"],
         255, ("gate: too big", 65)),
        (["ERROR: failed to reproduce 'train@1': failed to run: x, exited with -9"],
         255, ("train@1: ended by signal 9", 137)),
        (["ERROR: failed to reproduce 'train@1': failed to run: x, exited with 137"],
         255, ("train@1: ended by signal 9", 137)),
        (["train: 10% 3s, 20s left", "ERROR: failed to reproduce 'train@1': failed to run: x, exited with 1"],
         255, ("train@1: exit code 1; see the log", 1)),
        (["ERROR: failed to reproduce 'fetch': [Errno 2] No such file or directory: '/corpus'"],
         255, ("fetch: /corpus: no such file or folder, needed as a parameter names it. Try: dvc params diff", 66)),
        (["ERROR: Unable to acquire lock"], 255, ("Unable to acquire lock", 255)),
        ([], 255, ("dvc: exit code 255", 255)),
        (["ERROR: the stage printed this, exited with 75", "x"], 1, ("the stage printed this, exited with 75", 1)),
    ],
)  # fmt: skip
def test_failure_reads_the_stage_s_exit_code(lines: list[str], code: int, expected: tuple[str, int]) -> None:
    assert flows.failure(lines, code) == expected


@pytest.mark.parametrize("user_shell", ["/bin/sh", "/bin/bash"])
def test_dvc_s_real_words_are_understood(user_shell: str, repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The installed DVC under either shell: a new wording would show here, not in a night's run."""
    if not Path(user_shell).exists():
        pytest.skip(f"no {user_shell} here")
    monkeypatch.setenv("SHELL", user_shell)
    said: list[str] = []
    flows.reproduce(["gate"], said.append)
    assert json.loads(Path("out.json").read_text()) == {"bits": 5}
    assert any("Running stage" in line for line in said)
    Path("corpus").unlink()
    with pytest.raises(flows.StageFailed, match=r"gate: .*corpus: no such file or folder") as caught:
        flows.reproduce(["gate"], said.append)
    assert caught.value.state == "InputMissing"
    Path("corpus").touch()
    for value, message, code in (
        (6, "gate: size gate: 16,012,334 bytes > 16,000,000", Exit.DATA),
        (7, "gate: ended by signal 9", 137),
        (8, "gate: NCCL is gone", Exit.RETRY),
    ):
        Path("tries").unlink(missing_ok=True)
        bits(value)
        with pytest.raises(flows.StageFailed) as caught:
            flows.reproduce(["gate"], said.append)
        assert (str(caught.value), caught.value.code) == (message, code)


def test_an_experiment_leaves_the_workspace_alone(repository: Path) -> None:
    flows.reproduce(["gate"], lambda line: None)
    commit("done")
    before = {path: Path(path).read_bytes() for path in ("params.yaml", "dvc.lock", "out.json")}
    name = flows.experiment(["quant.bits=4"], lambda line: None)
    assert {path: Path(path).read_bytes() for path in before} == before
    ref = shell("git", "for-each-ref", "--format=%(refname)", "refs/exps").split()
    assert any(line.endswith(f"/{name}") for line in ref)
    commit_of = next(line for line in ref if line.endswith(f"/{name}"))
    assert json.loads(shell("git", "show", f"{commit_of}:out.json")) == {"bits": 4}


@pytest.mark.parametrize("override", ["quant.bits", "--force", "=5", "quant.bits=", "rm -rf x=1", "-S=5"])
def test_an_override_that_is_none_is_refused(override: str) -> None:
    with pytest.raises(ConfigError, match=r"needed section\.key=value"):
        flows.experiment([override], print)


@pytest.mark.parametrize("override", ["optim.beta1=0.85", "+hardware.nccl.NCCL_NET=Socket", "seeds=[42,7]"])
def test_an_override_of_any_key_reaches_dvc(override: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(flows, "untracked_inputs", list)
    monkeypatch.setattr(flows, "dvc", lambda arguments, log, **_: asked.extend(arguments))
    flows.experiment([override], print)
    assert asked == ["exp", "run", "--temp", "--set-param", override]


def test_the_user_s_own_text_goes_along(repository: Path) -> None:
    assert flows.untracked_inputs() == []
    (repository / "data/source/train/mine.jsonl").write_text('{"text": "x"}\n')
    (repository / "data/source/train/more").mkdir()
    (repository / "data/source/train/more/b.txt").write_text("x")
    assert flows.untracked_inputs() == ["data/source/train/mine.jsonl", "data/source/train/more"]


def test_a_file_in_an_unknown_folder_goes_with_its_folder(repository: Path) -> None:
    (repository / "models").mkdir()
    (repository / "models/x.model").write_text("x")
    assert flows._copied(Path("models/x.model")) == "models"
    (repository / "y.model").write_text("x")
    assert flows._copied(Path("y.model")) == "y.model"


def test_two_runs_do_not_share_the_graph(repository: Path) -> None:
    with locked(flows.LOCK), pytest.raises(BusyError) as caught:
        flows.reproduce(["gate"], print)
    assert caught.value.code == Exit.RETRY


def test_importing_the_module_does_not_import_prefect() -> None:
    code = "import sys, pipeline.flows; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
    with pytest.raises(AttributeError):
        flows.weekly  # noqa: B018


def test_prefect_yaml_deploys_every_flow_one_run_at_a_time() -> None:
    deployments = {item["name"]: item for item in yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]}
    assert set(deployments) == {"nightly", "weekly-record", "sweep", "on-demand"}
    for name, item in deployments.items():
        assert item["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
        assert item["entrypoint"] == f"pipeline/flows.py:{name.replace('-', '_')}"
        assert item["work_pool"] == {"name": "fairway-cpu" if name == "on-demand" else "fairway-gpu"}
    assert deployments["weekly-record"]["parameters"] == {"profile": "record", "overrides": []}
    assert deployments["weekly-record"]["schedules"][0]["active"] is False
    assert deployments["nightly"]["schedules"][0]["cron"]
    assert deployments["on-demand"]["parameters"] == {"overrides": []}


@pytest.mark.slow
def test_flows_in_prefect(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Prefect itself: a machine's failure is retried, a refused artifact is not, and states say which it was."""
    prefect = pytest.importorskip("prefect")
    from prefect.testing.utilities import prefect_test_harness

    importable = __import__("prefect.server.api.server", fromlist=["server"])  # breaks with too new a fastapi
    assert importable is not None
    logging.getLogger("prefect").setLevel(logging.ERROR)
    monkeypatch.setattr(flows, "GROUPS", (("gate",),))
    monkeypatch.setattr(flows, "FIRST_DELAY", 0.1)
    monkeypatch.setattr(table, "rows", lambda seeds: [])
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    baseline = yaml.safe_load((ROOT / "params.yaml").read_text())["stats"]["baseline"]
    (repository / baseline).parent.mkdir(parents=True)
    shutil.copy(ROOT / baseline, repository / baseline)
    bits(8)
    built = flows.build()
    assert isinstance(built["nightly"], prefect.Flow)
    with prefect_test_harness(server_startup_timeout=120):
        state = built["nightly"](return_state=True)
        assert state.is_completed()
        assert len(Path("tries").read_text()) == 3
        Path("tries").unlink()
        bits(6)
        state = built["nightly"](return_state=True)
        assert (state.is_failed(), state.name) == (True, "Refused")
        assert state.message == "gate: size gate: 16,012,334 bytes > 16,000,000"
        assert len(Path("tries").read_text()) == 1
        Path("params.yaml").write_text(replace((ROOT / "params.yaml").read_text(), ("data", "path"), "/nowhere"))
        state = built["nightly"](return_state=True)
        assert (state.is_failed(), state.name) == (True, "InputMissing")
        assert state.message.startswith("data.path: /nowhere: no such file or folder. Try: ")
        state = built["on_demand"](overrides=["nonsense"], return_state=True)
        assert (state.is_failed(), state.name) == (True, "Misconfigured")


def test_a_night_without_mlflow_is_complete_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("prefect")
    import prefect.artifacts

    from pipeline import scheduled

    monkeypatch.chdir(ROOT)
    shown: list[str] = []
    monkeypatch.setattr(prefect.artifacts, "create_markdown_artifact", lambda text, **_: shown.append(text))
    monkeypatch.setattr(scheduled, "preflight", lambda: None)
    monkeypatch.setattr(scheduled.table, "rows", lambda seeds: [])
    monkeypatch.setattr(scheduled.table, "verdict", lambda seeds: "no claim")

    class Task:
        error = flows.StageFailed("track: MLflow at http://x: refused", Exit.RETRY)

        def with_options(self, **_: object) -> "Task":
            return self

        def __call__(self, group: list[str]) -> None:
            if "track" in group:
                raise self.error

    task = Task()
    nightly = scheduled._flows({"repro": task})["nightly"]
    state = nightly()
    assert (state.is_completed(), state.name, state.message) == (True, "NotTracked", str(task.error))
    assert shown
    task.error = flows.StageFailed("track: tracking.uri: found 'x'", Exit.CONFIG)
    assert nightly().name == "Misconfigured"
