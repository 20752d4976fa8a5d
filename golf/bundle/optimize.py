"""A program for given parameters: they become constants, and what they rule out is left out."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from typing import Any

from golf.bundle.fold import Classes, Fold, Known
from golf.bundle.inline import inline_literals, inline_trivial
from golf.bundle.link import Statement
from golf.bundle.names import FUNCTIONS, is_class_variable, walk
from golf.bundle.positional import use_places
from golf.bundle.propagate import (
    constant_arguments,
    constant_attributes,
    constant_fields,
    constant_variables,
    drop_given_defaults,
    drop_unread_attributes,
    drop_unread_variables,
)
from golf.bundle.prune import drop_methods, reach
from golf.bundle.simplify import Simplify, constant

ALL = "*"
# What the program can't do without, by section: these decide which code it holds. The others are free.
FIXED: dict[str, tuple[str, ...]] = {
    "model": (ALL,),
    "optim": (ALL,),
    "train": (ALL,),
    "select": (ALL,),
    "compress": (ALL,),
    "quant": ("method", "steps", "fit", "calibration"),
    "eval": ("ttt", "tilt", "order"),
}


def fix(statements: Sequence[Statement], document: Mapping[str, Mapping[str, Any]]) -> Known:
    """Give the sections' fields that are fixed the values of ``document`` as their defaults; the values by class.

    A section of which all is fixed was checked when it was read: it checks nothing any more.
    """
    known: dict[str, dict[str, object]] = {}
    for statement in statements:
        node = statement.node
        name = _section(node)
        if name not in FIXED or not isinstance(node, ast.ClassDef):
            continue
        keys = FIXED[name]
        values = {key: _frozen(value) for key, value in document[name].items() if key in keys or ALL in keys}
        known[node.name] = values
        body: list[ast.stmt] = [
            ast.Assign([ast.Name("FIXED", ast.Store())], constant(keys), lineno=0),
        ]
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name) and part.target.id in values:
                part.annotation, part.value = ast.Name("int", ast.Load()), constant(values[part.target.id])
            if ALL not in keys or not isinstance(part, FUNCTIONS):
                body.append(part)
        node.body = body
    return known


def optimize(statements: Sequence[Statement], roots: set[str], known: Known) -> list[Statement]:
    """What ``roots`` reach, with the attributes in ``known`` and all that follows from them and the code as constants.

    Without ``known`` too: an argument that every call gives is one whatever the parameters are.
    """
    live = reach(statements, roots, lazily=True)
    drop_methods(live)
    while True:
        sources = (constant_attributes(live), constant_fields(live), known)
        values = {name: {k: v for s in sources for k, v in s.get(name, {}).items()} for s in sources for name in s}
        fold = Fold(Classes(live), values)
        names = {name for value in values.values() for name in value}
        for statement in live:
            if any(isinstance(node, ast.Attribute) and node.attr in names for node in walk(statement.node)):
                statement.node = fold.visit(statement.node)
            _simplify(statement)
        constant_variables(live)
        count = fold.count + constant_arguments(live, roots) + inline_trivial(live)
        drop_unread_attributes(live)
        drop_unread_variables(live)
        if not count:
            break
    inline_literals(live, roots)
    inline_trivial(live)
    for statement in live:
        _simplify(statement)
    use_places(live)
    drop_given_defaults(live, roots)
    drop_defaults(live)
    live = reach(live, roots, lazily=True)
    drop_methods(live)
    return live


def drop_defaults(statements: Sequence[Statement]) -> None:
    """Take the defaults from sections of which nothing is fixed: who reads parameters gives every one.

    But not from a section that is called by its name somewhere, or asked for an attribute.
    """
    nodes = [node for statement in statements for node in walk(statement.node)]
    owners = [node.func for node in nodes if isinstance(node, ast.Call)]
    owners += [node.value for node in nodes if isinstance(node, ast.Attribute)]
    asked = {owner.id for owner in owners if isinstance(owner, ast.Name)}
    for statement in statements:
        node = statement.node
        if not isinstance(node, ast.ClassDef) or not _section(node) or node.name in asked:
            continue
        if not any(isinstance(part, ast.Assign) for part in node.body):  # of FIXED
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and not is_class_variable(part):
                    part.value = None


def _simplify(statement: Statement) -> None:
    block = ast.Module([statement.node], [])
    Simplify().visit(block)
    statement.node = block.body[0] if block.body else ast.Pass()


def _section(node: ast.stmt) -> str:
    """The section that a class of parameters reads; empty for anything else."""
    for part in node.body if isinstance(node, ast.ClassDef) else []:
        if isinstance(part, ast.AnnAssign) and ast.unparse(part.target) == "SECTION" and part.value is not None:
            return str(ast.literal_eval(part.value))
    return ""


def _frozen(value: object) -> object:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
