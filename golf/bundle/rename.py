"""Short names for a whole program, the same one wherever a name stands.

Because no two names become one, no scope has to be known: what was equal stays equal, what differed still differs.
Names that something outside reads keep theirs: attributes and keywords, fields, what is imported, what Python defines.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from golf.bundle.names import FUNCTIONS, bound_in

# torch.library hands these to setup_context by keyword; Triton's kernels find the others among their globals.
KEPT = {"ctx", "inputs", "output", "tl", "triton"}


def rename(trees: Sequence[ast.Module], exported: Mapping[str, str], kept: set[str]) -> None:
    """Rename in place, the most frequent name to the shortest.

    Args:
        trees: the parts of the program, which share their names.
        exported: names that others know, with what they call them.
        kept: names that the launcher defines.
    """
    nodes = [node for tree in trees for node in ast.walk(tree)]
    fixed = kept | KEPT | set(exported) | set(exported.values()) | set(dir(builtins)) | set(keyword.kwlist) | _outside(nodes)
    counts: Counter[str] = Counter()
    for node in nodes:
        for name in _names(node):
            counts[name] += 1
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    bound |= {node.name for node in nodes if isinstance(node, (*FUNCTIONS, ast.ClassDef))}
    bound |= {node.name for node in nodes if isinstance(node, ast.ExceptHandler) and node.name}
    taken = fixed | (set(counts) - bound)
    order = sorted((name for name in counts if name in bound - fixed), key=lambda name: (-counts[name], name))
    short = (name for name in _short() if name not in taken)
    renaming = dict(zip(order, short, strict=False))
    renaming |= exported
    for node in nodes:
        _apply(node, renaming)


def _outside(nodes: Sequence[ast.AST]) -> set[str]:
    """Names that must stay: of attributes, keywords, class bodies and imports."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Attribute):
            found.add(node.attr)
        elif isinstance(node, ast.keyword) and node.arg:
            found.add(node.arg)
        elif isinstance(node, ast.ClassDef):
            found |= bound_in(node.body)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name.partition(".")[0])
    return found


def _names(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)):
        return [node.name] if node.name else []
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return node.names
    return []


def _apply(node: ast.AST, renaming: dict[str, str]) -> None:
    if isinstance(node, ast.Name):
        node.id = renaming.get(node.id, node.id)
    elif isinstance(node, ast.arg):
        node.arg = renaming.get(node.arg, node.arg)
    elif isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)) and node.name:
        node.name = renaming.get(node.name, node.name)
    elif isinstance(node, (ast.Global, ast.Nonlocal)):
        node.names = [renaming.get(name, name) for name in node.names]


def _short() -> Iterator[str]:
    for length in itertools.count(1):
        for letters in itertools.product(string.ascii_letters + "_", repeat=length):
            yield "".join(letters)
