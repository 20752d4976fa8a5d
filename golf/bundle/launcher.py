"""The bundle's ``__main__``: unpacks the program that stands before the zip and runs it.

The program is one module in parts, of which the second runs when a verb needs it. Tracebacks, ``inspect`` and Triton
find its source in ``linecache``. ``SIZE`` is written by the build.
"""

import linecache
import lzma
import sys
from pathlib import Path
from types import ModuleType

SIZE = 0  # bytes of the packed program

archive = Path(__loader__.archive).absolute()  # type: ignore[name-defined]
program = ModuleType(archive.stem)
sys.modules[archive.stem] = program
parts = lzma.decompress(archive.read_bytes()[:SIZE]).decode().split("\f")


def more() -> None:
    """Run the next part, if there is one."""
    if parts:
        text = parts.pop(0)
        name = program.__file__ = f"{archive}/{len(parts)}.py"
        linecache.cache[name] = len(text), None, text.splitlines(True), name
        exec(compile(text, name, "exec"), program.__dict__)


program.more = more  # type: ignore[attr-defined]
more()
if __name__ == "__main__":
    program.main()
else:
    more()
