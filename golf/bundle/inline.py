"""Small things in place of their names: a module's literals, and calls that give one or nothing."""

from __future__ import annotations

import ast
import copy
from collections import Counter
from collections.abc import Mapping, Sequence

from golf.bundle.link import Statement, is_flat
from golf.bundle.names import FUNCTIONS, Function, walk
from golf.bundle.simplify import is_constant, is_pure

SHORT = 3  # characters of a literal that is no longer than a name


def inline_literals(statements: Sequence[Statement], kept: set[str]) -> None:
    """Put module-level literals where they are read: once, or anywhere if they are short. ``kept``: names to leave."""
    stores: Counter[str] = Counter()
    loads: Counter[str] = Counter()
    for statement in statements:
        for node in walk(statement.node):
            if isinstance(node, ast.Name):
                (loads if isinstance(node.ctx, ast.Load) else stores)[node.id] += 1
    values: dict[str, ast.expr] = {}
    for statement in statements:
        for name, value in _literals(statement.node).items():
            once = loads[name] == 1 or len(ast.unparse(value)) <= SHORT
            if once and stores[name] == 1 and is_flat(name) and name not in kept:
                values[name] = value
    for statement in statements:
        _Names(values).visit(statement.node)
        statement.node = _without(statement.node, set(values))
        statement.binds -= values.keys()


def _literals(node: ast.stmt) -> dict[str, ast.expr]:
    """Names that an assignment gives literals, those of a tuple one by one."""
    if not isinstance(node, ast.Assign) or len(node.targets) > 1:
        return {}
    target, value = node.targets[0], node.value
    pairs = [(target, value)]
    if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
        pairs = list(zip(target.elts, value.elts, strict=True))
    return {name.id: literal for name, literal in pairs if isinstance(name, ast.Name) and _is_literal(literal)}


def _is_literal(node: ast.expr) -> bool:
    return is_constant(node) or (isinstance(node, ast.Set) and all(map(is_constant, node.elts)))


def _without(node: ast.stmt, names: set[str]) -> ast.stmt:
    if not isinstance(node, ast.Assign) or not names & _literals(node).keys():
        return node
    target, value = node.targets[0], node.value
    if not isinstance(target, ast.Tuple) or not isinstance(value, ast.Tuple):
        return ast.Pass()
    left = [
        (name, literal)
        for name, literal in zip(target.elts, value.elts, strict=True)
        if not (isinstance(name, ast.Name) and name.id in names)
    ]
    if not left:
        return ast.Pass()
    names_left, values_left = ([pair[k] for pair in left] for k in (0, 1))
    if len(left) == 1:
        return ast.Assign(names_left, values_left[0], lineno=0)
    return ast.Assign([ast.Tuple(names_left, ast.Store())], ast.Tuple(values_left, ast.Load()), lineno=0)


class _Names(ast.NodeTransformer):
    def __init__(self, values: Mapping[str, ast.expr]) -> None:
        self.values = values

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


def inline_trivial(statements: Sequence[Statement]) -> int:
    """Put a literal in place of calls of functions that only return it; a statement that was such a call is gone.

    Where the arguments do nothing either; the number of calls taken out.
    """
    results: dict[str, ast.expr] = {}
    for statement in statements:
        node = statement.node
        if isinstance(node, FUNCTIONS) and not node.decorator_list and is_flat(node.name):
            results.update(_result(node))
    calls = _Calls(results)
    for statement in statements:
        calls.visit(statement.node)
    return calls.count


def _result(node: Function) -> dict[str, ast.expr]:
    body = [part for part in node.body if not (isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant))]
    body = [part for part in body if not isinstance(part, ast.Pass)] or [ast.Return()]
    if len(body) > 1 or not isinstance(body[0], ast.Return):
        return {}
    value = body[0].value or ast.Constant(None)
    empty = ast.unparse(value) in ("[]", "{}")  # each call makes a new one, as the literal does
    return {node.name: value} if empty or is_constant(value) else {}


class _Calls(ast.NodeTransformer):
    def __init__(self, results: Mapping[str, ast.expr]) -> None:
        self.results, self.count = results, 0

    def visit_Expr(self, node: ast.Expr) -> ast.stmt:
        call = node.value
        self.generic_visit(node)
        return node if node.value is call else ast.Pass()

    def visit_Call(self, node: ast.Call) -> ast.expr:
        self.generic_visit(node)
        value = self.results.get(node.func.id) if isinstance(node.func, ast.Name) else None
        if value is None or not all(is_pure(part) for part in (*node.args, *(word.value for word in node.keywords))):
            return node
        self.count += 1
        return copy.deepcopy(value)
