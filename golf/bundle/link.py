"""Many modules become one namespace, and what nothing reaches is left out.

Our modules do nothing when they are imported but define names, so their order does not matter and their statements can
stand in one file: each module-level name gets the number of its module, each import of ours becomes that name. What
the entry's module reaches without an import inside a function is the front; it runs at once. The rest runs when such
an import would have: the front has a call of :data:`MORE` in its place.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from golf.bundle.names import Globals, bound_in
from golf.runtime.errors import FairwayError
from golf.runtime.syntax import absolute

MORE = "more"  # what the launcher calls the function that runs the rest
PACKAGE = "golf"
SEPARATOR = "__"  # before the number of the module


@dataclass
class Statement:
    """One statement of a module's top level.

    Attributes:
        node: its code.
        binds: flat names that it defines; a statement that defines none goes with the first name that it reads.
        lazy: flat names that its functions imported when they ran.
    """

    node: ast.stmt
    binds: set[str]
    lazy: set[str] = field(default_factory=set)


class Linker:
    """The modules of a program, by name, with their sources."""

    def __init__(self, sources: Mapping[str, str], entry: str) -> None:
        self.entry = entry
        self.trees = {name: ast.parse(source) for name, source in sources.items()}
        self.packages = {name.rpartition(".")[0] for name in sources}
        self.numbers = {name: number for number, name in enumerate(self.trees)}
        self.defined = {
            name: {
                bound
                for node in tree.body
                if not _is_import(node) and not _for_type_checkers(node)
                for bound in bound_in([node])
            }
            for name, tree in self.trees.items()
        }

    def link(self) -> list[Statement]:
        """Every statement of every module, flat names in it, imports from elsewhere once each."""
        found: list[Statement] = []
        seen: set[str] = set()
        for name, tree in self.trees.items():
            for statement in self._module(name, tree):
                text = ast.unparse(statement.node)
                if _is_import(statement.node) and text in seen:
                    continue
                seen.add(text)
                found.append(statement)
        return found

    def flat(self, module: str, name: str) -> str:
        """The flat name of ``name`` of ``module``, wherever it was defined."""
        if name in self.defined[module]:
            return f"{name}{SEPARATOR}{self.numbers[module]}"
        for node in self.trees[module].body:
            if isinstance(node, ast.ImportFrom) and (base := self._base(node, module)).startswith(PACKAGE):
                for alias in node.names:
                    if name == (alias.asname or alias.name):
                        return self.flat(base, alias.name)
        raise FairwayError(f"bundle: {module} has no name {name}")

    def flat_names(self, module: str) -> set[str]:
        """The flat names of all that a module defines."""
        return {self.flat(module, name) for name in self.defined[module]}

    def _base(self, node: ast.ImportFrom, module: str) -> str:
        return absolute(node, module if module in self.packages else module.rpartition(".")[0])

    def _module(self, name: str, tree: ast.Module) -> Iterable[Statement]:
        own = {bound: f"{bound}{SEPARATOR}{self.numbers[name]}" for bound in self.defined[name]}
        modules: dict[str, str] = {}
        body: list[ast.stmt] = []
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and self._base(node, name).split(".")[0] == PACKAGE:
                self._ours(node, name, own, modules)
            elif isinstance(node, ast.Import) and any(alias.name.split(".")[0] == PACKAGE for alias in node.names):
                raise FairwayError(f"bundle: {name}: found `{ast.unparse(node)}`, needed `from ... import ...`")
            elif not _for_type_checkers(node):
                body.append(node)
        for node in body:
            lazy: dict[str, str] = {}
            imported = _Lazy(self, name, lazy if name == self.entry else own, modules).visit(node)
            yield from self._statement(name, imported, own | lazy, modules, set(lazy.values()))

    def _ours(self, node: ast.ImportFrom, module: str, names: dict[str, str], modules: dict[str, str]) -> None:
        base = self._base(node, module)
        for alias in node.names:
            inner = f"{base}.{alias.name}"
            if inner in self.trees:
                modules[alias.asname or alias.name] = inner
            else:
                names[alias.asname or alias.name] = self.flat(base, alias.name)

    def _statement(
        self, module: str, node: ast.stmt, names: dict[str, str], modules: dict[str, str], lazy: set[str]
    ) -> Iterable[Statement]:
        if isinstance(node, ast.Import) or (isinstance(node, ast.ImportFrom) and node.module != "__future__"):
            for alias in node.names:  # one statement each, so that each can be left out
                single = (
                    ast.Import([alias]) if isinstance(node, ast.Import) else ast.ImportFrom(node.module, [alias], 0)
                )
                yield Statement(single, bound_in([single]))
            return
        if isinstance(node, ast.ImportFrom):
            return

        def replace(name: str, attribute: str) -> ast.expr | None:
            if attribute and name in modules:
                flat = self.flat(modules[name], attribute)
                if self.entry == module:
                    lazy.add(flat)
                return ast.Name(flat, ast.Load())
            if name in modules:
                raise FairwayError(f"bundle: {module} uses the module {name} as a value, needed one of its names")
            return ast.Name(names[name], ast.Load()) if name in names and not attribute else None

        node = Globals(replace).visit(node)
        yield Statement(ast.fix_missing_locations(node), bound_in([node]), lazy)


class _Lazy(ast.NodeTransformer):
    """Takes imports of ours out of functions; in the entry's, the first of each leaves a call of MORE."""

    def __init__(self, linker: Linker, module: str, names: dict[str, str], modules: dict[str, str]) -> None:
        self.linker, self.module, self.names, self.modules = linker, module, names, modules

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.stmt:
        if self.linker._base(node, self.module).split(".")[0] != PACKAGE:
            return node
        self.linker._ours(node, self.module, self.names, self.modules)
        if self.module != self.linker.entry:
            return ast.Pass()
        return ast.Expr(ast.Call(ast.Name(MORE, ast.Load()), [], []))


def is_flat(name: str) -> bool:
    """Whether a name is a module-level one of ours: those end in the number of their module."""
    return SEPARATOR in name and name.rpartition(SEPARATOR)[2].isdigit()


def _is_import(node: ast.stmt) -> bool:
    return isinstance(node, (ast.Import, ast.ImportFrom))


def _for_type_checkers(node: ast.stmt) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
