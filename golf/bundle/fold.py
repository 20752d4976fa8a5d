"""Parameters that are known become constants, wherever the type of what they are read from is known.

Types come from annotations: of parameters, of the fields of dataclasses, of what is assigned from them. What has no
known type is left to be read when the program runs, which gives the same value: a program refuses other ones.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Mapping, Sequence

from golf.bundle.link import Statement
from golf.bundle.names import FUNCTIONS, Function, bound_in, parameters, walk
from golf.bundle.simplify import constant

Known = Mapping[str, Mapping[str, object]]  # class -> attribute -> value
Types = dict[str, str]  # variable -> class
INIT = "__init__"


class Classes:
    """The classes of a program and what their attributes are instances of."""

    def __init__(self, statements: Sequence[Statement]) -> None:
        self.nodes = {s.node.name: s.node for s in statements if isinstance(s.node, ast.ClassDef)}
        self.functions = {s.node.name: s.node for s in statements if isinstance(s.node, FUNCTIONS)}
        self.fields: dict[tuple[str, str], str] = {}
        for name, node in self.nodes.items():
            for part in node.body:
                if isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                    self._note(name, part.target.id, self.annotated(part.annotation))
        for name, node in self.nodes.items():
            for part in node.body:
                if isinstance(part, FUNCTIONS) and part.name == INIT:
                    types = self.arguments(part, name)
                    for target, value in assignments(part.body):
                        if isinstance(target, ast.Attribute) and ast.unparse(target.value) == "self":
                            self._note(name, target.attr, self.of(value, types))

    def _note(self, name: str, attribute: str, kind: str | None) -> None:
        """What an attribute was found to be; found to be two things, it is not known."""
        if kind is not None:
            known = self.fields.get((name, attribute), kind)
            self.fields[name, attribute] = kind if known == kind else ""

    def annotated(self, annotation: ast.expr | None) -> str | None:
        """The class that an annotation names, None beside it or not."""
        if isinstance(annotation, ast.BinOp) and isinstance(annotation.right, ast.Constant):
            annotation = annotation.left
        return annotation.id if isinstance(annotation, ast.Name) and annotation.id in self.nodes else None

    def arguments(self, node: Function, owner: str | None) -> Types:
        """Classes of a function's parameters that it never assigns to."""
        found = {a.arg: kind for a in parameters(node.args) if (kind := self.annotated(a.annotation)) is not None}
        if owner is not None and node.args.args:
            found[node.args.args[0].arg] = owner
        assigned = bound_in(node.body)
        return {name: kind for name, kind in found.items() if name not in assigned}

    def of(self, node: ast.expr | None, types: Types) -> str | None:
        """The class of an expression's value, where it is known."""
        if isinstance(node, ast.Name):
            return types.get(node.id)
        if isinstance(node, ast.Attribute):
            owner = self.of(node.value, types)
            while owner is not None:
                if (owner, node.attr) in self.fields:
                    return self.fields[owner, node.attr] or None
                bases = [base.id for base in self.nodes[owner].bases if isinstance(base, ast.Name)]
                owner = next((base for base in bases if base in self.nodes), None)
        return self._returned(node, types) if isinstance(node, ast.Call) else None

    def _returned(self, node: ast.Call, types: Types) -> str | None:
        if isinstance(node.func, ast.Name):
            if node.func.id in self.nodes:
                return node.func.id
            if node.func.id in self.functions:
                found = self.annotated(self.functions[node.func.id].returns)
                if found is not None:
                    return found
            if node.func.id.startswith("load__") and node.args and isinstance(node.args[0], ast.Name):
                return node.args[0].id if node.args[0].id in self.nodes else None
        elif isinstance(node.func, ast.Attribute):
            owner = self.of(node.func.value, types)
            for part in self.nodes[owner].body if owner is not None else []:
                if isinstance(part, FUNCTIONS) and part.name == node.func.attr:
                    return self.annotated(part.returns)
        return None


def assignments(body: Sequence[ast.AST]) -> list[tuple[ast.expr, ast.expr]]:
    """Target and value of every plain assignment below ``body``, those of tuples one by one."""
    found: list[tuple[ast.expr, ast.expr]] = []
    for node in body:
        for inner in walk(node):
            if isinstance(inner, ast.AnnAssign) and inner.value is not None:
                found.append((inner.target, inner.value))
            elif isinstance(inner, ast.Assign) and len(inner.targets) == 1:
                target, value = inner.targets[0], inner.value
                if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                    found += zip(target.elts, value.elts, strict=False)
                else:
                    found.append((target, value))
    return found


class Fold(ast.NodeTransformer):
    """Puts the values of ``known`` in place of the attributes that hold them.

    Args:
        classes: of the program.
        known: values by class and attribute.
    """

    def __init__(self, classes: Classes, known: Known) -> None:
        self.classes, self.known = classes, known
        self.types: Types = {}
        self.owner: str | None = None
        self.count = 0

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Its methods know what ``self`` is."""
        before, self.owner = self.owner, node.name
        self.generic_visit(node)
        self.owner = before
        return node

    def _function(self, node: Function) -> ast.AST:
        outer, owner = self.types, self.owner
        self.owner = None
        bound = bound_in(node.body) | {argument.arg for argument in parameters(node.args)}
        self.types = {name: kind for name, kind in outer.items() if name not in bound}
        static = any(ast.unparse(part) in ("staticmethod", "classmethod") for part in node.decorator_list)
        self.types |= self.classes.arguments(node, None if static else owner)
        counts: Counter[str] | None = None  # when it is needed
        for target, value in assignments(node.body):
            kind = self.classes.of(value, self.types) if isinstance(target, ast.Name) else None
            if kind is not None and isinstance(target, ast.Name):
                counts = counts or Counter(name for part in node.body for name in stored(part))
                if counts[target.id] == 1:
                    self.types[target.id] = kind
        self.generic_visit(node)
        self.types, self.owner = outer, owner
        return node

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """An attribute whose value is known."""
        kind = self.classes.of(node.value, self.types)
        if kind is not None and node.attr in self.known.get(kind, {}) and isinstance(node.ctx, ast.Load):
            self.count += 1
            return constant(self.known[kind][node.attr])
        self.generic_visit(node)
        return node


def stored(node: ast.AST) -> list[str]:
    """Names that are bound below ``node``, as often as they are."""
    found: list[str] = []
    for inner in walk(node):
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Load):
            found.append(inner.id)
        elif isinstance(inner, ast.arg):
            found.append(inner.arg)
        elif isinstance(inner, (*FUNCTIONS, ast.ClassDef, ast.ExceptHandler)) and inner.name:
            found.append(inner.name)
        elif isinstance(inner, ast.alias):
            found.append(inner.asname or inner.name)
    return found
