"""The repository's Python files as syntax trees, for the tests of the house."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def files(*packages: str) -> list[Path]:
    """Every module of the packages, relative to the repository's top folder."""
    return sorted(path.relative_to(ROOT) for package in packages for path in (ROOT / package).rglob("*.py"))


@cache
def tree(path: Path) -> ast.Module:
    module = ast.parse((ROOT / path).read_text(encoding="utf-8"), str(path))
    for node in ast.walk(module):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    return module


def module_name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def parents(node: ast.AST) -> Iterator[ast.AST]:
    while (node := getattr(node, "parent", None)) is not None:  # type: ignore[assignment]
        yield node


def called(node: ast.Call) -> str:
    """What a call names: ``np.save`` or ``write_text`` for ``(a / b).write_text(...)``."""
    function = node.func
    if isinstance(function, ast.Attribute):
        prefix = f"{function.value.id}." if isinstance(function.value, ast.Name) else "."
        return prefix + function.attr
    return function.id if isinstance(function, ast.Name) else ""


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield node, called(node)


def enclosing_function(node: ast.AST) -> ast.FunctionDef | None:
    return next((parent for parent in parents(node) if isinstance(parent, ast.FunctionDef)), None)
