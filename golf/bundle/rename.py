"""Short names for a whole program.

A module-level name gets the same short name everywhere, and no other name becomes that. The names of a function get
short ones in the order in which they come, the same in all functions, but for those that the function sees from
outside. A function is taken with all that is nested in it, so that no inner scope has to be known: within it, what was
equal stays equal and what differed still differs.

Names that something else reads keep theirs: attributes and keywords, fields, what is imported, what Python defines. An
attribute that only ``self`` is asked for, in classes of ours alone, is a name like another.
"""

from __future__ import annotations

import ast
import builtins
import itertools
import keyword
import string
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from golf.bundle.link import is_flat
from golf.bundle.names import FUNCTIONS, bound_in

# torch.library hands these to setup_context by keyword; Triton's kernels find the others among their globals.
KEPT = {"ctx", "inputs", "output", "tl", "triton"}
LOCAL = 26  # of the shortest names, those that functions use first


def rename(trees: Sequence[ast.Module], exported: Mapping[str, str], kept: set[str]) -> None:
    """Rename in place.

    Args:
        trees: the parts of the program, which share their names.
        exported: module-level names that others know, with what they call them.
        kept: names that the launcher defines.
    """
    _rename_private(trees)
    nodes = [node for tree in trees for node in ast.walk(tree)]
    counts = Counter(name for node in nodes for name in names_of(node))
    fixed = kept | KEPT | set(exported.values()) | set(dir(builtins)) | set(keyword.kwlist) | _outside(nodes)
    keywords = {node.arg for node in nodes if isinstance(node, ast.keyword) and node.arg}
    pool = [name for name in itertools.islice(_short(), 3 * len(counts)) if name not in fixed]
    ours = sorted((name for name in counts if is_flat(name)), key=lambda name: (-counts[name], name))
    renaming = dict(zip((name for name in ours if name not in exported), pool[LOCAL:], strict=False)) | dict(exported)
    for function in _functions(trees):
        _rename_function(function, renaming, fixed, keywords, pool)
    for node in nodes:
        _apply(node, renaming)


def _functions(trees: Sequence[ast.Module]) -> Iterator[ast.AST]:
    """Functions and methods, those of the top alone."""
    for tree in trees:
        for statement in tree.body:
            body = statement.body if isinstance(statement, ast.ClassDef) else [statement]
            yield from (node for node in body if isinstance(node, FUNCTIONS))


def _rename_function(
    function: ast.AST, others: Mapping[str, str], fixed: set[str], keywords: set[str], pool: Sequence[str]
) -> None:
    nodes = [node for node in ast.walk(function) if node is not function]
    names = dict.fromkeys(name for node in nodes for name in names_of(node))  # a set in the order of coming
    fixed = fixed | {node.arg for node in nodes if isinstance(node, ast.arg) and node.arg in keywords}
    fixed |= {name for node in nodes if isinstance(node, ast.ClassDef) for name in bound_in(node.body)}
    bound = _bound(nodes) - fixed
    seen = {others.get(name, name) for name in names if name not in bound}
    own = [name for name in names if name in bound and not is_flat(name)]
    free = (name for name in pool if name not in seen)
    renaming = dict(zip(own, free, strict=False))
    for node in nodes:
        _apply(node, renaming)


def _bound(nodes: Sequence[ast.AST]) -> set[str]:
    found = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    found |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return found | {n.name for n in nodes if isinstance(n, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)) and n.name}


def _outside(nodes: Sequence[ast.AST]) -> set[str]:
    """Names that imports define."""
    aliases = [node for node in nodes if isinstance(node, ast.alias)]
    return {alias.asname or alias.name.partition(".")[0] for alias in aliases}


def names_of(node: ast.AST) -> list[str]:
    """The identifiers of a node itself, attributes aside."""
    if isinstance(node, ast.Name):
        return [node.id]
    if isinstance(node, ast.arg):
        return [node.arg]
    if isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)):
        return [node.name] if node.name else []
    if isinstance(node, (ast.Global, ast.Nonlocal)):
        return list(node.names)
    return []


def _apply(node: ast.AST, renaming: Mapping[str, str]) -> None:
    if isinstance(node, ast.Name):
        node.id = renaming.get(node.id, node.id)
    elif isinstance(node, ast.arg):
        node.arg = renaming.get(node.arg, node.arg)
    elif isinstance(node, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)) and node.name:
        node.name = renaming.get(node.name, node.name)
    elif isinstance(node, (ast.Global, ast.Nonlocal)):
        node.names = [renaming.get(name, name) for name in node.names]


def _rename_private(trees: Sequence[ast.Module]) -> None:
    """Attributes with a leading underscore, defined in our classes and read from ``self`` alone."""
    classes = [node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef)]
    own = {node.name for node in classes if not node.bases}  # a base from elsewhere may read any of its attributes
    own |= {node.name for node in classes if all(isinstance(b, ast.Name) and b.id in own for b in node.bases)}
    inside: Counter[str] = Counter()
    everywhere = Counter(n.attr for tree in trees for n in ast.walk(tree) if isinstance(n, ast.Attribute))
    texts = {n.value for t in trees for n in ast.walk(t) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    defined: set[str] = set()
    fields: set[str] = set()
    for node in classes:
        if node.name not in own:
            continue
        defined |= {part.name for part in node.body if isinstance(part, FUNCTIONS)}
        fields |= bound_in([part for part in node.body if not isinstance(part, FUNCTIONS)])
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute) and isinstance(inner.value, ast.Name) and inner.value.id == "self":
                inside[inner.attr] += 1
                if isinstance(inner.ctx, ast.Store):
                    defined.add(inner.attr)
    private = [
        name for name in defined - fields if name.startswith("_") and not name.startswith("__") and name not in texts
    ]
    private = sorted((n for n in private if inside[n] == everywhere[n]), key=lambda name: (-inside[name], name))
    taken = set(everywhere) | {part.name for node in classes for part in node.body if isinstance(part, FUNCTIONS)}
    short = (f"_{name}" for name in _short() if f"_{name}" not in taken)
    renaming = dict(zip(private, short, strict=False))
    for node in classes:
        for part in node.body:
            if isinstance(part, FUNCTIONS):
                part.name = renaming.get(part.name, part.name)
        for inner in ast.walk(node):
            if isinstance(inner, ast.Attribute):
                inner.attr = renaming.get(inner.attr, inner.attr)


def _short() -> Iterator[str]:
    for length in itertools.count(1):
        for first, *others in itertools.product(string.ascii_letters + "_" + string.digits, repeat=length):
            if not first.isdigit():
                yield "".join([first, *others])
