"""The MLflow store: where it is, that it is reachable, and its one-time creation.

A SQLite file is created under a temporary name and renamed, under a file lock: two processes that create one
file at the same time leave a half-migrated database that no later run can use, and so does a kill in the middle.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from golf.runtime.errors import ConfigError, Exit, FairwayError

SQLITE = "sqlite:///"
LATER = "The results are safe in reports/ and build/submission; to log them later"
WAIT_SECONDS = 120.0  # for another process that writes to the same database
CONNECT_SECONDS = 5.0


def absolute_uri(uri: str, root: Path) -> str:
    """``uri`` with a relative SQLite path made absolute from ``root``.

    Raises:
        ConfigError: the URI names a store that MLflow cannot keep.
    """
    if uri.startswith(SQLITE):
        path = uri.removeprefix(SQLITE)
        if not path or path == ":memory:":
            raise ConfigError(
                f"tracking.uri: found {uri!r}, needed a file", hint="dvc exp run -S tracking.uri=sqlite:///mlflow.db"
            )
        return SQLITE + str(root / path)
    try:
        scheme = urlsplit(uri).scheme.partition("+")[0]  # mysql+pymysql: the database, then its driver
    except ValueError:  # half an address in brackets
        scheme = ""
    if scheme not in ("http", "https", "postgresql", "mysql", "mssql", "databricks"):
        raise ConfigError(
            f"tracking.uri: found {uri!r}, needed sqlite:///FILE, http(s)://HOST:PORT or a database URI",
            hint="dvc exp run -S tracking.uri=sqlite:///mlflow.db",
        )
    return uri


def database_file(uri: str) -> Path | None:
    """The SQLite file of an absolute URI; None for any other store."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


@contextmanager
def open_store(uri: str) -> Iterator[Any]:
    """An ``MlflowClient`` on an absolute ``uri``: created, migrated, and for SQLite locked until the block ends.

    Raises:
        FairwayError: MLflow is not installed, or the store cannot be reached; the text says how to log later.
    """
    _quiet()
    try:
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as error:
        raise FairwayError(
            f"MLflow is not installed ({error}). {LATER}",
            hint="pip install mlflow && dvc repro track",
            code=Exit.CONFIG,
        ) from None
    file = database_file(uri)
    if file is None:
        _reach(uri)
        try:
            yield MlflowClient(uri)
        except ModuleNotFoundError as error:
            raise FairwayError(
                f"MLflow at {_without_password(uri)}: {error}: the database's driver is not installed. {LATER}",
                hint=f"pip install {error.name} && dvc repro track",
                code=Exit.CONFIG,
            ) from None
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise unreachable(uri, error) from None
        return
    with file_lock(file.with_name(file.name + ".lock")):
        try:
            _prepare(file)
            yield MlflowClient(uri)
        except (MlflowException, SQLAlchemyError) as error:
            raise unreachable(uri, error) from None


def unreachable(uri: str, reason: object) -> FairwayError:
    """The error that keeps a finished run calm: nothing is lost, and this is how to log it."""
    text = " ".join(str(reason).split())[:300]
    return FairwayError(f"MLflow at {_without_password(uri)}: {text}. {LATER}", hint="dvc repro track", code=Exit.RETRY)


@contextmanager
def file_lock(path: Path, wait_seconds: float = WAIT_SECONDS) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; the system frees it when the process ends, however it ends.

    Raises:
        FairwayError: another process held it for all of ``wait_seconds``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        deadline, told = time.monotonic() + wait_seconds, False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise FairwayError(
                        f"{path}: held by another process for {wait_seconds:.0f} s. {LATER}",
                        hint="dvc repro track", code=Exit.RETRY,
                    ) from None  # fmt: skip
                if not told:
                    print(f"track: waiting for another process to finish with {path.name}", flush=True)
                    told = True
                time.sleep(0.1)
        yield


def _prepare(file: Path) -> None:
    """Create the database, whole or not at all; migrate one of an older MLflow, keeping a copy of it."""
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    if not file.is_file() or file.stat().st_size == 0:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            fresh = Path(folder) / file.name
            MlflowClient(SQLITE + str(fresh)).search_experiments(max_results=1)
            fresh.replace(file)
        return
    try:
        MlflowClient(SQLITE + str(file)).search_experiments(max_results=1)
    except MlflowException as error:
        if "out-of-date database schema" not in str(error):
            raise
        from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine

        kept = file.with_name(f"{file.name}.before-migration")
        shutil.copyfile(file, kept)
        print(f"track: {file.name} is of another MLflow version: migrating it, {kept.name} is a copy", flush=True)
        engine = create_sqlalchemy_engine(SQLITE + str(file))
        _upgrade_db(engine)
        engine.dispose()


def _reach(uri: str) -> None:
    """Fail in seconds where MLflow would retry for minutes."""
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return
    try:
        host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
        socket.create_connection((host, port), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise unreachable(uri, error) from None
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")


def _quiet() -> None:
    """No usage data sent, no progress of migrations printed. MLflow reads these when it is imported."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _without_password(uri: str) -> str:
    parts = urlsplit(uri)
    return uri.replace(f":{parts.password}@", ":***@") if parts.password else uri
