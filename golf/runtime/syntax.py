"""Reading Python sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator


def running_nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node below ``tree`` that may run: all but those that only a type checker reads."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            for branch in child.orelse:
                yield branch
                yield from running_nodes(branch)
            continue
        yield child
        yield from running_nodes(child)
