"""The programs that ship, built once a test process."""

from functools import cache
from pathlib import Path

from golf.bundle.build import CHECK, build

ROOT = Path(__file__).resolve().parents[1]


@cache
def shipped() -> bytes:
    """The program for any parameters: none of its code is left out for the given ones."""
    return build(ROOT).program


@cache
def checker() -> bytes:
    """The program that checks it."""
    return build(ROOT, program=CHECK).program
