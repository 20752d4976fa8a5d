"""Bring everything that DVC computed here to its remote: ``python -m pipeline.push``.

``dvc push --run-cache`` sends what dvc.lock names, and of the run-cache the notes alone: not the files of an experiment
that still runs, or ran apart from the workspace. Here files come first, then the notes that name them, so that whoever
finds a note finds its files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from golf.runtime.errors import run_main
from pipeline.remote import open_remote


def push_runs() -> int:
    """Push the files of every run that the run-cache knows, then its notes; how many files were new.

    Raises:
        ConfigError: there is no DVC remote.
        FairwayError: it refuses.
    """
    with open_remote() as remote:
        return remote.push_runs()


def main() -> None:
    """Push, and say how many files were new."""
    argparse.ArgumentParser(prog="python -m pipeline.push", description="Push what the run-cache knows.").parse_args()
    print(f"ok    runs         {push_runs()} new files in {Path.cwd()}", flush=True)


if __name__ == "__main__":
    run_main("push", main)
