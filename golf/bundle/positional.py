"""Keywords of calls become places where the callee is known, so that its parameters' names need not be."""

from __future__ import annotations

import ast
from collections.abc import Sequence

from golf.bundle.fold import INIT
from golf.bundle.link import Statement
from golf.bundle.names import FUNCTIONS, Function, walk
from golf.bundle.propagate import fields_of
from golf.bundle.simplify import is_constant, is_pure

Signature = list[tuple[str, ast.expr | None]]  # parameters that have a place, with their defaults


def use_places(statements: Sequence[Statement]) -> None:
    """Give parameters places where they had only names, and calls of functions and classes by name arguments there."""
    signatures: dict[str, Signature] = {}
    for statement in statements:
        node = statement.node
        for function in walk(node):
            if isinstance(function, FUNCTIONS):
                _places(function)
        if isinstance(node, FUNCTIONS) and not node.decorator_list:
            signatures[node.name] = _signature(node)
        elif isinstance(node, ast.ClassDef):
            init = next((part for part in node.body if isinstance(part, FUNCTIONS) and part.name == INIT), None)
            fields = fields_of(node)
            if init is not None:
                signatures[node.name] = _signature(init)[1:]
            elif not any("ClassVar" in ast.unparse(part) or "init=" in ast.unparse(part) for part in node.body):
                signatures[node.name] = list(fields.items())
    for statement in statements:
        for call in walk(statement.node):
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.keywords:
                _place(call, signatures.get(call.func.id, []))


def _places(node: Function) -> None:
    """Parameters that only have a name get a place behind the others: no call of the function can tell."""
    arguments = node.args
    defaults = [default for default in arguments.kw_defaults if default is not None]
    if arguments.vararg or (arguments.defaults and len(defaults) < len(arguments.kwonlyargs)):
        return
    pairs = sorted(zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True), key=lambda pair: pair[1] is not None)
    arguments.args += [argument for argument, _ in pairs]
    arguments.defaults += [default for _, default in pairs if default is not None]
    arguments.kwonlyargs, arguments.kw_defaults = [], []


def _signature(node: Function) -> Signature:
    if node.args.posonlyargs or node.args.vararg or node.args.kwarg:
        return []
    none: list[ast.expr | None] = [None] * (len(node.args.args) - len(node.args.defaults))
    return list(zip([argument.arg for argument in node.args.args], none + list(node.args.defaults), strict=True))


def _place(call: ast.Call, signature: Signature) -> None:
    """Arguments in their places, as many as have no gap before them that is more than a literal default."""
    if any(isinstance(argument, ast.Starred) for argument in call.args) or any(not word.arg for word in call.keywords):
        return
    given = {word.arg: word for word in call.keywords}
    placed = list(call.args)
    for name, default in signature[len(placed) :]:
        if not given or not (name in given or is_constant(default)):
            break
        placed.append(given.pop(name).value if name in given else default)  # type: ignore[arg-type]
    words = list(given.values())
    before = [*call.args, *(word.value for word in call.keywords)]
    acting = [[id(n) for n in nodes if not is_pure(n)] for nodes in (before, [*placed, *(w.value for w in words)])]
    if acting[0] == acting[1]:  # what may act does so in the order in which it did
        call.args, call.keywords = placed, words
