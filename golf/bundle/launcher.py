"""The bundle's ``__main__``: unpacks the program that stands before the zip and runs it.

The program is one module in parts, of which the second runs when a verb needs it. Tracebacks, ``inspect`` and Triton
find its source in ``linecache``. ``SIZE`` is written by the build.
"""

import linecache
import lzma
import sys
from importlib.abc import ExecutionLoader
from pathlib import Path
from types import ModuleType

SIZE = 0  # bytes of the packed program


class Parts(ExecutionLoader):
    """Loads the next part of the program each time."""

    def __init__(self, archive: Path) -> None:
        self.archive = archive
        self.parts = lzma.decompress(archive.read_bytes()[:SIZE]).decode().split("\f")

    def get_filename(self, name: str) -> str:
        """A path under the archive, as zipimport would give."""
        return f"{self.archive}/{len(self.parts)}.py"

    def get_source(self, name: str) -> str:
        """The part's source, which is kept for who asks by its path."""
        text = self.parts.pop(0)
        path = self.get_filename(name)
        linecache.cache[path] = len(text), None, text.splitlines(True), path
        return text


def launch(archive: Path, name: str) -> None:
    """Run the program when it was started; all of it without its ``main`` when it was only read."""
    parts, program = Parts(archive), ModuleType(archive.stem)
    program.__file__ = str(archive)

    def more() -> None:
        """Run the next part, if there is one."""
        if parts.parts:
            parts.exec_module(program)

    sys.modules[archive.stem] = program
    vars(program)["more"] = more
    more()
    if name == "__main__":
        program.main()
    else:
        more()


if __name__ in ("__main__", "__mp_main__", "read"):
    launch(Path(__loader__.archive).absolute(), __name__)  # type: ignore[name-defined]
