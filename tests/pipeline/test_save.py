"""A save arrives, is read back, and what goes wrong costs nothing that is here or there."""

import errno
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from golf.runtime.errors import ConfigError, Exit, FairwayError
from pipeline import remote as remote_module
from pipeline import save as module
from pipeline.save import half_written, save
from pipeline.supervise import BusyError, locked
from tests.pipeline.dvc_folder import make_dvc
from tests.stages.world import ROOT, write_params

GRAPH = """stages:
  first:
    cmd: mkdir -p out && cat dep > out/x && echo more > out/y && echo '{"a":1}' > m.json
    deps: [dep]
    outs: [out]
    metrics: [{m.json: {cache: false}}]
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with a result, reports, logs and a database; a Git remote beside it. The DVC remote: ``../store``."""
    top = tmp_path_factory.mktemp("save")
    folder = top / "work"
    folder.mkdir()
    (folder / "dep").write_text("one")
    (folder / "dvc.yaml").write_text(GRAPH)
    (folder / ".gitignore").write_text("/out\n/logs\n/reports\n/mlflow.db\n/mlartifacts\n/.locks\n/params.yaml\n")
    git, dvc = "git -c user.name=t -c user.email=t@t", f"{sys.executable} -m dvc"
    make_dvc(folder, "../../store")
    run(folder, "git init -q .", f"{dvc} repro -q", "git add -A", f"{git} commit -qm start",
        f"git clone -q --bare . {top}/origin.git", "git remote add origin ../origin.git")  # fmt: skip
    write_params(folder)
    for name, text in {
        "reports/gate/42.json": '{"bytes": 1}', "reports/curves/42.csv": "step,loss\n1,2.0\n",
        "logs/mlflow.log": "started", "mlartifacts/1/a.json": "{}",
    }.items():  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    with closing(sqlite3.connect(folder / "mlflow.db")) as database:
        database.execute("CREATE TABLE runs (id)")
        database.execute("INSERT INTO runs VALUES (7)")
        database.commit()
    return top


@pytest.fixture
def here(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout; its remote is the folder ``../store``."""
    shutil.copytree(template, tmp_path / "top", symlinks=True)
    (tmp_path / "top/store").mkdir()
    monkeypatch.chdir(tmp_path / "top/work")
    return tmp_path / "top/work"


@pytest.fixture
def files_alone(here: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, where DVC and Git have nothing to do."""
    monkeypatch.setattr(module, "push_cache", lambda *_: "")
    monkeypatch.setattr(module, "push_experiments", lambda: "")
    return here


def run(folder: Path, *commands: str) -> None:
    identity = {f"GIT_{who}_{what}": "t@t" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in commands:
        done = subprocess.run(
            command.split(), cwd=folder, env={**os.environ, **identity, "PATH": path},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr


def saved(here: Path) -> dict[str, bytes]:
    """Of the newest list: every file's content on the remote, by its path."""
    folder = here.parent / "store/fairway"
    listing = max((folder / "saves").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    files = json.loads(listing.read_text())["files"]
    return {name: (folder / "files" / digest[:2] / digest[2:]).read_bytes() for name, digest in files.items()}


def contents(folder: Path) -> dict[str, str]:
    """Digests of everything in the workspace but DVC's and our own notes."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not {".git", "tmp", ".locks"} & set(path.relative_to(folder).parts)
    }


def test_everything_arrives_and_is_read_back_once(here: Path) -> None:
    before, lines = contents(here), list[str]()
    save(lines.append)
    assert [line.split()[:2] for line in lines] == [["ok", "cache"], ["ok", "experiments"], ["ok", "files"]]
    assert "3 files on " in lines[0]
    assert "3 of them read back now" in lines[0]
    found = saved(here)
    for name in ("params.yaml", "dvc.lock", "reports/gate/42.json", "logs/mlflow.log", "mlartifacts/1/a.json"):
        assert found[name] == (here / name).read_bytes()
    (copy := here.parent / "copy.db").write_bytes(found["mlflow.db"])
    with closing(sqlite3.connect(copy)) as database:
        assert database.execute("SELECT id FROM runs").fetchall() == [(7,)]
    assert contents(here) == before
    save(lines.append)
    assert "0 of them read back now" in lines[3]
    module.REMEMBERED.write_text('{"half": [')  # half of what is remembered is nothing remembered
    save(lines.append)
    assert "3 of them read back now" in lines[6]
    assert all(line.startswith("ok ") for line in lines)


@pytest.mark.slow
def test_a_fresh_clone_gets_the_result_from_the_remotes(here: Path) -> None:
    run(here, f"{sys.executable} -m dvc exp run -q -n idea --set-param +note=1")
    lines = list[str]()
    save(lines.append)
    assert "1 on Git remote origin, commits compared" in lines[1]
    shutil.rmtree(here)
    run(here.parent, "git clone -q origin.git work")
    run(here, f"{sys.executable} -m dvc pull -q", f"{sys.executable} -m dvc exp pull -q origin idea")
    assert (here / "out/x").read_text() == "one"


def test_without_a_remote_nothing_is_begun(here: Path) -> None:
    make_dvc(here)
    lines = list[str]()
    with pytest.raises(ConfigError, match=r"no default DVC remote .* Try: dvc remote add -d"):
        save(lines.append)
    assert not lines


def test_a_storage_whose_package_is_missing_is_named(here: Path) -> None:
    make_dvc(here, "hdfs://host/path")
    with pytest.raises(ConfigError, match=r"DVC remote: hdfs .* Try: pip install dvc-hdfs"):
        save(lambda _: None)


def test_a_remote_that_refuses_is_one_error_and_the_experiments_are_still_saved(here: Path) -> None:
    before = contents(here)
    (here.parent / "store").rmdir()
    (here.parent / "store").write_text("a file")
    lines = list[str]()
    with pytest.raises(FairwayError, match=r"not everything is saved \(and 1 more, above\): cache: ") as caught:
        save(lines.append)
    assert caught.value.code in (Exit.RETRY, Exit.IO)
    assert [line.split()[0] for line in lines] == ["fail", "ok", "fail"]
    assert "refuses: " in lines[2]
    assert all("\n" not in line for line in lines)
    assert contents(here) == before


@pytest.mark.parametrize("gone", [False, True])
def test_an_object_that_is_another_or_nowhere_is_named(here: Path, gone: bool) -> None:
    save(lambda _: None)
    oid = hashlib.md5(b"one").hexdigest()
    path = here.parent / "store/files/md5" / oid[:2] / oid[2:]
    path.chmod(0o644)
    if gone:  # DVC only warns of what is neither here nor there
        path.unlink()
        shutil.rmtree(here / ".dvc/cache/files/md5" / oid[:2])
    else:
        path.write_text("two")
        module.REMEMBERED.unlink()
    with pytest.raises(
        FairwayError, match="which is not in this machine's cache" if gone else "another content than"
    ) as caught:
        save(lambda _: None)
    assert oid in str(caught.value)
    assert caught.value.code == Exit.DATA


def test_a_disk_that_fills_up_leaves_no_half_and_the_next_save_completes(
    files_alone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, put = contents(files_alone), remote_module.Remote.put

    def fills_up(self: Any, source: Path, key: str) -> None:
        def half(_source: str, path: str) -> None:
            Path(path).write_bytes(source.read_bytes()[:3])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

        with monkeypatch.context() as patch:
            patch.setattr(self._fs, "put_file", half)
            put(self, source, key)

    with monkeypatch.context() as patch:
        patch.setattr(remote_module.Remote, "put", fills_up)
        with pytest.raises(FairwayError, match=r"refuses: OSError: .*No space left on device") as caught:
            save(lambda _: None)
    assert caught.value.code == Exit.IO
    assert contents(files_alone) == before
    assert not [path for path in (files_alone.parent / "store/fairway").rglob("*") if path.is_file()]
    save(lambda _: None)
    assert saved(files_alone)["reports/gate/42.json"] == b'{"bytes": 1}'


def test_no_room_for_the_copies_here(files_alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(module, "copyfile", full)
    with pytest.raises(FairwayError, match=r"No space left on device; what is on this machine is untouched") as caught:
        save(lambda _: None)
    assert caught.value.code == Exit.IO


def test_a_half_written_log_is_saved_as_it_is_and_said(files_alone: Path) -> None:
    (files_alone / "reports/gate/42.json").write_text('{"bytes": ')
    (files_alone / "reports/gate/.42.json.x.partial").write_text("what a killed process left")
    with pytest.raises(
        FairwayError, match=r"reports/gate/42\.json: half-written: its JSON has no end; saved"
    ) as caught:
        save(lambda _: None)
    assert caught.value.code == Exit.DATA
    found = saved(files_alone)
    assert found["reports/gate/42.json"] == b'{"bytes": '
    assert "reports/curves/42.csv" in found
    assert not [name for name in found if name.endswith(".partial")]


@pytest.mark.parametrize(
    ("name", "content", "half"),
    [
        ("a.jsonl", b'{"a": 1}\n{"a": 2}\n', False), ("a.jsonl", b'{"a": 1}\n{"a":', True),
        ("a.jsonl", b'{"a": 1}\n{"a": 2}', False), ("a.jsonl", b'{"a": 1}\nnothing\n', True),
        ("a.json", b"{}", False), ("a.json", b"\xff", True), ("a.csv", b"a,b\n1,2\n", False),
        ("a.csv", b"a,b\n1,", True), ("a.csv", b"", True), ("a.log", b"no end", False), ("a.png", b"", False),
    ],
)  # fmt: skip
def test_halves_are_seen_by_their_ends(tmp_path: Path, name: str, content: bytes, half: bool) -> None:
    (tmp_path / name).write_bytes(content)
    assert bool(half_written(name, tmp_path / name)) == half


def test_a_broken_database_costs_the_other_files_nothing(files_alone: Path) -> None:
    (files_alone / "mlflow.db").write_bytes(b"no database, and long enough to be looked at" * 100)
    with pytest.raises(FairwayError, match=r"mlflow\.db: half-written: file is not a database; saved as it is"):
        save(lambda _: None)
    assert saved(files_alone)["mlflow.db"] == (files_alone / "mlflow.db").read_bytes()


def test_two_saves_at_once_are_refused(here: Path) -> None:
    with locked("save"), pytest.raises(BusyError, match=r"\.locks/save: held by process"):
        save(lambda _: None)


def test_the_command_prints_its_lines_and_the_error_is_the_exit_code(here: Path) -> None:
    (here / "reports/gate/42.json").write_text("")
    command = [sys.executable, "-m", "pipeline.cli", "save"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == Exit.DATA
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ok", "ok", "fail"]
    assert done.stderr.startswith("fairway: not everything is saved: reports/gate/42.json: half-written: it is empty")
    assert done.stderr.count("\n") == 1
