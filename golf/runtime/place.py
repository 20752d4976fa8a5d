"""Where the repository is, seen from an experiment's copy of it."""

from __future__ import annotations

from pathlib import Path


def top_folder(start: Path) -> Path:
    """The folder that outlives a run: for MLflow's database, and for checkpoints.

    ``start``, unless it is the temporary copy of an experiment (``dvc exp run --temp`` or ``--queue`` work in
    ``.dvc/tmp/exps/...``): then the repository that the copy was made from, so that all share one.
    """
    start = start.resolve()
    for folder in start.parents:
        if folder.parts[-3:] == (".dvc", "tmp", "exps"):
            return folder.parents[2]
    return start
