"""Expressions of constants computed, branches that they rule out taken away."""

from __future__ import annotations

import ast
import operator
from types import NoneType
from typing import Any, cast

from golf.bundle.link import is_flat
from golf.bundle.names import walk

SIMPLE = (bool, int, float, str, NoneType)
COMPARE = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not,
}  # fmt: skip
ARITHMETIC = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
CALCULATED: dict[str, Any] = {
    "len": len,
    "int": int,
    "float": float,
    "bool": bool,
    "min": min,
    "max": max,
    "round": round,
}
LARGEST = 1 << 24  # result that is written out


def constant(value: object) -> ast.expr:
    """The literal of ``value``: a number, a text, None, or tuples of them."""
    if isinstance(value, (tuple, list)):
        return ast.Tuple([constant(item) for item in value], ast.Load())
    return ast.Constant(cast(bool | int | float | str | None, value))


def is_constant(node: ast.AST | None) -> bool:
    """Whether ``node`` is a literal of :func:`constant`."""
    if isinstance(node, ast.Tuple):
        return all(is_constant(item) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return is_constant(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, SIMPLE)


def value_of(node: ast.expr) -> object:
    """What a literal evaluates to."""
    return ast.literal_eval(node)


def compared(left: Any, kind: ast.cmpop, right: Any) -> bool | None:
    """The outcome of a comparison of literals; None for one that is left to be made."""
    if isinstance(kind, (ast.In, ast.NotIn)):
        return (left in right) == isinstance(kind, ast.In)
    if isinstance(kind, (ast.Is, ast.IsNot)) and left is not None and right is not None:
        return None  # of other literals than None nobody knows
    return bool(COMPARE[type(kind)](left, right))


def tested(node: ast.expr) -> ast.expr:
    """What decides as ``node`` does where only its truth counts: ``x and True`` is ``x``."""
    if isinstance(node, ast.BoolOp) and is_constant(node.values[-1]):
        idle = isinstance(node.op, ast.And)
        if bool(value_of(node.values[-1])) == idle:
            node.values.pop()
            return node.values[0] if len(node.values) == 1 else node
    return node


class Simplify(ast.NodeTransformer):
    """Applied to statements; a list of statements takes the place of an ``if`` that is decided."""

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.expr:
        """Leading operands that decide it, or that don't matter."""
        self.generic_visit(node)
        decides = isinstance(node.op, ast.Or)
        values: list[ast.expr] = []
        for value in node.values:
            if is_constant(value):
                if bool(value_of(value)) == decides:
                    values.append(value)
                    break
                if value is not node.values[-1]:
                    continue
            values.append(value)
        if len(values) == 1:
            return values[0]
        node.values = values
        return node

    def visit_UnaryOp(self, node: ast.UnaryOp) -> ast.expr:
        """``not`` of a literal."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Not) and is_constant(node.operand):
            return ast.Constant(not value_of(node.operand))
        return node

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """A function of Python's, of literals; a literal is of no class of ours."""
        self.generic_visit(node)
        if isinstance(node.func, ast.Name) and node.func.id == "isinstance" and is_constant(node.args[0]):
            classes = node.args[1].elts if isinstance(node.args[1], ast.Tuple) else [node.args[1]]
            if all(isinstance(name, ast.Name) and is_flat(name.id) for name in classes):
                return ast.Constant(False)
        known = isinstance(node.func, ast.Name) and node.func.id in CALCULATED and not node.keywords
        if known and node.args and all(map(is_constant, node.args)):
            found = CALCULATED[node.func.id](*map(value_of, node.args))  # type: ignore[attr-defined]
            return constant(found) if type(found) in (int, bool, float) and found >= 0 else node
        return node

    def visit_Subscript(self, node: ast.Subscript) -> ast.expr:
        """A member of a literal tuple."""
        self.generic_visit(node)
        number = node.slice.value if isinstance(node.slice, ast.Constant) else None
        if isinstance(node.value, ast.Tuple) and is_constant(node.value) and type(number) is int:
            return node.value.elts[number] if number < len(node.value.elts) else node
        return node

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        """A comparison of two literals."""
        self.generic_visit(node)
        if len(node.ops) == 1 and is_constant(node.left) and is_constant(node.comparators[0]):
            found = compared(value_of(node.left), node.ops[0], value_of(node.comparators[0]))
            return node if found is None else ast.Constant(found)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        """Arithmetic of whole numbers; a literal tuple and another."""
        self.generic_visit(node)
        if isinstance(node.op, ast.Add) and all(
            isinstance(n, ast.Tuple) and is_constant(n) for n in (node.left, node.right)
        ):
            return constant(value_of(node.left) + value_of(node.right))  # type: ignore[operator]
        left, right = (part.value if isinstance(part, ast.Constant) else None for part in (node.left, node.right))
        if type(left) is int and type(right) is int and type(node.op) in ARITHMETIC:
            found = ARITHMETIC[type(node.op)](left, right)
            if 0 <= found < LARGEST:
                return ast.Constant(found)
        return node

    def visit_IfExp(self, node: ast.IfExp) -> ast.expr:
        """A choice that is decided."""
        self.generic_visit(node)
        node.test = tested(node.test)
        if is_constant(node.test):
            return node.body if value_of(node.test) else node.orelse
        return node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        """The branch that is taken."""
        self.generic_visit(node)
        node.test = tested(node.test)
        if is_constant(node.test):
            return node.body if value_of(node.test) else node.orelse
        if all(isinstance(part, ast.Pass) for part in node.body) and not node.orelse and is_pure(node.test):
            return []
        return node

    def visit_For(self, node: ast.For) -> ast.AST | list[ast.stmt]:
        """A loop over nothing."""
        self.generic_visit(node)
        return node.orelse if isinstance(node.iter, ast.Tuple) and not node.iter.elts else node

    def visit_JoinedStr(self, node: ast.JoinedStr) -> ast.expr:
        """Texts in braces become part of the text around them."""
        self.generic_visit(node)
        parts: list[ast.expr] = []
        for part in map(_as_text, node.values):
            if parts and isinstance(part, ast.Constant) and isinstance(parts[-1], ast.Constant):
                parts[-1] = ast.Constant(f"{parts[-1].value}{part.value}")  # type: ignore[str-bytes-safe]
            else:
                parts.append(part)
        return parts[0] if len(parts) == 1 and isinstance(parts[0], ast.Constant) else ast.JoinedStr(parts)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Blocks end where the code leaves them, and are never empty."""
        super().generic_visit(node)
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list):
                block = _until_left(block)
                if name == "body" and not isinstance(node, ast.Module):
                    block = block or [ast.Pass()]
                setattr(node, name, block)
        return node


def _as_text(part: ast.expr) -> ast.expr:
    """A constant in braces as a text; anything else as it is."""
    if isinstance(part, ast.FormattedValue) and part.conversion == -1 and part.format_spec is None:
        value = part.value.value if isinstance(part.value, ast.Constant) else None
        if type(value) in (str, int):
            return ast.Constant(str(value))
    return part


def _until_left(block: list[ast.stmt]) -> list[ast.stmt]:
    leaves = (ast.Return, ast.Raise, ast.Continue, ast.Break)
    for number, node in enumerate(block):
        if isinstance(node, leaves):
            block = block[: number + 1]
            break
    if len(block) > 1:
        block = [node for node in block if not isinstance(node, ast.Pass)] or block[:1]
    return block


def is_pure(node: ast.AST) -> bool:
    """Whether evaluating it can do nothing but give a value, or an error that nobody is taken to wait for.

    Names, attributes of them, members by a literal, literals, comparisons, arithmetic, texts with braces, and what
    Python calculates of them.
    """
    pure = (ast.Name, ast.Attribute, ast.Constant, ast.Compare, ast.BoolOp, ast.UnaryOp, ast.BinOp, ast.Tuple,
            ast.JoinedStr, ast.FormattedValue, ast.expr_context, ast.operator, ast.cmpop, ast.boolop,
            ast.unaryop)  # fmt: skip
    return all(isinstance(inner, pure) or _calculates(inner) for inner in walk(node))


def _calculates(node: ast.AST) -> bool:
    if isinstance(node, ast.Subscript):
        return is_constant(node.slice)
    return isinstance(node, ast.Call) and ast.unparse(node.func) in CALCULATED and not node.keywords
