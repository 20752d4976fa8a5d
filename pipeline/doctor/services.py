"""What a run talks to: the DVC remote, MLflow, Prefect; and the keys that those ask for."""

from __future__ import annotations

import base64
import os
import sqlite3
import sys
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from golf.params.base import load
from golf.params.data import Data
from golf.params.tracking import Tracking
from golf.runtime.errors import Exit
from golf.runtime.place import top_folder
from pipeline.doctor.checks import Result, child, last_line
from pipeline.mlflow_store import absolute_uri, database_file
from pipeline.remote import NO_REMOTE

REMOTE_SECONDS = 30.0
HTTP_SECONDS = 5.0


def theirs() -> dict[str, str]:
    """The environment as MLflow, Prefect, the hub and the stores will read it; Fairway itself is told nothing by it."""
    return dict(os.environ)


def remote() -> list[Result]:
    """A small file written to the default DVC remote, read back and removed."""
    done = child([sys.executable, "-m", "pipeline.remote"], REMOTE_SECONDS)
    said = last_line(done.stderr).removeprefix("remote: ")
    if done.returncode == 0:
        return [Result("remote", "ok", f"{last_line(done.stdout)}: written, read back, removed")]
    text, _, todo = said.partition(". Try: ")
    if done.returncode == Exit.CONFIG and todo == NO_REMOTE:
        return [Result("remote", "warn", text, todo)]
    return [Result("remote", "fail", text or f"ended with {done.returncode}", todo or "python -m pipeline.remote")]


def mlflow() -> list[Result]:
    """The server answers and takes the password, or the database is one."""
    uri = absolute_uri(load(Tracking).uri, top_folder(Path.cwd()))
    file = database_file(uri)
    if file is not None:
        return [_database(file)]
    parts = urlsplit(uri)
    if parts.scheme not in ("http", "https"):
        return [Result("mlflow", "skipped", f"a database of its own ({parts.scheme}): it answers when track asks")]
    host = parts.hostname or ""
    address = f"{parts.scheme}://{host}{f':{parts.port}' if parts.port else ''}{parts.path.rstrip('/')}"
    environment = theirs()
    user = parts.username or environment.get("MLFLOW_TRACKING_USERNAME", "")
    password = parts.password or environment.get("MLFLOW_TRACKING_PASSWORD", "")
    headers = {}
    if user:
        headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    # /health answers anybody; the search needs the password that track will need
    status, said = _get(f"{address}/api/2.0/mlflow/experiments/search?max_results=1", headers)
    if status == 200:
        return [Result("mlflow", "ok", f"{address} answers")]
    if status in (401, 403):
        todo = "export MLFLOW_TRACKING_USERNAME=... MLFLOW_TRACKING_PASSWORD=..."
        return [Result("mlflow", "fail", f"{address} refuses this user ({status})", todo)]
    return [Result("mlflow", "fail", f"{address}: {said}", "start it, or tracking.uri in params.yaml")]


def _database(file: Path) -> Result:
    if not file.exists():
        return Result("mlflow", "ok", f"{file.name}: the first track makes it")
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=HTTP_SECONDS)) as database:
            runs = database.execute("SELECT count(*) FROM runs").fetchone()[0]
    except sqlite3.Error as error:
        todo = f"mv {file.name} {file.name}.broken; dvc repro track makes a new one"
        return Result("mlflow", "fail", f"{file.name}: {error}", todo)
    return Result("mlflow", "ok", f"{file.name}: {runs} runs")


def prefect() -> list[Result]:
    """The server that ``PREFECT_API_URL``, or the active profile of Prefect's, names."""
    settings = _prefect_profile() | theirs()
    address = settings.get("PREFECT_API_URL", "")
    if not address:
        return [Result("prefect", "skipped", "no PREFECT_API_URL: only scheduled runs need one (make serve)")]
    key = settings.get("PREFECT_API_KEY", "")
    status, said = _get(f"{address.rstrip('/')}/health", {"Authorization": f"Bearer {key}"} if key else {})
    if status == 200:
        return [Result("prefect", "ok", f"{address} answers")]
    todo = "make serve, or prefect config set PREFECT_API_URL=..."
    return [Result("prefect", "fail", f"{address}: {said}", todo)]


def _prefect_profile() -> dict[str, str]:
    home = Path(theirs().get("PREFECT_HOME", Path.home() / ".prefect"))
    try:
        content = tomllib.loads((home / "profiles.toml").read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError):
        return {}
    found = content.get("profiles", {}).get(content.get("active", ""), {})
    return {name: str(value) for name, value in found.items()}


def _get(url: str, headers: dict[str, str]) -> tuple[int, str]:
    """The status (0: no answer) and what went wrong, in words."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=HTTP_SECONDS) as response:
            return response.status, f"status {response.status}"
    except urllib.error.HTTPError as error:
        return error.code, f"status {error.code}"
    except (OSError, ValueError) as error:
        return 0, f"no answer: {getattr(error, 'reason', error)}"


class _Key(NamedTuple):
    """A secret: where it may be, and what fails without it."""

    name: str
    variables: tuple[str, ...]
    files: tuple[str, ...]
    purpose: str


STORES = {
    "s3": _Key("AWS keys", ("AWS_ACCESS_KEY_ID", "AWS_PROFILE"), ("~/.aws/credentials",), "the DVC remote"),
    "gs": _Key("Google credentials", ("GOOGLE_APPLICATION_CREDENTIALS",),
               ("~/.config/gcloud/application_default_credentials.json",), "the DVC remote"),
    "azure": _Key("Azure keys", ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN"),
                  ("~/.azure/azureProfile.json",), "the DVC remote"),
}  # fmt: skip
HUB = _Key("Hugging Face token", ("HF_TOKEN",), ("~/.cache/huggingface/token",), "the hub's full speed")


def keys() -> list[Result]:
    """Which secrets of those that this run needs are there. Nothing of a value is read, printed or kept."""
    wanted = [STORES[scheme] for scheme in sorted(_remote_schemes()) if scheme in STORES]
    if load(Data).source == "fineweb":
        wanted.append(HUB)
    if not wanted:
        return [Result("keys", "skipped", "nothing that this run talks to asks for one")]
    missing = [key for key in wanted if not _is_there(key)]
    there = [f"{key.name} there" for key in wanted if key not in missing]
    told = "; ".join([*there, *(f"{key.name} not there, for {key.purpose}" for key in missing)])
    todo = " or ".join(f"export {name}=..." for key in missing[:1] for name in key.variables[:1])
    return [Result("keys", "warn" if missing else "ok", told, todo)]  # roles and DVC's own settings may do without


def _is_there(key: _Key) -> bool:
    return any(theirs().get(name) for name in key.variables) or any(
        Path(name).expanduser().is_file() for name in key.files
    )


def _remote_schemes() -> Iterable[str]:
    found = set()
    for file in (Path(".dvc/config"), Path(".dvc/config.local")):
        text = file.read_text(encoding="utf-8") if file.is_file() else ""
        urls = (line.partition("=")[2].strip() for line in text.splitlines() if line.strip().startswith("url"))
        found |= {urlsplit(url).scheme for url in urls}
    return found
