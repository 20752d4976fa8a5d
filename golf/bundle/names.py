"""Which names of a module mean its own top level: what must be known before modules can share one namespace."""

from __future__ import annotations

import ast
from collections.abc import Callable

Replace = Callable[[str, str], ast.expr | None]
Function = ast.FunctionDef | ast.AsyncFunctionDef
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)
COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)


def walk(node: ast.AST, but: tuple[str, ...] = ("ctx",)) -> list[ast.AST]:
    """``node`` and everything below it, in the order of the text: as :func:`ast.walk`, in a fraction of its time.

    ``but``: fields to leave out; ``ctx`` is what a name is there for, to be read or bound.
    """
    found: list[ast.AST] = []
    waiting = [node]
    while waiting:
        node = waiting.pop()
        found.append(node)
        for name in reversed(node._fields):
            value = getattr(node, name, None)
            if isinstance(value, list):
                waiting += [child for child in reversed(value) if isinstance(child, ast.AST)]
            elif isinstance(value, ast.AST) and name not in but:
                waiting.append(value)
    return found


def bound_in(body: list[ast.stmt] | ast.AST) -> set[str]:
    """Names that statements bind in their own scope, not in those of functions, classes and comprehensions in it."""
    found: set[str] = set()
    waiting: list[ast.AST] = list(body) if isinstance(body, list) else [body]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
            found.add(node.id)
        elif isinstance(node, (*FUNCTIONS, ast.ClassDef)):
            found.add(node.name)
            continue
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            found |= {alias.asname or alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, (ast.ExceptHandler, ast.MatchAs, ast.MatchStar)) and node.name:
            found.add(node.name)
        elif isinstance(node, ast.Lambda):
            continue
        elif isinstance(node, COMPREHENSIONS):
            waiting += [inner for inner in walk(node) if isinstance(inner, ast.NamedExpr)]
            continue
        waiting += ast.iter_child_nodes(node)
    return found


def parameters(arguments: ast.arguments) -> list[ast.arg]:
    """Every parameter of a function."""
    found = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return found + [argument for argument in (arguments.vararg, arguments.kwarg) if argument is not None]


def is_class_variable(node: ast.AnnAssign) -> bool:
    """Whether it is no field of a dataclass."""
    return ast.unparse(node.annotation).startswith("ClassVar")


class Globals(ast.NodeTransformer):
    """Replaces each use of a module-level name by what ``replace(name, "")`` gives for it; None leaves it as it is.

    An attribute of such a name is asked for first, ``replace(name, attribute)``.
    """

    def __init__(self, replace: Replace) -> None:
        self.replace = replace
        self.scopes: list[tuple[str, set[str]]] = []  # kind, names bound

    def _is_local(self, name: str) -> bool:
        innermost = len(self.scopes) - 1
        return any(
            name in names and (kind != "class" or depth == innermost) for depth, (kind, names) in enumerate(self.scopes)
        )

    def visit_Name(self, node: ast.Name) -> ast.expr:
        """A name that stands for itself."""
        found = None if self._is_local(node.id) else self.replace(node.id, "")
        if found is None:
            return node
        if isinstance(found, ast.Name):
            return ast.copy_location(ast.Name(found.id, node.ctx), node)
        return ast.copy_location(found, node)

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        """``name.attribute``, where the name is not local."""
        if isinstance(node.value, ast.Name) and not self._is_local(node.value.id):
            found = self.replace(node.value.id, node.attr)
            if found is not None:
                return found
        self.generic_visit(node)
        return node

    def _scope(self, kind: str, names: set[str], *parts: list) -> None:
        self.scopes.append((kind, names))
        for part in parts:
            part[:] = [changed for child in part if (changed := self.visit(child)) is not None]
        self.scopes.pop()

    def _function(self, node: Function) -> ast.AST:
        node.decorator_list = [self.visit(decorator) for decorator in node.decorator_list]
        self._signature(node.args)
        if node.returns is not None:
            node.returns = self.visit(node.returns)
        shared = {name for inner in walk(node) if isinstance(inner, ast.Global) for name in inner.names}
        names = bound_in(node.body) | {argument.arg for argument in parameters(node.args)}
        self._scope("function", names - shared, node.body)
        return self._named(node)

    visit_FunctionDef = visit_AsyncFunctionDef = _function

    def _signature(self, arguments: ast.arguments) -> None:
        """Defaults and annotations belong to the scope around the function."""
        arguments.defaults = [self.visit(value) for value in arguments.defaults]
        arguments.kw_defaults = [value and self.visit(value) for value in arguments.kw_defaults]
        for argument in parameters(arguments):
            if argument.annotation is not None:
                argument.annotation = self.visit(argument.annotation)

    def _named(self, node: Function | ast.ClassDef) -> ast.AST:
        found = None if self._is_local(node.name) else self.replace(node.name, "")
        if isinstance(found, ast.Name):
            node.name = found.id
        return node

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Its body is a scope that the functions in it do not see."""
        for part in (node.decorator_list, node.bases, node.keywords):
            part[:] = [self.visit(child) for child in part]
        self._scope("class", bound_in(node.body), node.body)
        return self._named(node)

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """A function of one expression."""
        self._signature(node.args)
        self.scopes.append(("function", {argument.arg for argument in parameters(node.args)}))
        node.body = self.visit(node.body)
        self.scopes.pop()
        return node

    def _comprehension(self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp) -> ast.AST:
        first = node.generators[0]
        first.iter = self.visit(first.iter)
        names = set().union(*(bound_in(generator.target) for generator in node.generators))
        self.scopes.append(("function", names))
        for generator in node.generators:
            generator.target = self.visit(generator.target)
            if generator is not first:
                generator.iter = self.visit(generator.iter)
            generator.ifs = [self.visit(test) for test in generator.ifs]
        for field in ("elt", "key", "value"):
            if hasattr(node, field):
                setattr(node, field, self.visit(getattr(node, field)))
        self.scopes.pop()
        return node

    visit_ListComp = visit_SetComp = visit_DictComp = visit_GeneratorExp = _comprehension
