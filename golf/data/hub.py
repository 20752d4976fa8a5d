"""Published shards from the Hugging Face hub, or from a mirror of them in a local folder.

Downloads go through ``huggingface_hub`` into its own cache: a transfer that breaks is resumed, a file that is
complete is never brought again. The revision is resolved to a commit first, so that every file is of one state.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from golf.data.published import Layout, choose, find_manifest, parse_manifest
from golf.data.raw import sha256
from golf.runtime.errors import ConfigError, DataError, Exit, FairwayError
from golf.runtime.progress import Progress

_TRANSFERS = 4  # files at a time


@dataclass(frozen=True)
class Published:
    """Files on this machine by their paths in the dataset; ``commit`` is empty for a mirror."""

    layout: Layout
    files: dict[str, Path]
    commit: str = ""


def from_mirror(folder: Path, variant: str, train_shards: int) -> Published:
    """The variant's files in a local copy: the dataset's own tree (``datasets/…``), or shards that lie flat.

    Raises:
        ConfigError, DataError: as :func:`golf.data.published.choose`.
    """
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    name = find_manifest(files)
    manifest = parse_manifest(files[name].read_bytes(), str(files[name])) if name else None
    layout = choose(files, manifest, variant, train_shards, str(folder))
    return Published(layout, {name: files[name] for name in _names(layout)})


def is_mirror(folder: Path) -> bool:
    """Whether ``folder`` holds published shards."""
    return folder.is_dir() and ((folder / "datasets").is_dir() or any(folder.glob("*train_*.bin")))


def from_hub(
    repo: str,
    revision: str,
    variant: str,
    train_shards: int,
    *,
    endpoint: str | None = None,
    cache_dir: Path | None = None,
) -> Published:
    """Download the variant's files, each held against the size and SHA-256 that the hub states.

    Args:
        endpoint, cache_dir: as in ``huggingface_hub``; None takes its own settings.

    Raises:
        ConfigError: huggingface_hub is not installed; no such dataset, revision or variant.
        FairwayError: the network failed (exit code 75: the same command goes on where it stopped).
        DataError: a file is not what the hub says it is.
    """
    hub = _import_hub()
    where = f"{repo}@{revision}"
    info = _reach(hub, where, lambda: hub.HfApi(endpoint=endpoint).dataset_info(
        repo, revision=revision, files_metadata=True))  # fmt: skip
    commit = str(info.sha)
    if not re.fullmatch(r"[0-9a-f]{40}", commit):
        raise DataError(f"{where}: the hub gave the commit {commit!r}, needed 40 hexadecimal digits")
    siblings = {item.rfilename: item for item in info.siblings or []}

    def bring(name: str) -> Path:
        return Path(_reach(hub, f"{repo}@{commit[:12]}:{name}", lambda: hub.hf_hub_download(
            repo, name, repo_type="dataset", revision=commit, endpoint=endpoint, cache_dir=cache_dir)))  # fmt: skip

    hub.utils.disable_progress_bars()
    name = find_manifest(siblings)
    manifest = parse_manifest(bring(name).read_bytes(), f"{where}:{name}") if name else None
    layout = choose(siblings, manifest, variant, train_shards, where)
    names = _names(layout)
    total = sum(siblings[name].size or 0 for name in names) / 1e6
    files: dict[str, Path] = {}
    with Progress("fetch", max(total, 1e-6)) as bar, ThreadPoolExecutor(_TRANSFERS) as pool:
        for name, path in zip(names, pool.map(bring, names), strict=True):
            _hold(path, siblings[name], f"{where}:{name}")
            files[name] = path
            bar.advance((siblings[name].size or 0) / 1e6, f"{len(files)} of {len(names)} files, {total:,.0f} MB")
    return Published(layout, files, commit)


def _names(layout: Layout) -> list[str]:
    return [*layout.val, *layout.sidecars, *([layout.tokenizer] if layout.tokenizer else []), *layout.train]


def _hold(path: Path, sibling: Any, where: str) -> None:
    """Refuse, and forget, a file whose size or SHA-256 is not the hub's."""
    size, found = sibling.size, path.stat().st_size
    lfs = getattr(sibling, "lfs", None)
    needed = (lfs.get("sha256") if isinstance(lfs, dict) else getattr(lfs, "sha256", None)) if lfs else None
    problem = ""
    if size is not None and found != size:
        problem = f"found {found:,} bytes, the hub states {size:,}"
    elif needed and (digest := sha256(path)) != needed:
        problem = f"found SHA-256 {digest}, the hub states {needed}"
    if problem:
        path.resolve().unlink(missing_ok=True)
        path.unlink(missing_ok=True)
        raise DataError(f"{where}: {problem}; the copy was removed", hint="dvc repro fetch")


def _import_hub() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.utils
    except ImportError:
        raise ConfigError(
            "data.source: fineweb needs the package huggingface_hub, which is not installed",
            hint="pip install -e '.[hub]' -c constraints.txt (or set data.path to a local mirror)",
        ) from None
    return huggingface_hub


def _reach(hub: Any, where: str, call: Callable[[], Any]) -> Any:
    """``call()``, with the hub's errors as ours: what retrying cannot help, and what it can."""
    errors = hub.utils
    try:
        return call()
    except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
        raise ConfigError(
            f"{where}: the hub knows no such dataset or revision, or it is not public ({_first_line(error)})",
            hint="see data.repo and data.revision",
        ) from None
    except errors.LocalEntryNotFoundError as error:  # an entry not found too, but only because the hub gave no answer
        raise _unreached(where, error) from None
    except errors.EntryNotFoundError as error:
        raise DataError(f"{where}: the hub has no such file ({_first_line(error)})") from None
    except FairwayError:
        raise
    except Exception as error:
        network = (ConnectionError, TimeoutError, socket.gaierror)
        if isinstance(error, OSError) and error.errno is not None and not isinstance(error, network):
            raise  # the disk, not the network
        if isinstance(error, (TypeError, AttributeError, NameError, KeyError)):
            raise
        raise _unreached(where, error) from None


def _unreached(where: str, error: Exception) -> FairwayError:
    return FairwayError(
        f"{where}: the transfer failed ({type(error).__name__}: {_first_line(error)}); complete files are kept",
        hint="dvc repro fetch (goes on where it stopped), or set data.path to a local mirror",
        code=Exit.RETRY,
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:160] if lines else type(error).__name__
