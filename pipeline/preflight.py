"""Hold every parameter, and every path that a parameter names, before DVC starts: ``python -m pipeline.preflight``.

A stage checks its own parameters when its turn comes, and DVC looks for its inputs: of a path that is not there, or
that it may not write, it says no more than the errno, and of ``seeds: 5`` that a value is not iterable.
"""

from __future__ import annotations

import os
from pathlib import Path

from golf.data.tokenizer import find_model, load_sentencepiece
from golf.params.base import check_every_section, load
from golf.params.data import Data
from golf.params.hardware import Hardware
from golf.params.tokenizer import Tokenizer
from golf.runtime.device import uses_gpu
from golf.runtime.errors import Exit, FairwayError, MissingInput, run_main

WRITTEN = ("data", "build", "runs", "reports")


def preflight() -> None:
    """Refuse what a run would fail on later.

    Raises:
        FairwayError: a parameter is wrong, a GPU is asked for that is not there, a tokenizer is none, or a folder
            cannot be written.
        MissingInput: a path is not there.
    """
    check_every_section()
    uses_gpu(load(Hardware))
    for name in WRITTEN:
        folder = Path(name)
        if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            found = "a folder that this user cannot write to" if folder.is_dir() else "a file"
            raise FairwayError(f"{name}/: found {found}, needed a writable folder", hint=f"ls -ld {name}", code=Exit.IO)
    data = load(Data)
    for key, path, usual in (
        ("data.path", data.path, Data.path),
        ("data.val_path", data.val_path, Data.val_path),
        ("tokenizer.model", load(Tokenizer).model, Tokenizer.model),
    ):
        if not Path(path).exists():
            raise MissingInput(f"{key}: {path}: no such file or folder", hint=f"dvc exp run -S {key}={usual}")
    model = find_model(load(Tokenizer).model)
    if model is not None:
        load_sentencepiece(model)


if __name__ == "__main__":
    run_main("preflight", preflight)
