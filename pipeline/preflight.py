"""Hold every parameter, and every path that a parameter names, before DVC starts: ``python -m pipeline.preflight``.

A stage checks its own parameters when its turn comes, and DVC looks for its inputs: of a path that is not there it says
no more than the errno, and of ``seeds: 5`` that a value is not iterable.
"""

from __future__ import annotations

from pathlib import Path

from golf.params.base import check_every_section, load
from golf.params.data import Data
from golf.params.tokenizer import Tokenizer
from golf.runtime.errors import MissingInput, run_main


def preflight() -> None:
    """Refuse what a run would fail on later.

    Raises:
        FairwayError: a parameter is wrong.
        MissingInput: a path is not there.
    """
    check_every_section()
    data = load(Data)
    for key, path, usual in (
        ("data.path", data.path, Data.path),
        ("data.val_path", data.val_path, Data.val_path),
        ("tokenizer.model", load(Tokenizer).model, Tokenizer.model),
    ):
        if not Path(path).exists():
            raise MissingInput(f"{key}: {path}: no such file or folder", hint=f"dvc exp run -S {key}={usual}")


if __name__ == "__main__":
    run_main("preflight", preflight)
