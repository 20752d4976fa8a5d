"""What MLflow could not be told, kept until it can: ``logs/untracked/KEY`` holds the state's files and tags.

An experiment (``dvc exp run``) would be lost if its last stage failed, and its reports with it: so ``track`` keeps them
there and lets it end well. The next ``track`` that reaches the store, of whatever run, tells it these too.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from golf.runtime.errors import FairwayError
from golf.runtime.files import read_json, whole_directory, write_json
from pipeline.graph_state import PAPERS, GraphState, read_state

FOLDER = Path("logs/untracked")
TAGS = "tags.json"


def keep(root: Path, top: Path, state: GraphState, tags: Mapping[str, str]) -> Path:
    """Copy what the state was read from, under ``root``, to the repository ``top``; the same state twice is one."""
    folder = top / FOLDER / state.key
    with whole_directory(folder) as temporary:
        shutil.copytree(root / "reports", temporary / "reports")
        (temporary / "build/submission").mkdir(parents=True)
        for name in PAPERS:
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(root / "build/submission" / name, temporary / "build/submission" / name)
        write_json(temporary / TAGS, dict(tags))
    return folder


def kept(top: Path, tell: Callable[[str], None]) -> Iterator[tuple[GraphState, dict[str, str]]]:
    """Every state that waits, with its tags; what was yielded is removed when the next one is asked for.

    One that cannot be read is named and left where it is.
    """
    for folder in sorted((top / FOLDER).glob("*")):
        if not (folder / TAGS).is_file():
            continue
        try:
            state = read_state(folder, read_json(folder / "reports/aggregate.json")["seeds"])
            tags = read_json(folder / TAGS)
        except (FairwayError, OSError, ValueError, KeyError) as error:
            tell(f"{folder}: not tracked: {error}")
            continue
        yield state, tags
        shutil.rmtree(folder, ignore_errors=True)
