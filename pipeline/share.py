"""Workers that share a DVC remote: what one computes the others fetch, and none computes what another is at.

With a default remote, each stage of a flow is pushed as soon as it has ended, and each flow looks there before it
computes (``dvc repro --pull``). Between the two, workers of one machine, each in a checkout of its own, wait for each
other: a flow holds a lock a stage, named by all that decides the stage's result, until that result is on the remote.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from golf.params.base import PARAMS_FILE, parse_yaml, read_document
from pipeline.campaign.sweep.sharing import read_graph
from pipeline.supervise import locked, patiently, shared_folder

NODE = Path("/tmp/fairway-stages")  # one place for all users and checkouts of the machine
CODE = (".py", ".txt", ".json", ".yaml")  # of dependencies: what is compared by content. Data is named by parameters
_PLAIN = re.compile(r"(\w+)(?:\.(\w+))?=(.+)", re.DOTALL)


def remote_address(root: Path) -> str:
    """Where DVC's default remote is, a path made absolute; empty if there is none."""
    listing = subprocess.run(
        [sys.executable, "-m", "dvc", "config", "--list"], cwd=root, capture_output=True, text=True, check=False
    )
    settings = dict(line.partition("=")[::2] for line in listing.stdout.splitlines())
    url = settings.get(f"remote.{settings.get('core.remote', '')}.url", "")
    return url if not url or "://" in url else str((root / ".dvc" / url).resolve())


def stage_keys(root: Path, overrides: Sequence[str] = ()) -> dict[str, str]:
    """By stage of dvc.yaml a hash of what decides its result: code, parameters, and the same of what it reads.

    Seeds are left out, so that runs of different seeds wait for each other: too long, and never too short.
    """
    stages = read_document(root / "dvc.yaml")["stages"]
    graph = read_graph(stages)
    params = overridden(read_document(root / PARAMS_FILE), overrides)
    odd = [one for one in overrides if not _PLAIN.fullmatch(one)]
    digests: dict[str, str] = {}
    found: dict[str, str] = {}

    def key(stage: str) -> str:
        if stage not in found:
            names, above = graph[stage]
            values = {name: _value(params, name) for name in names if name != "seeds"}
            code = [_digest(root, path, digests) for path in sorted(_deps(stages[stage])) if "${" not in path]
            content = [stage, values, code, sorted(key(other) for other in above), odd]
            found[stage] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
        return found[stage]

    return {stage: key(stage) for stage in stages}


class Claims:
    """Locks of stages, held until :meth:`release`."""

    def __init__(self, locks: dict[str, contextlib.ExitStack]) -> None:
        self._locks = locks

    def release(self, stages: Iterable[str]) -> None:
        """Let others have these stages; those of a matrix by the name before the ``@``."""
        for name in {stage.partition("@")[0] for stage in stages}:
            if name in self._locks:
                self._locks.pop(name).close()


@contextlib.contextmanager
def claimed(
    remote: str, keys: dict[str, str], what: str, tell: Callable[[str], None], patience: float,
    folder: Path | None = None,
) -> Iterator[Claims]:  # fmt: skip
    """Hold a lock for each of the stages, waiting for whoever computes one of them; without a remote: nothing.

    All take them in the order of their names, so that no two wait for each other.

    Raises:
        BusyError: after ``patience`` seconds one is still held.
    """
    folder = (NODE if folder is None else folder) / hashlib.sha256(remote.encode()).hexdigest()[:16]
    locks: dict[str, contextlib.ExitStack] = {}
    if remote:
        shared_folder(folder.parent)
        shared_folder(folder)
    with contextlib.ExitStack() as rest:

        def hold(stage: str) -> contextlib.ExitStack:
            lock = rest.enter_context(contextlib.ExitStack())
            name = f"{stage}-{keys[stage]}"
            patiently(lambda: lock.enter_context(locked(name, folder, what, 0o666)), tell, patience)
            return lock

        for stage in sorted(keys) if remote else ():
            locks[stage] = hold(stage)
        yield Claims(locks)


def overridden(params: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The parameters with DVC's plain overrides, ``section.key=value``, in them."""
    changed = {name: dict(value) if isinstance(value, dict) else value for name, value in params.items()}
    for one in overrides:
        if found := _PLAIN.fullmatch(one):
            section, name, text = found.groups()
            value = parse_yaml(re.sub(r":(?=\S)", ": ", text) if text.startswith("{") else text)
            if name is None:
                changed[section] = value
            else:
                changed.setdefault(section, {})[name] = value
    return changed


def _value(params: dict[str, Any], name: str) -> Any:
    section, _, key = name.partition(".")
    value = params.get(section)
    return value.get(key) if key and isinstance(value, dict) else value


def _deps(stage: dict[str, Any]) -> set[str]:
    return {entry if isinstance(entry, str) else next(iter(entry)) for entry in stage.get("deps", [])}


def _digest(root: Path, path: str, known: dict[str, str]) -> str:
    """The content of a dependency's code; a path without any (data, another stage's output) has the same as none."""
    if path not in known:
        place, digest = root / path, hashlib.sha256()
        files = sorted(place.rglob("*.py")) if place.is_dir() else [place]
        for file in files:
            if file.suffix in CODE and file.is_file() and "reports" not in file.relative_to(root).parts[:1]:
                digest.update(f"{file.relative_to(root)} ".encode() + file.read_bytes())
        known[path] = digest.hexdigest()
    return known[path]
