"""The workspace that all candidates start from, which DVC borrows whenever a run begins.

Even with ``--temp`` DVC begins in the workspace: for about a second it puts uncommitted changes aside, detaches HEAD,
writes the overrides into params.yaml, takes its copy, and puts back what was there. So a sweep reads params.yaml only
while no run begins, and what a SIGKILL in that second leaves is put back when the sweep goes on, as far as it can only
be DVC's: params.yaml empty or with the overrides of a run that had begun, HEAD detached at the same commit.
"""

from __future__ import annotations

import hashlib
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from golf.params.base import PARAMS_FILE, parse_yaml
from golf.runtime.errors import ConfigError
from golf.runtime.files import write_bytes
from pipeline.supervise import GRACE, LOCKS, BusyError, locked

SLOT = "sweep-"
DVC_LOCK = "refs/exps/stash.lock"
PACKED = ".dvc/tmp/repro.dat"  # DVC's note to the copy of what to run


def workspace_state(root: Path) -> str:
    """A hash of what every candidate starts from: the commit, and what differs from it in tracked files.

    Reports and dvc.lock are results: a nightly run before the sweep goes on changes nothing.

    Raises:
        ConfigError: this is no Git repository with a commit.
    """
    parts = []
    for words in (["rev-parse", "HEAD"], ["diff", "HEAD", "--binary", "--", ".", ":!reports", ":!dvc.lock"]):
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, check=False)
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise ConfigError(
                f"{root}: git {words[0]}: {said[0] if said else 'failed'}; needed a repository with a commit",
                hint="git init && dvc init && git commit",
            )
        parts.append(done.stdout)
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def branch(root: Path) -> str:
    """The branch that is checked out, as a full ref; empty if none is."""
    return _git(root, "symbolic-ref", "--quiet", "HEAD")


def settle(grace: float = GRACE) -> None:
    """Wait until a killed sweep's runs have ended.

    Raises:
        BusyError: one lives longer than its supervisor lets it.
    """
    deadline = time.monotonic() + grace + 15
    for path in sorted(LOCKS.glob(f"{SLOT}*")):
        while True:
            try:
                with locked(path.name):
                    break
            except BusyError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.5)


def keep(root: Path, logs: Path) -> None:
    """Copy params.yaml to the sweep's ``logs``, for :func:`put_back`."""
    write_bytes(logs / PARAMS_FILE.name, (root / PARAMS_FILE).read_bytes())


def put_back(root: Path, logs: Path, state: str, head: str, begun: Sequence[Sequence[str]]) -> list[str]:
    """Undo what DVC was killed at, and say what; ``state`` and branch ``head``: of before; ``begun``: runs' overrides.

    Nothing that a person may have written is touched: params.yaml is put back if it is empty, or is the kept one with
    the overrides of one of the runs; HEAD, if it is at the tip of the branch that it was on.
    """
    told = []
    file, kept = root / PARAMS_FILE, logs / PARAMS_FILE.name
    lock = root / _git(root, "rev-parse", "--git-path", DVC_LOCK)
    if begun and lock.is_file():  # nobody but DVC makes it, and the runs have ended
        lock.unlink()
        told.append(f"{DVC_LOCK}: removed; a kill had left it")
    staged = _git(root, "show", f":{PARAMS_FILE}").encode()
    packed = bool(_git(root, "ls-files", "--", PACKED))  # only DVC puts it into the index
    if packed or (kept.is_file() and _is_left(staged, kept.read_bytes(), begun)):
        _git(root, "rm", "--cached", "--quiet", "--force", "--ignore-unmatch", "--", PACKED)
        _git(root, "reset", "--quiet", "--", str(PARAMS_FILE))  # the index alone
        told.append("Git's index: put back; a kill had left a run in it")
    if kept.is_file() and file.is_file() and workspace_state(root) != state:
        before, found = kept.read_bytes(), file.read_bytes()
        if found != before and _is_left(found, before, begun):
            write_bytes(logs / f"{PARAMS_FILE.name}.found", found)
            write_bytes(file, before)
            told.append("params.yaml: put back; a kill had left a run's overrides in it")
    if head and not branch(root) and _git(root, "rev-parse", head) == _git(root, "rev-parse", "HEAD"):
        _git(root, "symbolic-ref", "HEAD", head)
        told.append(f"{head}: checked out again; a kill had left HEAD detached")
    return told


def _is_left(found: bytes, before: bytes, begun: Sequence[Sequence[str]]) -> bool:
    import yaml

    if not found:
        return True
    try:
        document = parse_yaml(found.decode())
        for overrides in begun:
            expected = parse_yaml(before.decode())
            for override in overrides:
                key, _, text = override.partition("=")
                section, _, name = key.partition(".")
                value = parse_yaml(text)
                if name:
                    expected[section][name] = value
                else:
                    expected[section] = value
            if document == expected:
                return True
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError):
        return False
    return False


def _git(root: Path, *arguments: str) -> str:
    """What Git says; nothing if it fails."""
    done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False)
    return done.stdout.strip()
