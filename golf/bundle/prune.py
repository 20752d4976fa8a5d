"""What a program needs of its statements: those that its entry reaches, and of classes the methods that are named."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field

from golf.bundle.link import Statement, is_flat
from golf.bundle.names import FUNCTIONS, parameters, walk

# Methods that others call by name: torch, and who audits a scorer (golf.scoring.protocol).
CALLED = {"forward", "distribution", "trace"}


@dataclass
class Uses:
    """What code names: names as such, and attributes, keywords and texts that may be an attribute's."""

    names: set[str] = field(default_factory=set)
    members: set[str] = field(default_factory=set)

    def add(self, node: ast.AST) -> None:
        """Everything named in ``node``."""
        for inner in walk(node):
            if isinstance(inner, ast.Name):
                self.names.add(inner.id)
            elif isinstance(inner, ast.Attribute):
                self.members.add(inner.attr)
            elif isinstance(inner, ast.keyword) and inner.arg:
                self.members.add(inner.arg)
            elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                self.members.add(inner.value)


def reach(statements: Sequence[Statement], roots: set[str], *, lazily: bool) -> list[Statement]:
    """The statements that ``roots`` reach, in their order; without ``lazily`` no import inside a function counts."""
    uses = Uses(names=set(roots))
    left = list(statements)
    found: set[int] = set()
    methods: list[ast.AST] = []
    changed = True
    while changed:
        changed = False
        for statement in left:
            if id(statement) in found or not _wanted(statement, uses):
                continue
            found.add(id(statement))
            changed = True
            before = set(uses.names)
            own, others = _split(statement.node)
            methods += own
            for part in others:
                uses.add(part)
            if not lazily:
                uses.names -= statement.lazy - before
        for method in list(methods):
            if method.name in uses.members:  # type: ignore[attr-defined]
                methods.remove(method)
                uses.add(method)
                changed = True
    return [statement for statement in statements if id(statement) in found]


def _wanted(statement: Statement, uses: Uses) -> bool:
    attached = _attached(statement.node)
    if attached:
        return attached <= uses.names
    return bool(statement.binds & uses.names)


def _attached(node: ast.stmt) -> set[str]:
    """Names of ours that a function is registered with: ``@operator.register_fake``, ``@differentiable(operator)``."""
    found: set[str] = set()
    for decorator in getattr(node, "decorator_list", []):
        if isinstance(decorator, ast.Attribute) and isinstance(decorator.value, ast.Name):
            found.add(decorator.value.id)
        elif isinstance(decorator, ast.Call):
            found |= {argument.id for argument in decorator.args[:1] if isinstance(argument, ast.Name)}
    return {name for name in found if is_flat(name)}


def _split(node: ast.stmt) -> tuple[list[ast.AST], list[ast.AST]]:
    """Of a class the methods that may be left out, and the other parts; of anything else itself."""
    if not isinstance(node, ast.ClassDef):
        return [], [node]
    methods: list[ast.AST] = [part for part in node.body if is_method(part)]
    return methods, [*node.decorator_list, *node.bases, *node.keywords, *(p for p in node.body if p not in methods)]


def is_method(node: ast.AST) -> bool:
    """Whether it is a method that only somebody who names it can call."""
    return isinstance(node, FUNCTIONS) and not node.name.startswith("__") and node.name not in CALLED


def leave_out(statements: Sequence[Statement], names: set[str]) -> None:
    """Remove the statements that are a call of one of ``names``."""

    class Leave(ast.NodeTransformer):
        def visit_Expr(self, node: ast.Expr) -> ast.stmt:
            call = node.value
            called = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in names
            return ast.Pass() if called else node

    for statement in statements:
        statement.node = Leave().visit(statement.node)


def drop_methods(statements: Sequence[Statement]) -> None:
    """Remove the methods that no statement names."""
    while True:
        uses = Uses()
        for statement in statements:
            for parts in _split(statement.node):
                for part in parts:
                    uses.add(part)
        dropped = False
        for statement in statements:
            if isinstance(statement.node, ast.ClassDef):
                body = statement.node.body
                kept = [part for part in body if not is_method(part) or part.name in uses.members]  # type: ignore[attr-defined]
                dropped |= len(kept) < len(body)
                statement.node.body = kept or [ast.Pass()]
        if not dropped:
            return


def order(statements: Sequence[Statement]) -> list[Statement]:
    """The statements so that each stands behind what it reads when it runs; what functions read comes when it may."""
    by_name = {name: statement for statement in statements for name in statement.binds if is_flat(name)}
    found: list[Statement] = []
    visited: set[int] = set()

    def visit(statement: Statement) -> None:
        if id(statement) in visited:
            return
        visited.add(id(statement))
        for name in sorted(_at_once(statement.node)):
            if name in by_name:
                visit(by_name[name])
        found.append(statement)

    imports = (ast.Import, ast.ImportFrom)
    for statement in statements:
        if isinstance(statement.node, imports):
            visit(statement)
    for statement in statements:
        visit(statement)
    return found


def _at_once(node: ast.AST) -> set[str]:
    """Names that are read when the statement runs: of a function its decorators and defaults, of a class its body."""
    if isinstance(node, FUNCTIONS):
        arguments = node.args
        read: list[ast.AST] = [*node.decorator_list, *arguments.defaults, *filter(None, arguments.kw_defaults)]
        read += [argument.annotation for argument in parameters(arguments) if argument.annotation is not None]
    elif isinstance(node, ast.ClassDef):
        read = [*node.decorator_list, *node.bases, *node.keywords]
        return set().union(*(_names(part) for part in read), *(_at_once(part) for part in node.body))
    elif isinstance(node, ast.Lambda):
        read = [*node.args.defaults, *filter(None, node.args.kw_defaults)]
    else:
        read = [node]
    return set().union(*(_names(part) for part in read))


def _names(node: ast.AST) -> set[str]:
    return {inner.id for inner in walk(node) if isinstance(inner, ast.Name)} - set(dir(builtins))
