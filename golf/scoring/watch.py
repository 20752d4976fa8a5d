"""Which files a scorer reads while it scores: a score may rest on the artifact and on the tokens before it alone.

Nothing in the scores gives away one who looks the text up, or what another process left of it: whatever is changed
behind a position, he still reads what stood there. So Python tells of each file that it opens (PEP 578), and those that
were there before count, but for the interpreter's own, libraries, compiled kernels and what the system describes itself
with. Files that compiled code opens without Python are not seen.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

CODE = (".py", ".pyc", ".so")
SYSTEM = ("/proc/", "/sys/", "/usr/", "/lib", "/etc/")
CACHES = ("site-packages", "dist-packages", ".triton", "torchinductor_")  # of libraries, and of what they compile
TICK = 10_000_000  # ns by which the clock of a file system may be behind: it ticks

_watches: list[tuple[set[str], int]] = []
_hooks: list[str] = []


@contextmanager
def watched(found: set[str]) -> Iterator[None]:
    """Add to ``found`` the path of each file that is read within the block and was written before it."""
    if not _hooks:
        sys.addaudithook(_note)  # for good: Python has no way to take one back
        _hooks.append("open")
    _watches.append((found, time.time_ns() - TICK))
    try:
        yield
    finally:
        _watches.pop()


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event != "open" or not _watches:
        return
    with suppress(OSError, TypeError, ValueError):  # not there, or no path: the opener says so himself
        path, _, flags = arguments
        if isinstance(path, int) or (isinstance(flags, int) and flags & os.O_ACCMODE == os.O_WRONLY):
            return
        name = os.path.realpath(os.fsdecode(path))  # type: ignore[arg-type]
        found, began = _watches[-1]
        what = os.stat(name)
        if stat.S_ISREG(what.st_mode) and what.st_ctime_ns < began and not _is_code(name):
            found.add(name)


def _is_code(name: str) -> bool:
    """Whether it is of Python, of a library or of the system."""
    prefixes = (os.path.realpath(prefix) + os.sep for prefix in (sys.prefix, sys.base_prefix))
    return name.endswith(CODE) or name.startswith((*SYSTEM, *prefixes)) or any(part in name for part in CACHES)
