"""Variables that the next statement reads, and nothing else: their values stand there.

Only where the variable is the first thing that the statement evaluates, so that all comes in the order in which it did.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Sequence

from golf.bundle.fold import stored
from golf.bundle.link import Statement, is_flat
from golf.bundle.names import FUNCTIONS, Function, bound_in, walk

# What a node evaluates first, by its type; of a list the first of it.
FIRST = {
    ast.Return: "value", ast.Expr: "value", ast.Assign: "value", ast.If: "test", ast.For: "iter", ast.With: "items",
    ast.withitem: "context_expr", ast.Attribute: "value", ast.Subscript: "value", ast.Call: "func", ast.BinOp: "left",
    ast.Compare: "left", ast.BoolOp: "values", ast.UnaryOp: "operand", ast.IfExp: "test", ast.Tuple: "elts",
    ast.List: "elts", ast.Starred: "value", ast.ListComp: "generators", ast.SetComp: "generators",
    ast.DictComp: "generators", ast.GeneratorExp: "generators", ast.comprehension: "iter",
}  # fmt: skip
ACTS = (ast.Yield, ast.YieldFrom, ast.Await, ast.NamedExpr)
PYTHON = {"bool", "dict", "enumerate", "float", "int", "iter", "len", "list", "map", "max", "min", "next", "print",
          "range", "set", "sorted", "str", "sum", "tuple", "zip"}  # fmt: skip
KERNEL = "tl"  # who reads it compiles a function of its own kind, which is left as it is


def inline_once(statements: Sequence[Statement]) -> None:
    """Put values in place of variables that only the next statement reads, first of all."""
    imports = [statement.binds for statement in statements if isinstance(statement.node, (ast.Import, ast.ImportFrom))]
    anew = {name for s in statements for node in walk(s.node) if isinstance(node, ast.Global) for name in node.names}
    same = PYTHON.union(*imports)
    for statement in statements:
        for part in statement.node.body if isinstance(statement.node, ast.ClassDef) else [statement.node]:
            if isinstance(part, FUNCTIONS):
                _inline(part, same, anew)


def _inline(function: Function, same: set[str], anew: set[str]) -> None:
    nodes = walk(function)
    reads = Counter(node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load))
    if KERNEL in reads or anew & reads.keys():
        return
    shared = {name for node in nodes if isinstance(node, (ast.Global, ast.Nonlocal)) for name in node.names}
    shared = shared.union(*(bound_in(node.body) for node in nodes if isinstance(node, ast.ClassDef)))
    times = Counter(stored(function))
    once = {name for name, count in times.items() if count == reads[name] == 1} - shared
    for node in nodes:
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                setattr(node, name, _joined(block, once, same - times.keys()))


def _joined(block: list[ast.stmt], once: set[str], same: set[str]) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for node in block:
        while found and (value := _value(found[-1], once, node, same)) is not None:
            _put_first(node, value, same)
            found.pop()
        found.append(node)
    return found


def _value(before: ast.stmt, once: set[str], node: ast.AST, same: set[str]) -> ast.expr | None:
    """What ``before`` assigns, if to a variable of ``once`` with which ``node`` begins."""
    if not isinstance(before, ast.Assign) or len(before.targets) > 1 or not isinstance(before.targets[0], ast.Name):
        return None
    first: ast.AST | None = node
    while first is not None and type(first) in FIRST:
        first = _first(first, same)
    name = before.targets[0].id
    begins = isinstance(first, ast.Name) and first.id == name and name in once
    return before.value if begins and not any(isinstance(inner, ACTS) for inner in walk(before.value)) else None


def _field(node: ast.AST, same: set[str]) -> str:
    """Of a call of a function of ours, of Python's or of a module, ``same`` at any time, its arguments come first."""
    if isinstance(node, ast.Call) and node.args:
        called = node.func.value if isinstance(node.func, ast.Attribute) else node.func
        if isinstance(called, ast.Name) and (is_flat(called.id) or called.id in same):
            return "args"
    return FIRST[type(node)]


def _first(node: ast.AST, same: set[str]) -> ast.AST | None:
    child = getattr(node, _field(node, same))
    return next(iter(child), None) if isinstance(child, list) else child


def _put_first(node: ast.AST, value: ast.expr, same: set[str]) -> None:
    while type(child := _first(node, same)) in FIRST:
        node = child  # type: ignore[assignment]
    field = _field(node, same)
    setattr(node, field, [value, *getattr(node, field)[1:]] if isinstance(getattr(node, field), list) else value)
