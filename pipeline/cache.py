"""Where DVC keeps what it computed."""

from __future__ import annotations

import configparser
from pathlib import Path

from golf.runtime.errors import FairwayError


def cache_folder(root: Path) -> Path:
    """DVC's cache of the repository, as its configuration files name it; DVC itself would take half a second to say so.

    Raises:
        FairwayError: a configuration file is damaged.
    """
    found = root / ".dvc/cache"
    for file in (root / ".dvc/config", root / ".dvc/config.local"):
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        try:
            parser.read(file, encoding="utf-8")
        except configparser.Error as error:
            raise FairwayError(f"{file}: {' '.join(str(error).split())}", hint="git diff .dvc/config") from None
        if place := parser.get("cache", "dir", fallback=""):
            found = root / ".dvc" / place
    return found.resolve()
