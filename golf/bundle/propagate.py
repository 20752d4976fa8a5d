"""Constants that follow from constants: attributes and variables set once, arguments that are always the same."""

from __future__ import annotations

import ast
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence

from golf.bundle.fold import INIT, assignments, stored
from golf.bundle.link import Statement
from golf.bundle.names import FUNCTIONS, Function, bound_in, is_class_variable, parameters, walk
from golf.bundle.prune import is_method
from golf.bundle.simplify import is_constant, is_pure, value_of


def running(node: ast.AST) -> list[ast.AST]:
    """``node`` and everything below it but annotations."""
    return walk(node, ("ctx", "annotation", "returns"))


def constant_fields(statements: Sequence[Statement]) -> dict[str, dict[str, object]]:
    """class -> field -> value, of dataclasses and named tuples, of fields that get the same literal everywhere.

    Of classes that are only called, by their name, and of fields that nothing sets later.
    """
    changed: set[str] = set()
    for statement in statements:
        for inner in running(statement.node):
            if isinstance(inner, ast.Attribute) and not isinstance(inner.ctx, ast.Load):
                changed.add(inner.attr)
            elif isinstance(inner, ast.Call) and _named(inner.func) in ("replace", "_replace"):
                changed |= {word.arg or "" for word in inner.keywords}
    known: dict[str, dict[str, object]] = defaultdict(dict)
    for node, calls in _made_alone(statements):
        for place, (field, default) in enumerate(fields_of(node).items()):
            given = [_given(call, field, place) or default for call in calls]
            if field not in changed and _same(given):
                known[node.name][field] = value_of(given[0])  # type: ignore[arg-type]
    return known


def _named(node: ast.expr) -> str:
    return getattr(node, "attr", getattr(node, "id", ""))


def _made_alone(statements: Sequence[Statement]) -> Iterator[tuple[ast.ClassDef, list[ast.Call]]]:
    """Dataclasses and named tuples that are only ever called, by plain calls, with these."""
    nodes = [statement.node for statement in statements]
    classes = {node.name: node for node in nodes if isinstance(node, ast.ClassDef) and fields_of(node)}
    calls: dict[str, list[ast.Call]] = defaultdict(list)
    mentioned: Counter[str] = Counter()
    for node in nodes:
        silent = _asked_for(node)
        for inner in running(node):
            if isinstance(inner, ast.Name):
                mentioned[inner.id] += id(inner) not in silent
            elif isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name):
                calls[inner.func.id].append(inner)
    for name, made in classes.items():
        if mentioned[name] == len(calls[name]) and _plain(calls[name]):
            yield made, calls[name]


def fields_of(node: ast.ClassDef) -> dict[str, ast.expr | None]:
    """Fields with their defaults, in their order; none for a class that is no plain record or has a base of ours.

    None either where a call cannot give each field by its place.
    """
    decorated = any("dataclass" in ast.unparse(part) for part in node.decorator_list) and not node.bases
    if not decorated and [ast.unparse(base) for base in node.bases] != ["NamedTuple"]:
        return {}
    fields = [part for part in node.body if isinstance(part, ast.AnnAssign) and not is_class_variable(part)]
    said = [*node.decorator_list, *(part.value for part in fields if isinstance(part.value, ast.Call))]
    if any(isinstance(part, ast.Call) and {"init", "kw_only"} & {word.arg for word in part.keywords} for part in said):
        return {}
    return {part.target.id: part.value for part in fields if isinstance(part.target, ast.Name)}


def _asked_for(node: ast.AST) -> set[int]:
    """Names of classes, by identity, that are only compared with what is there: in ``isinstance`` and ``except``."""
    asked: list[ast.AST] = []
    for inner in walk(node):
        if isinstance(inner, ast.Call) and isinstance(inner.func, ast.Name) and inner.func.id == "isinstance":
            asked.append(inner.args[1])
        elif isinstance(inner, ast.ExceptHandler) and inner.type is not None:
            asked.append(inner.type)
    return {id(name) for part in asked for name in walk(part)}


def _plain(calls: Sequence[ast.Call]) -> bool:
    """Whether there are calls, and each shows which argument is which."""
    return bool(calls) and all(
        not any(isinstance(a, ast.Starred) for a in call.args) and all(k.arg for k in call.keywords) for call in calls
    )


def _same(given: Sequence[ast.expr | None]) -> bool:
    """Whether all are one literal."""
    texts = {ast.unparse(value) if value is not None and is_constant(value) else None for value in given}
    return len(texts) == 1 and None not in texts


def constant_attributes(statements: Sequence[Statement]) -> dict[str, dict[str, object]]:
    """class -> attribute -> value, of attributes that the whole program sets in one place, to a literal."""
    stores: Counter[str] = Counter()
    found: dict[str, tuple[str, object]] = {}
    for statement in statements:
        owner = statement.node.name if isinstance(statement.node, ast.ClassDef) else ""
        for inner in walk(statement.node):
            if isinstance(inner, ast.Attribute) and not isinstance(inner.ctx, ast.Load):
                stores[inner.attr] += 1
            elif isinstance(inner, ast.ClassDef):
                stores.update(dict.fromkeys(bound_in(inner.body), 2))
        for target, value in assignments([statement.node]):
            if (
                owner
                and isinstance(target, ast.Attribute)
                and ast.unparse(target.value) == "self"
                and is_constant(value)
            ):
                found[target.attr] = owner, value_of(value)
    known: dict[str, dict[str, object]] = defaultdict(dict)
    for attribute, (owner, literal) in found.items():
        if stores[attribute] == 1:
            known[owner][attribute] = literal
    return known


def drop_unread_attributes(statements: Sequence[Statement]) -> None:
    """Remove ``self.x = literal`` where nothing reads an ``x``."""
    read: set[str] = set()
    for statement in statements:
        for inner in walk(statement.node):
            if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Load):
                read.add(inner.attr)
            elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                read.add(inner.value)

    def unread(target: ast.expr) -> bool:
        own = isinstance(target, ast.Attribute) and isinstance(target.value, ast.Name) and target.value.id == "self"
        return own and target.attr not in read  # type: ignore[attr-defined]

    for statement in statements:
        statement.node = _DropStores(unread).visit(statement.node)


def drop_unread_variables(statements: Sequence[Statement]) -> None:
    """Remove ``x = ...`` in functions that never read an ``x``, where the value does nothing else."""
    for statement in statements:
        for part in statement.node.body if isinstance(statement.node, ast.ClassDef) else [statement.node]:
            if isinstance(part, FUNCTIONS):
                _drop_variables(part)


def _drop_variables(function: Function) -> None:
    read: set[str] = set()
    for inner in walk(function):
        if isinstance(inner, ast.Name) and not isinstance(inner.ctx, ast.Store):
            read.add(inner.id)
        elif isinstance(inner, ast.AugAssign) and isinstance(inner.target, ast.Name):
            read.add(inner.target.id)
        elif isinstance(inner, (ast.Global, ast.Nonlocal)):
            read.update(inner.names)
        elif isinstance(inner, ast.ClassDef):
            read |= bound_in(inner.body)
    _DropStores(lambda target: isinstance(target, ast.Name) and target.id not in read).visit(function)


class _DropStores(ast.NodeTransformer):
    """Takes out what is assigned to targets that are ``unread``, where the value is all that there is to it."""

    def __init__(self, unread: Callable[[ast.expr], bool]) -> None:
        self.unread = unread

    def visit_Try(self, node: ast.Try) -> ast.stmt:
        """Where an error is caught, that there is none may be all that the value was asked for."""
        body = node.body
        node.body = [] if node.handlers else body
        self.generic_visit(node)
        node.body = body
        return node

    def visit_Assign(self, node: ast.Assign) -> ast.stmt:
        if len(node.targets) > 1:
            return node
        target, value = node.targets[0], node.value
        pairs = [(target, value)]
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple) and len(target.elts) == len(value.elts):
            pairs = list(zip(target.elts, value.elts, strict=True))
        if any(isinstance(part, ast.Starred) for pair in pairs for part in pair):
            return node  # how many it takes depends on the others
        kept = [(left, right) for left, right in pairs if not (self.unread(left) and is_pure(right))]
        if len(kept) == len(pairs):
            return node
        if not kept:
            return ast.Pass()
        if len(kept) == 1:
            return ast.Assign([kept[0][0]], kept[0][1], lineno=0)
        lefts, rights = zip(*kept, strict=True)
        return ast.Assign([ast.Tuple(list(lefts), ast.Store())], ast.Tuple(list(rights), ast.Load()), lineno=0)


def constant_variables(statements: Sequence[Statement]) -> None:
    """Put literals in place of a function's variables that it sets once, first thing or unconditionally."""
    for statement in statements:
        for inner in walk(statement.node):
            if isinstance(inner, FUNCTIONS):
                _variables(inner)


def _variables(node: Function) -> None:
    values = {
        part.targets[0].id: part.value
        for part in node.body
        if isinstance(part, ast.Assign)
        and len(part.targets) == 1
        and isinstance(part.targets[0], ast.Name)
        and is_constant(part.value)
    }
    if values:
        bound = Counter(name for part in [node.args, *node.body] for name in stored(part))
        shared = {name for i in walk(node) if isinstance(i, (ast.Global, ast.Nonlocal)) for name in i.names}
        values = {name: value for name, value in values.items() if bound[name] == 1 and name not in shared}
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


def constant_arguments(statements: Sequence[Statement], roots: set[str]) -> int:
    """Take out the parameters for which every call gives the same literal, or nothing and the default is one.

    Those that nothing reads too. Of functions that are only ever called, by their own name, and of methods that are
    only ever called of ``self``; the number of parameters taken out. ``roots``: names that others call too.
    """
    return sum(_take_out(node, calls, bound) for node, calls, bound in _called_alone(statements, roots))


def drop_given_defaults(statements: Sequence[Statement], roots: set[str]) -> None:
    """Take out the defaults of parameters and fields that every call gives. ``roots``: names that others call too."""
    for node, calls, bound in _called_alone(statements, roots):
        arguments = node.args
        while arguments.defaults:
            place = len(arguments.args) - len(arguments.defaults)
            if any(_given(call, arguments.args[place].arg, place - bound) is None for call in calls):
                break
            del arguments.defaults[0]
    for record, calls in _made_alone(statements):
        if record.name in roots:
            continue
        fields = [part for part in record.body if isinstance(part, ast.AnnAssign) and not is_class_variable(part)]
        for place, field in enumerate(fields):
            if any(_given(call, ast.unparse(field.target), place) is None for call in calls):
                break
            field.value = None


def _called_alone(statements: Sequence[Statement], roots: set[str]) -> Iterator[tuple[Function, list[ast.Call], bool]]:
    """Functions that are only ever called, by plain calls, with these; and whether a call gives no first argument.

    But ``roots``, and the initialisers of classes among them.
    """
    functions = _callable(statements)
    calls: dict[str, list[ast.Call]] = defaultdict(list)
    mentioned: Counter[str] = Counter()
    for statement in statements:
        silent = _asked_for(statement.node)
        for inner in running(statement.node):
            if isinstance(inner, ast.Name) and inner.id in functions:
                mentioned[inner.id] += id(inner) not in silent
            elif isinstance(inner, ast.Attribute):
                mentioned[f".{inner.attr}"] += 1
            elif isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                mentioned[f".{inner.value}"] += 1
            if isinstance(inner, ast.Call) and (name := _callee(inner)) in functions:
                calls[name].append(inner)
    for name, node in functions.items():
        simple = not (node.args.posonlyargs or node.args.vararg or node.args.kwarg)
        if simple and name not in roots and _plain(calls[name]) and mentioned[name] == len(calls[name]):
            yield node, calls[name], node.name == INIT or name.startswith(".")


def _callee(node: ast.Call) -> str:
    """The name of what is called, that of a method of ``self`` behind a dot."""
    if isinstance(node.func, ast.Attribute):
        owner = node.func.value
        return f".{node.func.attr}" if isinstance(owner, ast.Name) and owner.id == "self" else ""
    return node.func.id if isinstance(node.func, ast.Name) else ""


def _callable(statements: Sequence[Statement]) -> dict[str, Function]:
    """Functions, methods that one class alone has, and the initialisers of classes that no other has as its base."""
    found: dict[str, Function] = {}
    classes = [statement.node for statement in statements if isinstance(statement.node, ast.ClassDef)]
    methods = [part for node in classes for part in node.body if isinstance(part, FUNCTIONS) and is_method(part)]
    bases = {ast.unparse(base) for node in classes for base in node.bases}
    times = Counter(method.name for method in methods)
    for method in methods:
        if times[method.name] == 1 and not method.decorator_list:
            found[f".{method.name}"] = method
    for statement in statements:
        node = statement.node
        if isinstance(node, FUNCTIONS) and all(ast.unparse(part) == "contextmanager" for part in node.decorator_list):
            found[node.name] = node
        elif isinstance(node, ast.ClassDef) and node.name not in bases:
            for part in node.body:
                if isinstance(part, FUNCTIONS) and part.name == INIT:
                    found[node.name] = part
    return found


def _take_out(node: Function, calls: Sequence[ast.Call], bound: bool) -> int:
    """Parameters that are one literal, or that nothing reads and whose arguments do nothing."""
    count = 0
    arguments = node.args
    for argument in [*arguments.kwonlyargs, *reversed(arguments.args[bound:])]:
        keyword = argument in arguments.kwonlyargs
        place = (arguments.kwonlyargs if keyword else arguments.args).index(argument)
        default = arguments.kw_defaults[place] if keyword else _default(arguments, place)
        given = [_given(call, argument.arg, None if keyword else place - bound) or default for call in calls]
        if _same(given):
            if argument.arg in bound_in(node.body) or _shadowed(node, argument.arg):
                continue
            value: ast.expr = given[0]  # type: ignore[assignment]
            node.body = [_Put({argument.arg: value}).visit(part) for part in node.body]
        elif not all(value is not None and is_pure(value) for value in given) or _mentions(node.body, argument.arg):
            continue
        for call in calls:
            call.keywords = [k for k in call.keywords if k.arg != argument.arg]
            if not keyword and len(call.args) > place - bound:
                del call.args[place - bound]
        if keyword:
            del arguments.kwonlyargs[place], arguments.kw_defaults[place]
        else:
            first = len(arguments.args) - len(arguments.defaults)
            if place >= first:
                del arguments.defaults[place - first]
            del arguments.args[place]
        count += 1
    return count


def _mentions(body: Sequence[ast.AST], name: str) -> bool:
    nodes = [node for part in body for node in walk(part)]
    return name in {getattr(node, "id", "") for node in nodes} | {getattr(node, "arg", "") for node in nodes}


def _default(arguments: ast.arguments, place: int) -> ast.expr | None:
    first = len(arguments.args) - len(arguments.defaults)
    return arguments.defaults[place - first] if place >= first else None


def _given(call: ast.Call, name: str, place: int | None) -> ast.expr | None:
    for word in call.keywords:
        if word.arg == name:
            return word.value
    return call.args[place] if place is not None and len(call.args) > place else None


def _shadowed(node: Function, name: str) -> bool:
    inner = [i for part in node.body for i in walk(part) if isinstance(i, (*FUNCTIONS, ast.Lambda))]
    return any(argument.arg == name for i in inner for argument in parameters(i.args)) or any(
        name in bound_in(i.body) for i in inner if isinstance(i, FUNCTIONS)
    )
