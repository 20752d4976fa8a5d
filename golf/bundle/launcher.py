"""The bundle's ``__main__``: hands the program's modules to Python from memory and runs it.

The archive holds this file and one text of all modules, compressed together: apart they would take twice the bytes.
Tracebacks, ``inspect`` and Triton find each module's source through its loader, as in any zip.
"""

import lzma
import sys
from collections.abc import Sequence
from importlib.abc import ExecutionLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any


class Modules(MetaPathFinder, ExecutionLoader):
    """Finds and loads the modules of ``text``: a form feed, the name, a newline, the source; and so on."""

    def __init__(self, archive: str, text: str) -> None:
        self.archive = archive
        self.sources = dict(part.split("\n", 1) for part in text.split("\f")[1:])

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec, or None for a module that is not ours."""
        return spec_from_loader(name, self, is_package=self.is_package(name)) if name in self.sources else None

    def is_package(self, name: str) -> bool:
        """Whether other modules stand under ``name``."""
        return any(other.startswith(name + ".") for other in self.sources)

    def get_filename(self, name: str) -> str:
        """A path under the archive, as zipimport would give."""
        return f"{self.archive}/{name.replace('.', '/')}.py"

    def get_source(self, name: str) -> str:
        """The source as it ships."""
        return self.sources[name]


def launch(loader: Any, name: str) -> None:
    """Put the bundle's modules before all others; run the program when it was started, not imported by a child."""
    archive = str(Path(loader.archive).absolute())
    text = lzma.decompress(loader.get_data(f"{loader.archive}/modules.lzma")).decode()
    sys.meta_path.insert(0, Modules(archive, text))
    if name == "__main__":
        from golf.bundle.program import main

        main()


if __name__ in ("__main__", "__mp_main__"):
    launch(__loader__, __name__)  # type: ignore[name-defined]
