"""What only readers and type checkers need of a program, taken out of it."""

from __future__ import annotations

import ast
import re
import string
from collections.abc import Sequence

from golf.bundle.link import Statement
from golf.bundle.names import Function, is_class_variable, parameters, walk

TYPED = "Section"  # classes of this base read their annotations
CONSTEXPR = "tl.constexpr"  # read by Triton, as a text


def strip(statements: Sequence[Statement]) -> None:
    """Take out docstrings, annotations that nothing reads, assertions (``python -O`` would too) and casts."""
    for statement in statements:
        changed = _Strip().visit(statement.node)
        statement.node = changed or ast.Pass()


class _Strip(ast.NodeTransformer):
    def _block(self, body: list[ast.stmt]) -> list[ast.stmt]:
        kept = [changed for node in body if (changed := self.visit(node)) is not None]
        return kept or [ast.Pass()]

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if hasattr(node, "body") and node.body == []:
            node.body = [ast.Pass()]
        return node

    def _function(self, node: Function) -> ast.AST:
        for argument in parameters(node.args):
            kept = argument.annotation is not None and ast.unparse(argument.annotation) == CONSTEXPR
            argument.annotation = ast.Constant(CONSTEXPR) if kept else None
        node.returns = None
        return self.generic_visit(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def visit_Expr(self, node: ast.Expr) -> ast.stmt | None:
        """Docstrings, and the three dots of protocols."""
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)  # type: ignore[return-value]

    def visit_Assert(self, node: ast.Assert) -> None:
        """They hold for type checkers what the code before them ensures."""

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.stmt | None:
        """Of a variable."""
        if node.value is None:
            return None
        return self.generic_visit(ast.Assign([node.target], node.value, lineno=node.lineno))  # type: ignore[return-value]

    def visit_Call(self, node: ast.Call) -> ast.expr:
        """``cast(T, x)`` is ``x``; ``strict`` of ``zip`` is an assertion; the names in a schema are nobody's."""
        self.generic_visit(node)
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "cast":
            return node.args[1]
        if name == "zip":
            node.keywords = [word for word in node.keywords if word.arg != "strict"]
        for word in node.keywords:
            if word.arg == "schema" and isinstance(word.value, ast.Constant):
                word.value = ast.Constant(_short_names(str(word.value.value)))
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.stmt:
        """Errors are told in one line, whatever their cause."""
        node.cause = None
        return self.generic_visit(node)  # type: ignore[return-value]

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.ClassDef:
        """A field needs an annotation; which, only sections of the parameters read. What is no field needs none."""
        bases = {ast.unparse(base).partition("__")[0] for base in node.bases}
        has_fields = "NamedTuple" in bases or any("dataclass" in ast.unparse(part) for part in node.decorator_list)
        body: list[ast.stmt] = []
        for part in node.body:
            if isinstance(part, ast.AnnAssign) and not is_class_variable(part) and (has_fields or TYPED in bases):
                if TYPED not in bases:
                    part.annotation = ast.Name("int", ast.Load())
                body.append(part)
            elif (changed := self.visit(part)) is not None:
                body.append(changed)
        node.body = body or [ast.Pass()]
        return node


def _short_names(schema: str) -> str:
    """The schema of an operator that is called with arguments in their places."""
    letters = iter(string.ascii_lowercase)
    return re.sub(r"(?<=[]?\w]) \w+(?=[,)])", lambda found: f" {next(letters)}", schema)


def drop_hints(statements: Sequence[Statement]) -> None:
    """Leave out what errors advise: a message says what is wrong, and most of the advice needs the repository."""
    for statement in statements:
        for node in walk(statement.node):
            if isinstance(node, ast.Call) and ast.unparse(node.func) != "super().__init__":
                node.keywords = [word for word in node.keywords if word.arg != "hint"]
