"""``fairway save``: everything that a rented machine takes with it when it goes, to the remotes and read back.

DVC's cache and run-cache go to the default DVC remote; experiments to a Git remote; reports, logs, curves, the state of
the graph and MLflow's files to ``fairway/`` beside DVC's objects, each under its SHA-256 and never replaced, with one
list a save (``fairway/saves/TIME-HASH.json``: path to SHA-256). What was read back once is remembered, and only looked
for the next time. A part that fails does not keep the others from being saved.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from shutil import copyfile
from typing import NamedTuple

from golf.params.base import load
from golf.params.tracking import Tracking
from golf.runtime.errors import ConfigError, Exit, FairwayError
from golf.runtime.files import PARTIAL, read_json, write_json
from golf.runtime.place import top_folder
from pipeline.flows import StageFailed, failure
from pipeline.mlflow_store import absolute_uri, database_file
from pipeline.remote import Remote, open_remote, shown
from pipeline.supervise import locked

STATE = ("params.yaml", "dvc.yaml", "dvc.lock")
FOLDERS = ("reports", "logs")
MLFLOW_FOLDERS = ("mlartifacts", "mlruns")
REMEMBERED = Path(".dvc/tmp/fairway-read-back.json")  # what this machine has read back, by the remote's address
REFUSED = re.compile(r"ERROR: failed to transfer '[^']*' - (.+)")  # DVC's reason, before it counts the files
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
EXPERIMENT = re.compile(r"refs/exps/[0-9a-f]{2}/[0-9a-f]{38}/\S+")
Say = Callable[[str], None]


class Snapshot(NamedTuple):
    """Copies of loose files, which the runs that write the originals cannot change any more.

    Attributes:
        files: by path in the workspace.
        halves: paths of those that end in the middle, and how one sees it.
    """

    files: dict[str, Path]
    halves: dict[str, str]


def save(say: Say = print) -> None:
    """Push all, verify all; a line a part.

    Raises:
        ConfigError: there is no DVC remote; nothing was begun.
        BusyError: another save runs here.
        FairwayError: what was not saved, each part in a few words. The rest was, and nothing here was changed.
    """
    problems: list[FairwayError] = []

    def part(name: str, work: Callable[[], str]) -> None:
        try:
            say(f"ok    {name:12} {work()}")
        except (FairwayError, OSError) as error:
            told = error if isinstance(error, FairwayError) else _disk_failed(error)
            problems.append(told)
            say(f"fail  {name:12} {told}")

    with locked("save"), open_remote() as remote, tempfile.TemporaryDirectory(prefix="fairway-save-") as folder:
        memory = Memory(remote)
        part("cache", lambda: push_cache(remote, memory))
        part("experiments", push_experiments)
        part("files", lambda: push_files(remote, memory, Path(folder)))
        memory.keep()
    if problems:
        first, more = problems[0], f" (and {len(problems) - 1} more, above)" if len(problems) > 1 else ""
        raise FairwayError(f"not everything is saved{more}: {first}", code=first.code)


class Memory:
    """Which objects and files this remote has given back whole before."""

    def __init__(self, remote: Remote) -> None:
        self._address = remote.address
        try:
            found = read_json(REMEMBERED)
            self._all: dict[str, list[str]] = found if isinstance(found, dict) else {}
        except (OSError, ValueError):  # none, or half of one: all is read again
            self._all = {}
        self.seen = set(self._all.get(self._address, ()))

    def keep(self) -> None:
        """Write it down."""
        write_json(REMEMBERED, {**self._all, self._address: sorted(self.seen)})


def push_cache(remote: Remote, memory: Memory) -> str:
    """``dvc push`` and the run-cache, then every object of dvc.lock against its MD5, as the remote gives it back.

    Raises:
        StageFailed: DVC could not push.
        FairwayError: an object is not there (DVC itself only warns of it), or is another one.
    """
    _run("cache", [sys.executable, "-m", "dvc", "--wait-for-lock", "push"])
    remote.push_runs()  # dvc push --run-cache would send notes of experiments without the files that they name
    wanted = remote.used_objects()
    there = remote.objects(wanted)
    missing = [oid for oid in wanted if oid not in there]
    if missing:
        here = remote.is_here(missing[0])
        raise FairwayError(
            f"{len(missing)} of {len(wanted)} outputs' files are not on remote {remote.name!r}, {missing[0]} first, "
            f"which is {'' if here else 'not '}in this machine's cache",
            hint="dvc push --verbose" if here else "dvc status, and dvc repro of what it names",
            code=Exit.DATA,
        )
    unread = [oid for oid in wanted if oid not in memory.seen]
    for oid in unread:
        found = remote.object_digest(oid)
        if found != oid.removesuffix(".dir"):
            raise FairwayError(
                f"remote {remote.name!r} holds another content than {oid}: found MD5 {found}; the one here is whole",
                hint="delete that object on the remote, then fairway save",
                code=Exit.DATA,
            )
        memory.seen.add(oid)
    return f"{len(wanted)} files on {shown(remote.address)}, {len(unread)} of them read back now"


def push_experiments() -> str:
    """``dvc exp push`` of all, to ``origin`` or else the first Git remote; its references against ours.

    Raises:
        StageFailed: Git or DVC could not push.
        FairwayError: the remote has another commit for an experiment.
    """
    if not _commit():
        return "none: no Git repository, or no commit"
    ours = _references(["git", "for-each-ref", "--format=%(objectname) %(refname)", "refs/exps"])
    if not ours:
        return "none"
    remotes = _run("experiments", ["git", "remote"]).split()
    if not remotes:
        raise ConfigError(
            f"{len(ours)} experiments, and no Git remote to keep them", hint="git remote add origin ADDRESS"
        )
    target = "origin" if "origin" in remotes else remotes[0]
    _run("experiments", [sys.executable, "-m", "dvc", "exp", "push", "--all-commits", "--run-cache", target])
    theirs = _references(["git", "ls-remote", target, "refs/exps/*"])
    lost = [name for name, commit in ours.items() if theirs.get(name) != commit]
    if lost:
        raise FairwayError(
            f"Git remote {target!r} has another commit, or none, for {len(lost)} of {len(ours)} experiments: "
            f"{lost[0].rpartition('/')[2]} first",
            hint=f"dvc exp push --force {target} {lost[0].rpartition('/')[2]}",
            code=Exit.DATA,
        )
    return f"{len(ours)} on Git remote {target}, commits compared"


def push_files(remote: Remote, memory: Memory, scratch: Path) -> str:
    """Loose files by their SHA-256, then the list of them.

    Raises:
        FairwayError: the remote gave back something else; or a file ends in its middle, which is saved as it is.
    """
    snapshot = take_snapshot(Path.cwd(), scratch)
    listed = {name: _keep(remote, memory, path) for name, path in snapshot.files.items()}
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    listing = scratch / "listing.json"
    listing.write_text(json.dumps({"time": stamp, "commit": _commit(), "files": listed}, indent=1))
    digest = hashlib.sha256(listing.read_bytes()).hexdigest()
    key = f"saves/{stamp}-{digest[:8]}.json"  # a clock that is set back replaces nothing
    remote.put(listing, key)
    _compare(remote, key, digest)
    if snapshot.halves:
        name, how = next(iter(snapshot.halves.items()))
        more = f" (and {len(snapshot.halves) - 1} more)" if len(snapshot.halves) > 1 else ""
        raise FairwayError(
            f"{name}: half-written: {how}{more}; saved as it is, with all other files, as {key}",
            hint="fairway save again when the run that writes it has ended",
            code=Exit.DATA,
        )
    return f"{len(listed)}, each read back; listed in {key}"


def take_snapshot(root: Path, scratch: Path) -> Snapshot:
    """Copy the loose files under ``root`` to ``scratch``: reports, logs, the graph's state, MLflow's."""
    names = [name for name in STATE if (root / name).is_file()]
    found = {name: root / name for name in names}
    for folder in FOLDERS:
        found |= _files(root, root / folder)
    top = top_folder(root)
    database = database_file(absolute_uri(load(Tracking).uri, top))
    for folder in MLFLOW_FOLDERS:
        found |= _files(top, (database.parent if database else top) / folder)
    copies: dict[str, Path] = {}
    halves: dict[str, str] = {}
    for number, (name, path) in enumerate(found.items()):
        try:
            copyfile(path, copy := scratch / str(number))
        except FileNotFoundError:  # gone since it was listed
            continue
        copies[name] = copy
        if how := half_written(name, copy):
            halves[name] = how
    if database and database.is_file():
        copies[database.name] = copy = scratch / "database"
        if how := _copy_database(database, copy):
            halves[database.name] = how
    return Snapshot(copies, halves)


def _files(root: Path, folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        return {}
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(PARTIAL))
    return {str(path.relative_to(root) if path.is_relative_to(root) else path): path for path in paths}


def _copy_database(source: Path, target: Path) -> str:
    """By SQLite's own means, as a plain copy of a database that is being written is none; why that failed, or nothing.

    What SQLite cannot read is copied as it is.
    """
    address = f"{source.resolve().as_uri()}?mode=ro"
    try:
        with closing(sqlite3.connect(address, uri=True)) as database, closing(sqlite3.connect(target)) as copy:
            database.backup(copy)
    except sqlite3.Error as error:
        target.unlink(missing_ok=True)
        copyfile(source, target)  # a full disk fails here, too
        return str(error)
    return ""


def half_written(name: str, path: Path) -> str:
    """How one sees that a log or report ends in the middle; empty where it is whole, or of a kind that cannot tell."""
    if not name.endswith((".json", ".jsonl", ".csv")):
        return ""
    content = path.read_bytes()
    if not content:
        return "it is empty"
    if name.endswith(".json"):
        return "" if _is_json(content) else "its JSON has no end"
    last = content.splitlines()[-1]
    if not content.endswith(b"\n") and (name.endswith(".csv") or not _is_json(last)):
        return "its last line has no end"
    return "" if name.endswith(".csv") or _is_json(last) else "its last line is no JSON"


def _is_json(content: bytes) -> bool:
    try:
        json.loads(content)
    except ValueError:
        return False
    return True


def _keep(remote: Remote, memory: Memory, path: Path) -> str:
    """Put a file where its content says, unless it is there; read it back once."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    key = f"files/{digest[:2]}/{digest[2:]}"
    if key in memory.seen and remote.has(key):
        return digest
    if remote.digest(key) != digest:
        remote.put(path, key)
        _compare(remote, key, digest)
    memory.seen.add(key)
    return digest


def _compare(remote: Remote, key: str, digest: str) -> None:
    found = remote.digest(key)
    if found != digest:
        raise FairwayError(
            f"remote {remote.name!r} gave back another content for {key}: SHA-256 {found}, needed {digest}",
            hint="fairway save again, or another remote",
            code=Exit.RETRY,
        )


def _disk_failed(error: OSError) -> FairwayError:
    where = error.filename2 or error.filename or tempfile.gettempdir()
    text = f"{where}: {error.strerror or error}; what is on this machine is untouched"
    return FairwayError(text, hint=f"df -h {tempfile.gettempdir()}, or TMPDIR on a larger disk", code=Exit.IO)


def _references(command: list[str]) -> dict[str, str]:
    """Experiments' references and their commits; Git's and DVC's own notes beside them are left out."""
    pairs = (line.split(maxsplit=1) for line in _run("experiments", command).splitlines())
    return {name: commit for commit, name in pairs if EXPERIMENT.fullmatch(name)}


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def _run(what: str, command: Iterable[str]) -> str:
    words = list(command)
    done = subprocess.run(words, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        said = failure(lines, done.returncode)[0]
        said = said.removeprefix("unexpected error - ")
        if said.startswith("dvc: exit") and lines:
            said = lines[-1]
        if why := next((found[1] for line in lines if (found := REFUSED.match(line))), ""):
            said = f"{said}: {why}"
        disk = any(os.strerror(number) in done.stderr for number in FULL)
        said = shown(said)  # Git names its remote by the whole address
        raise StageFailed(f"{what}: {said}; what is on this machine is untouched", Exit.IO if disk else Exit.RETRY)
    return done.stdout
