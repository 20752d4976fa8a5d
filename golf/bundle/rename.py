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
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from golf.bundle.link import is_flat
from golf.bundle.names import FUNCTIONS, Function, bound_in, parameters, walk
from golf.bundle.prune import CALLED

# torch.library hands these to setup_context by keyword; Triton's kernels find the others among their globals.
KEPT = {"ctx", "inputs", "output", "tl", "triton"}
# Decorators behind which a function is called as it is.
TRANSPARENT = {"contextmanager", "property", "staticmethod", "classmethod", "torch.no_grad()", "lru_cache(maxsize=1)"}
LOCAL = 52  # of the shortest names, those that functions use first


def rename(trees: Sequence[ast.Module], exported: Mapping[str, str], kept: set[str]) -> None:
    """Rename in place.

    Args:
        trees: the parts of the program, which share their names.
        exported: module-level names that others know, with what they call them.
        kept: names that the launcher defines.
    """
    _rename_private(trees)
    nodes = [node for tree in trees for node in walk(tree)]
    counts = Counter(name for node in nodes for name in names_of(node))
    fixed = kept | KEPT | set(exported.values()) | set(dir(builtins)) | set(keyword.kwlist) | _outside(nodes)
    keywords = Keywords.within(nodes, set(exported))
    pool = [name for name in itertools.islice(_short(), 3 * len(counts)) if name not in fixed]
    ours = [name for name in counts if is_flat(name) and name not in exported]
    renaming = dict(zip(ours, pool[LOCAL:], strict=False)) | dict(exported)
    every = keywords.all
    for owner, function in _functions(trees):
        _rename_function(function, renaming, fixed, keywords.may_name(owner, function), every, pool)
    for node in nodes:
        _apply(node, renaming)


@dataclass
class Keywords:
    """What calls may give by keyword.

    Attributes:
        of: keywords by the name of the function, method or class that is called.
        anyones: keywords of calls whose callee nobody knows, and what a ``**`` may give.
        handed: names that are mentioned otherwise than to be called, or are called with a ``**``.
    """

    of: dict[str, set[str]]
    anyones: set[str]
    handed: set[str]

    @classmethod
    def within(cls, nodes: Sequence[ast.AST], handed: set[str]) -> Keywords:
        """Those of ``nodes``, which are all that there is; ``handed``: names that others know."""
        found = cls(defaultdict(set), set(), _handed(nodes) | handed)
        foreign = _outside(nodes) | (set(dir(builtins)) - set(_bound(nodes)))
        stored = {node.attr for node in nodes if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)}
        stored |= {name for node in nodes if isinstance(node, ast.ClassDef) for name in _fields(node)}
        stored |= {node.name for node in nodes if isinstance(node, FUNCTIONS) and _decorated(node, "property")}
        defined = {node.name for node in nodes if isinstance(node, (*FUNCTIONS, ast.ClassDef))}
        for node in nodes:
            if isinstance(node, ast.Dict):
                keys = (key.value for key in node.keys if isinstance(key, ast.Constant))
                found.anyones |= {key for key in keys if isinstance(key, str)}
            if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant):
                found.anyones |= {node.slice.value} if isinstance(node.slice.value, str) else set()
            if not isinstance(node, ast.Call):
                continue
            root = node.func
            while isinstance(root, ast.Attribute):
                root = root.value
            given = {word.arg for word in node.keywords if word.arg}
            if any(word.arg is None for word in node.keywords):
                found.handed.add(getattr(node.func, "attr", getattr(node.func, "id", "")))
            if isinstance(root, ast.Name) and root.id == "dict":
                found.anyones |= given
            if isinstance(root, ast.Name) and root.id in foreign:
                if any(isinstance(argument, ast.Name) and is_flat(argument.id) for argument in node.args):
                    found.anyones |= given  # a function of ours to call with them
            elif isinstance(node.func, ast.Name) and is_flat(node.func.id) and node.func.id in defined:
                found.of[node.func.id] |= given
            elif not isinstance(node.func, ast.Attribute) or node.func.attr in stored:
                found.anyones |= given
            elif node.func.attr in defined:
                found.of[node.func.attr] |= given
        return found

    def may_name(self, owner: str, function: ast.AST) -> set[str]:
        """What may be given by keyword to a function, or to a method of the class ``owner``."""
        name = function.name  # type: ignore[attr-defined]
        special = bool(owner) and name.startswith("__")
        called = owner if special else name
        known = self.of.get(called, set()) | (self.of.get(name, set()) if special else set())
        free = bool({called, name} & self.handed) or (bool(owner) and name in CALLED)
        return known | self.anyones if free else known

    @property
    def all(self) -> set[str]:
        """What any call gives."""
        return self.anyones.union(*self.of.values())


def _fields(node: ast.ClassDef) -> set[str]:
    return bound_in([part for part in node.body if not isinstance(part, FUNCTIONS)])


def _decorated(node: Function, name: str) -> bool:
    return name in map(ast.unparse, node.decorator_list)


def _handed(nodes: Sequence[ast.AST]) -> set[str]:
    """Names and attributes that are read otherwise than to be called, what is decorated, and what makes itself."""
    silent = {id(node.func) for node in nodes if isinstance(node, ast.Call)}
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
            silent |= {id(inner) for inner in walk(node.args[1])}
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and id(node) not in silent:
            found.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in silent:
            found.add(node.attr)
        elif isinstance(node, FUNCTIONS) and not {ast.unparse(part) for part in node.decorator_list} <= TRANSPARENT:
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            methods = [part for part in node.body if isinstance(part, FUNCTIONS)]
            if any(_decorated(part, "classmethod") for part in methods):
                found.add(node.name)
    return found


def _functions(trees: Sequence[ast.Module]) -> Iterator[tuple[str, ast.AST]]:
    """Functions and methods, those of the top alone, with the class that a method belongs to."""
    for tree in trees:
        for statement in tree.body:
            if isinstance(statement, ast.ClassDef):
                yield from ((statement.name, node) for node in statement.body if isinstance(node, FUNCTIONS))
            elif isinstance(statement, FUNCTIONS):
                yield "", statement


def _rename_function(
    function: ast.AST,
    others: Mapping[str, str],
    fixed: set[str],
    own: set[str],
    every: set[str],
    pool: Sequence[str],
) -> None:
    """``own``: what may be given to it by keyword; ``every``: to any function, those in it too."""
    nodes = [node for node in walk(function) if node is not function]
    names = dict.fromkeys(name for node in nodes for name in names_of(node))  # a set in the order of coming
    outer = {id(argument) for argument in parameters(function.args)}  # type: ignore[attr-defined]
    arguments = [node for node in nodes if isinstance(node, ast.arg)]
    fixed = fixed | {node.arg for node in arguments if node.arg in (own if id(node) in outer else every)}
    fixed |= {name for node in nodes if isinstance(node, ast.ClassDef) for name in bound_in(node.body)}
    bound = _bound(nodes) - fixed
    seen = {others.get(name, name) for name in names if name not in bound}
    mine = [name for name in names if name in bound and not is_flat(name)]
    free = (name for name in pool if name not in seen)
    renaming = dict(zip(mine, free, strict=False))
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
    everywhere = Counter(n.attr for tree in trees for n in walk(tree) if isinstance(n, ast.Attribute))
    texts = {n.value for t in trees for n in walk(t) if isinstance(n, ast.Constant) and isinstance(n.value, str)}
    defined: set[str] = set()
    fields: set[str] = set()
    for node in classes:
        if node.name not in own:
            continue
        defined |= {part.name for part in node.body if isinstance(part, FUNCTIONS)}
        fields |= bound_in([part for part in node.body if not isinstance(part, FUNCTIONS)])
        for inner in walk(node):
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
        for inner in walk(node):
            if isinstance(inner, ast.Attribute):
                inner.attr = renaming.get(inner.attr, inner.attr)


def _short() -> Iterator[str]:
    for length in itertools.count(1):
        for first, *others in itertools.product(string.ascii_letters + "_" + string.digits, repeat=length):
            if not first.isdigit():
                yield "".join([first, *others])
