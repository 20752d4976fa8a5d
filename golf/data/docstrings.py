"""The default corpus: English documentation that is already installed.

Sources are the Python standard library, the topics of ``pydoc_data`` and the packages torch, numpy and scipy: pinned,
installed wherever this runs, and written by many hands. Sources are parsed, never imported. A document is a module
(its docstring and its functions') or a class (and its methods'); a long one is continued in a further document.
Documentation that a package attaches to compiled functions is read where it is written: ``add_newdoc(…)`` calls,
and the type stubs of torch. Every docstring is used once, and documents come in the order of their SHA-256, so that
any share of the corpus is a mix of all of it.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from golf.data.cores import available_cores
from golf.runtime.errors import MissingInput

PACKAGES = ("numpy", "scipy", "torch")
DOCUMENT_CHARACTERS = 16_000  # a longer document is continued in a further one
_MIN_CHARACTERS = 100  # a shorter document says nothing
_SKIPPED = frozenset(
    {
        "test", "tests", "testing", "_testing", "idlelib", "lib2to3", "turtledemo", "site-packages", "dist-packages",
        "__pycache__", "_vendor", "third_party", "include", "_inductor", "_dynamo", "_functorch", "_export",
        "_refs", "_numpy", "_higher_order_ops", "_decomp", "_prims",
    }
)  # fmt: skip
_SKIPPED_FILES = frozenset({"_torch_docs.py", "_tensor_docs.py"})  # the type stubs hold the same text, filled in
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)

Part = tuple[str, str]  # title, docstring
Group = tuple[str, list[Part]]  # a module or a class with its parts


def corpus(*, processes: int = 0) -> list[str]:
    """Every document, in an order that depends on the documents alone.

    Args:
        processes: parsers side by side; 0: one a core.

    Raises:
        MissingInput: a package of :data:`PACKAGES` is not installed.
    """
    jobs = _sources()
    processes = processes or available_cores()
    if processes > 1:
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            parsed = list(pool.map(_parse, jobs, chunksize=max(1, len(jobs) // (16 * processes))))
    else:
        parsed = [_parse(job) for job in jobs]
    seen: set[bytes] = set()
    documents = {text for groups in parsed for group in groups for text in _documents(group, seen)}
    return sorted(documents, key=lambda text: hashlib.sha256(text.encode()).digest())


def _sources() -> list[tuple[str, str]]:
    """(module name, file) of every source, in a fixed order."""
    roots = [("", Path(sysconfig.get_path("stdlib")))]
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)  # finds a package of the top level without importing it
        if spec is None or not spec.submodule_search_locations:
            raise MissingInput(
                f"the package {package} is not installed: its documentation is part of the default corpus",
                hint="pip install -e . -c constraints.txt",
            )
        roots.append((package, Path(spec.submodule_search_locations[0])))
    return [job for package, root in roots for job in _walk(package, root)]


def _walk(package: str, root: Path) -> Iterator[tuple[str, str]]:
    found = []
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED]
        for name in names:
            if name.endswith((".py", ".pyi")) and name not in _SKIPPED_FILES:
                file = Path(folder, name)
                relative = file.relative_to(root)
                parts = [part for part in (package, *relative.with_suffix("").parts) if part and part != "__init__"]
                found.append((relative.as_posix(), ".".join(parts) or package, str(file)))
    for _, module, path in sorted(found):
        yield module, path


def _parse(job: tuple[str, str]) -> list[Group]:
    """The groups of one source file; none when it cannot be parsed."""
    module, file = job
    source = Path(file).read_bytes()
    if module == "pydoc_data.topics":
        return list(_topics(source))
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's docstrings
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    groups: list[Group] = [(module, _parts(tree, module))]
    groups += [(name, _parts(node, name)) for name, node in _classes(tree, module)]
    if b"add_newdoc" in source:
        groups += list(_attached(tree, module))
    return [group for group in groups if group[1]]


def _classes(node: ast.AST, prefix: str) -> Iterator[tuple[str, ast.ClassDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield f"{prefix}.{child.name}", child
            yield from _classes(child, f"{prefix}.{child.name}")
        elif isinstance(child, (ast.If, ast.Try)):
            yield from _classes(child, prefix)


def _parts(node: ast.Module | ast.ClassDef, title: str) -> list[Part]:
    own = _docstring(node)
    parts = [(title, own)] if own else []
    for child in _body(node):
        if isinstance(child, _FUNCTIONS):
            text = _docstring(child)
            if text:
                arguments = child.args.posonlyargs + child.args.args + child.args.kwonlyargs
                names = ", ".join(argument.arg for argument in arguments)
                parts.append((f"{child.name}({names})", text))
    return parts


def _body(node: ast.AST) -> Iterator[ast.stmt]:
    """Statements of a module or class, those under ``if`` and ``try`` too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.If, ast.Try, ast.ExceptHandler)):
            yield from _body(child)
        elif isinstance(child, ast.stmt):
            yield child


def _docstring(node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    text = ast.get_docstring(node, clean=False)
    return _clean(text) if text else ""


def _clean(text: str) -> str:
    return inspect.cleandoc(text).encode(errors="ignore").decode().strip()


def _attached(tree: ast.Module, module: str) -> Iterator[Group]:
    """The docstrings of ``add_newdoc(place, name, doc)`` calls: each object a group of its own."""
    for statement in tree.body:
        call = statement.value if isinstance(statement, ast.Expr) else None
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            continue
        if not call.func.id.startswith("add_newdoc") or not call.args:
            continue
        try:  # docstrings that are put together at run time are left out
            *names, last = [ast.literal_eval(argument) for argument in call.args]
        except ValueError:
            continue
        title = ".".join(str(name) for name in names) or module
        pairs = last if isinstance(last, list) else [last]
        parts = [(f"{title}.{pair[0]}", pair[1]) if isinstance(pair, tuple) else (title, pair) for pair in pairs]
        parts = [(name, _clean(text)) for name, text in parts if isinstance(text, str) and text.strip()]
        yield title, parts


def _topics(source: bytes) -> Iterator[Group]:
    for statement in ast.parse(source).body:
        if isinstance(statement, (ast.Assign, ast.AnnAssign)) and isinstance(statement.value, ast.Dict):
            for name, text in ast.literal_eval(statement.value).items():
                yield f"python.{name}", [(f"Python: {name}", _clean(text))]


def _documents(group: Group, seen: set[bytes]) -> Iterator[str]:
    """The documents of one group, without docstrings in ``seen``, which it adds to."""
    name, parts = group
    pieces: list[str] = []
    size = 0
    for title, text in parts:
        digest = hashlib.sha256(text.encode()).digest()
        if digest in seen:
            continue
        seen.add(digest)
        piece = f"{title}\n\n{text}"
        if pieces and size + len(piece) > DOCUMENT_CHARACTERS:
            yield from _joined(pieces)
            pieces, size = [name], len(name)
        pieces.append(piece)
        size += len(piece)
    yield from _joined(pieces)


def _joined(pieces: list[str]) -> Iterator[str]:
    text = "\n\n".join(pieces)
    if len(text) >= _MIN_CHARACTERS:
        yield text
