"""The DVC remote as a place for files, through DVC's own connection to it: whatever DVC can push to.

``python -m pipeline.remote`` writes a small file there, reads it back and removes it: what ``fairway doctor`` asks, in
a process of its own, since a connection may hang. Beside DVC's ``files/`` Fairway keeps a folder ``fairway/``.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from golf.runtime.errors import ConfigError, Exit, FairwayError, run_main

FOLDER = "fairway"
CHUNK = 2**22  # bytes read at once
DISK = {errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.EIO}
SECRET = re.compile(r"(?<=://)[^/@\s]+@")  # user and password in an address
NO_REMOTE = "dvc remote add -d store s3://BUCKET/PATH, or any folder on another disk"


class Remote:
    """Files under the remote's own address; ``key`` is a path below it, with slashes."""

    def __init__(self, repo: Any) -> None:
        found = repo.cloud.get_remote()
        self.name, self.address = str(found.name), str(found.path)
        self._repo, self._fs, self._files = repo, found.fs, found.odb

    def used_objects(self) -> list[str]:
        """The objects of DVC's cache that the workspace's dvc.lock names: MD5s, of folders with ``.dir`` behind."""
        return sorted({info.value for infos in self._repo.used_objs().values() for info in infos})

    def push_runs(self) -> int:
        """Push the files of the run-cache's entries, then the entries, and return how many files were new.

        What this machine's cache does not have is somebody else's, whose notes alone were fetched.
        """
        cache = self._repo.stage_cache
        entries = [(path.parent.name, path.name) for path in sorted(Path(cache.cache_dir).glob("*/*/*"))]
        count = 0
        with refusals(self):
            for odb, objects in cache.get_used_objs(entries).items():
                here = {one for one in objects if self.is_here(one.value)}
                count += len(self._repo.cloud.push(here, odb=odb).transferred) if here else 0
            cache.push(None)
        return count

    def put(self, source: Path, key: str) -> None:
        """Upload a file; half of one is removed again where the upload fails."""
        path = self._path(key)
        with refusals(self):
            self._fs.makedirs(self._fs.parent(path), exist_ok=True)
            try:
                self._fs.put_file(str(source), path)
            except BaseException:
                with suppress(Exception):
                    self._fs.remove(path)
                raise

    def digest(self, key: str, algorithm: str = "sha256") -> str | None:
        """The hash of what the remote gives back, read whole; None: there is nothing of that name."""
        return self._digest(self._path(key), algorithm)

    def object_digest(self, oid: str) -> str | None:
        """The same of an object of DVC's cache, by MD5 as DVC names it."""
        return self._digest(self._files.oid_to_path(oid), "md5")

    def has(self, key: str) -> bool:
        """Whether there is such a file, without reading it."""
        with refusals(self):
            return bool(self._fs.exists(self._path(key)))

    def objects(self, oids: Iterable[str]) -> set[str]:
        """Those of the objects that the remote has, without reading them.

        Not by DVC's own question, which deletes what it takes for damaged.
        """
        paths = {oid: self._files.oid_to_path(oid) for oid in oids}
        with refusals(self):
            found = self._fs.exists(list(paths.values()))
        return {oid for oid, there in zip(paths, found, strict=True) if there}

    def is_here(self, oid: str) -> bool:
        """Whether this machine's cache has the object."""
        local = self._repo.cache.local
        return bool(local.fs.exists(local.oid_to_path(oid)))

    def remove(self, key: str) -> None:
        """Delete a file."""
        with refusals(self):
            self._fs.remove(self._path(key))

    def _path(self, key: str) -> str:
        return str(self._fs.join(self.address, FOLDER, *key.split("/")))

    def _digest(self, path: str, algorithm: str) -> str | None:
        found = hashlib.new(algorithm, usedforsecurity=False)
        with refusals(self):
            try:
                with self._fs.open(path, "rb") as file:
                    while chunk := file.read(CHUNK):
                        found.update(chunk)
            except FileNotFoundError:
                return None
        return found.hexdigest()


def shown(text: str) -> str:
    """The text without users and passwords of the addresses in it."""
    return SECRET.sub("***@", text)


@contextmanager
def refusals(remote: Remote) -> Iterator[None]:
    """Any error of the remote's connection as one line; exit code 74 where it is a disk's."""
    try:
        yield
    except (FairwayError, KeyboardInterrupt):
        raise
    except Exception as error:  # each kind of storage raises its own
        text = f"{type(error).__name__}: {shown(' '.join(str(error).split()))[:300]}"
        code = Exit.IO if isinstance(error, OSError) and error.errno in DISK else Exit.RETRY
        raise FairwayError(
            f"remote {remote.name!r} ({shown(remote.address)}) refuses: {text}; what is on this machine is untouched",
            hint="dvc remote list, and its credentials or free space",
            code=code,
        ) from None


@contextmanager
def open_remote() -> Iterator[Remote]:
    """The default remote of the repository in this folder. Imports DVC: half a second.

    Raises:
        ConfigError: none is configured, or DVC cannot use it.
        FairwayError: it cannot be reached.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo() as repo:
            if not repo.config["core"].get("remote"):
                raise ConfigError("no default DVC remote is configured: there is nowhere to save to", hint=NO_REMOTE)
            yield _connected(repo)
    except DvcException as error:
        raise ConfigError(f"DVC remote: {' '.join(str(error).split())}", hint="dvc remote list") from None


def _connected(repo: Any) -> Remote:
    try:
        return Remote(repo)
    except ImportError as error:  # each kind of storage is a package of its own
        package = re.search(r"dvc-\w+", str(error))
        hint = f"pip install {package[0]}" if package else "dvc remote list"
        raise ConfigError(f"DVC remote: {' '.join(str(error).split())}", hint=hint) from None


def round_trip(remote: Remote, scratch: Path) -> None:
    """Write a file to the remote, read it back, remove it.

    Raises:
        FairwayError: it refuses, or gives back something else.
    """
    key = f"check/{secrets.token_hex(8)}"
    scratch.write_bytes(content := os.urandom(4096))
    remote.put(scratch, key)
    try:
        found = remote.digest(key)
    finally:
        remote.remove(key)
    if found != hashlib.sha256(content).hexdigest():
        where = f"remote {remote.name!r} ({shown(remote.address)})"
        raise FairwayError(f"{where} gave back something else than it was given", hint="fairway doctor again")


def main() -> None:
    """The round trip."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="fairway-remote-") as folder, open_remote() as remote:
        round_trip(remote, Path(folder) / "file")
        print(f"{remote.name}: {shown(remote.address)}")


if __name__ == "__main__":
    run_main("remote", main)
