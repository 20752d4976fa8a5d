"""Asking a part of the house in a process of its own, where the answer may not become a dependency.

dvc.yaml lists what a stage imports and which modules it starts. What is asked here is left out on purpose: `quantize`
wants to know the bytes that `compress` will make, and yet an edit of a coder must not quantise again.
"""

from __future__ import annotations

import subprocess
import sys

from golf.runtime.errors import Exit, FairwayError


def ask(package: str, *arguments: str) -> str:
    """What ``python -m golf.PACKAGE ARGUMENTS`` prints.

    Raises:
        FairwayError: it failed; with its message and exit code.
    """
    command = [sys.executable, "-m", f"golf.{package}", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        code = Exit(result.returncode) if result.returncode in set(Exit) else Exit.FAILURE
        raise FairwayError(result.stderr.strip().removeprefix(f"{package}: "), code=code)
    return result.stdout
