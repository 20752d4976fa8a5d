"""Constants that follow from constants: attributes and variables that are set once, arguments that are always the same."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Sequence

from golf.bundle.fold import assignments
from golf.bundle.link import Statement
from golf.bundle.names import FUNCTIONS, Function, bound_in, parameters
from golf.bundle.simplify import is_constant, is_pure, value_of


def constant_attributes(statements: Sequence[Statement]) -> dict[str, dict[str, object]]:
    """class -> attribute -> value, of attributes that the whole program sets in one place, to a literal."""
    stores: Counter[str] = Counter()
    found: dict[str, tuple[str, object]] = {}
    for statement in statements:
        owner = statement.node.name if isinstance(statement.node, ast.ClassDef) else ""
        for inner in ast.walk(statement.node):
            if isinstance(inner, ast.Attribute) and not isinstance(inner.ctx, ast.Load):
                stores[inner.attr] += 1
            elif isinstance(inner, ast.ClassDef):
                stores.update(dict.fromkeys(bound_in(inner.body), 2))
            elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                stores[inner.value] += 0
        for target, value in assignments([statement.node]):
            if owner and isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self" and is_constant(value):
                found[target.attr] = owner, value_of(value)
    known: dict[str, dict[str, object]] = defaultdict(dict)
    for attribute, (owner, value) in found.items():
        if stores[attribute] == 1:
            known[owner][attribute] = value
    return known


def drop_unread_attributes(statements: Sequence[Statement]) -> None:
    """Remove ``self.x = literal`` where nothing reads an ``x``."""
    read: set[str] = set()
    for statement in statements:
        for inner in ast.walk(statement.node):
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Load):
                read.add(inner.attr)
            elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                read.add(inner.value)
    for statement in statements:
        statement.node = _DropStores(read).visit(statement.node)


class _DropStores(ast.NodeTransformer):
    def __init__(self, read: set[str]) -> None:
        self.read = read

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        if len(node.targets) > 1:
            return node
        target, value = node.targets[0], node.value
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = [
                (left, right)
                for left, right in zip(target.elts, value.elts, strict=True)
                if not self._needless(left, right)
            ]
            if len(pairs) == len(target.elts):
                return node
            if not pairs:
                return ast.Pass()
            if len(pairs) == 1:
                return ast.Assign([pairs[0][0]], pairs[0][1], lineno=0)
            left, right = zip(*pairs, strict=True)
            return ast.Assign([ast.Tuple(list(left), ast.Store())], ast.Tuple(list(right), ast.Load()), lineno=0)
        return ast.Pass() if self._needless(target, value) else node

    def _needless(self, target: ast.expr, value: ast.expr) -> bool:
        return (
            isinstance(target, ast.Attribute)
            and target.attr not in self.read
            and isinstance(target.value, ast.Name)
            and target.value.id == "self"
            and is_pure(value)
        )


def constant_variables(statements: Sequence[Statement]) -> None:
    """Put literals in place of a function's variables that it sets once, first thing or unconditionally."""
    for statement in statements:
        for inner in ast.walk(statement.node):
            if isinstance(inner, FUNCTIONS):
                _variables(inner)


def _variables(node: Function) -> None:
    nested = [i for part in node.body for i in ast.walk(part) if isinstance(i, (*FUNCTIONS, ast.Lambda))]
    counts = Counter(
        inner.id for part in node.body for inner in ast.walk(part)
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load)
    )  # fmt: skip
    taken = {argument.arg for argument in parameters(node.args)}
    taken |= {argument.arg for inner in nested for argument in parameters(inner.args)}
    taken |= {name for i in ast.walk(node) if isinstance(i, (ast.Global, ast.Nonlocal)) for name in i.names}
    taken |= {i.name for i in ast.walk(node) if isinstance(i, (*FUNCTIONS, ast.ExceptHandler, ast.ClassDef)) and i.name}
    values: dict[str, ast.expr] = {}
    for part in node.body:
        if isinstance(part, ast.Assign) and len(part.targets) == 1 and isinstance(part.targets[0], ast.Name):
            name = part.targets[0].id
            if is_constant(part.value) and counts[name] == 1 and name not in taken:
                values[name] = part.value
    if values:
        node.body = [changed for part in node.body if (changed := _Put(values).visit(part)) is not None] or [ast.Pass()]


class _Put(ast.NodeTransformer):
    def __init__(self, values: dict[str, ast.expr]) -> None:
        self.values = values

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        if len(node.targets) == 1 and isinstance(node.targets[0], ast.Name) and node.targets[0].id in self.values:
            return None
        return self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> ast.expr:
        return self.values.get(node.id, node) if isinstance(node.ctx, ast.Load) else node


def constant_arguments(statements: Sequence[Statement]) -> int:
    """Take out the parameters for which every call gives the same literal, or nothing and the default is one.

    Of functions that are only ever called, by their own name; the number of parameters taken out.
    """
    functions = {s.node.name: s.node for s in statements if isinstance(s.node, FUNCTIONS) and not s.node.decorator_list}
    calls: dict[str, list[ast.Call]] = defaultdict(list)
    mentioned: Counter[str] = Counter()
    for statement in statements:
        for inner in ast.walk(statement.node):
            if isinstance(inner, ast.Name) and inner.id in functions:
                mentioned[inner.id] += 1
            if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id in functions:
                calls[inner.func.id].append(inner)
    count = 0
    for name, node in functions.items():
        plain = all(
            not any(isinstance(a, ast.Starred) for a in call.args) and all(k.arg for k in call.keywords)
            for call in calls[name]
        )
        simple = not (node.args.posonlyargs or node.args.vararg or node.args.kwarg)
        if calls[name] and plain and simple and mentioned[name] == len(calls[name]):
            count += _take_out(node, calls[name])
    return count


def _take_out(node: Function, calls: Sequence[ast.Call]) -> int:
    count = 0
    arguments = node.args
    for argument in [*arguments.kwonlyargs, *reversed(arguments.args)]:
        keyword = argument in arguments.kwonlyargs
        place = (arguments.kwonlyargs if keyword else arguments.args).index(argument)
        default = arguments.kw_defaults[place] if keyword else _default(arguments, place)
        given = [_given(call, argument.arg, None if keyword else place) or default for call in calls]
        if any(value is None or not is_constant(value) for value in given):
            continue
        if len({ast.unparse(value) for value in given if value is not None}) > 1 or given[0] is None:
            continue
        if argument.arg in bound_in(node.body) or _shadowed(node, argument.arg):
            continue
        for call in calls:
            call.keywords = [k for k in call.keywords if k.arg != argument.arg]
            if not keyword and len(call.args) > place:
                del call.args[place]
        if keyword:
            del arguments.kwonlyargs[place], arguments.kw_defaults[place]
        else:
            first = len(arguments.args) - len(arguments.defaults)
            if place >= first:
                del arguments.defaults[place - first]
            del arguments.args[place]
        value = given[0]
        node.body = [_Put({argument.arg: value}).visit(part) for part in node.body]
        count += 1
    return count


def _default(arguments: ast.arguments, place: int) -> ast.expr | None:
    first = len(arguments.args) - len(arguments.defaults)
    return arguments.defaults[place - first] if place >= first else None


def _given(call: ast.Call, name: str, place: int | None) -> ast.expr | None:
    for word in call.keywords:
        if word.arg == name:
            return word.value
    return call.args[place] if place is not None and len(call.args) > place else None


def _shadowed(node: Function, name: str) -> bool:
    inner = [i for part in node.body for i in ast.walk(part) if isinstance(i, (*FUNCTIONS, ast.Lambda))]
    return any(argument.arg == name for i in inner for argument in parameters(i.args)) or any(
        name in bound_in(i.body) for i in inner if isinstance(i, FUNCTIONS)
    )
