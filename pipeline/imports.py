"""Which files of the repository a module brings in, read from its source without importing it.

Imports inside functions count as much as those at the top (heavy ones stand there on purpose), and so does a
module named in a string (``"golf.train.worker"``), since that is how a stage starts another process. Imports
under ``if TYPE_CHECKING:`` never run and do not count.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from golf.runtime.syntax import absolute, running_nodes

PACKAGES = ("golf", "stages", "pipeline")
_MODULE_NAME = re.compile(rf"({'|'.join(PACKAGES)})(\.\w+)+")


def closure(module: str, root: Path) -> set[Path]:
    """Every file under ``root`` (relative to it) that running ``module`` may import, itself included."""
    seen: set[Path] = set()
    waiting = [path for name in _with_parents(module) if (path := locate(name, root))]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for name in imported(root / path, root):
            waiting += [found for part in _with_parents(name) if (found := locate(part, root))]
    return seen


def locate(module: str, root: Path) -> Path | None:
    """The file of a dotted module name, relative to ``root``; None when it is not of this repository."""
    if module.split(".", maxsplit=1)[0] not in PACKAGES:
        return None
    stem = Path(*module.split("."))
    for path in (stem.with_suffix(".py"), stem / "__init__.py"):
        if (root / path).is_file():
            return path
    return None


def imported(path: Path, root: Path) -> frozenset[str]:
    """Dotted names of what ``path`` imports, from this repository or elsewhere, lazily or at the top."""
    return _imported(path, root, path.stat().st_mtime_ns)


@cache
def _imported(path: Path, root: Path, _changed: int) -> frozenset[str]:
    names: set[str] = set()
    for node in running_nodes(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, ".".join(path.relative_to(root).parent.parts))
            names.add(base)
            names.update(full for alias in node.names if locate(full := f"{base}.{alias.name}", root))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE_NAME.fullmatch(node.value):
            names.add(node.value)
    return frozenset(names)


def _with_parents(module: str) -> list[str]:
    parts = module.split(".")
    return [".".join(parts[: end + 1]) for end in range(len(parts))]
