"""The kernels against fp64 on the CPU: the whole of check_kernels.py in a process where Triton is its interpreter.

Triton decides that at its first import, which another test of this process may have done (torch.compile does).
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("check_kernels.py")


def test_the_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:xdist", "-x", str(CHECKS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=Path.cwd())
    assert done.returncode == 0, done.stdout + done.stderr
