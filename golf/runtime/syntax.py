"""Reading Python sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node below ``tree`` that may run: all but those that only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            for branch in child.orelse:
                yield branch
                yield from running_nodes(branch)
            continue
        yield child
        yield from running_nodes(child)


def absolute(node: ast.ImportFrom, package: str) -> str:
    """The dotted module that ``from ... import`` names, its leading dots counted from ``package``.

    Args:
        node: the statement.
        package: of the module it stands in; for an ``__init__`` the package itself.
    """
    if not node.level:
        return node.module or ""
    parts = package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])
