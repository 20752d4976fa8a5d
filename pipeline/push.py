"""Bring everything that DVC computed here to its remote: ``python -m pipeline.push``; ``--save``: and all the rest.

``dvc push --run-cache`` sends what dvc.lock names, and of the run-cache the notes alone: not the files of an experiment
that still runs, or ran apart from the workspace. Here files come first, then the notes that name them, so that whoever
finds a note finds its files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.runtime.errors import run_main
from pipeline.remote import open_remote
from pipeline.save import save


def push_runs() -> int:
    """Push the files of every run that the run-cache knows, then its notes; how many files were new.

    Raises:
        ConfigError: there is no DVC remote.
        FairwayError: it refuses.
    """
    with open_remote() as remote:
        return remote.push_runs()


def main() -> None:
    """Push; with ``--save`` everything that ``fairway save`` brings away."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.push", description="Push what the run-cache knows.")
    parser.add_argument("--save", action="store_true", help="do what fairway save does, which holds this and more")
    if parser.parse_args().save:
        save()
    else:
        print(f"ok    runs         {push_runs()} new files in {Path.cwd()}", flush=True)


if __name__ == "__main__":
    run_main("push", main)
