"""Build the self-contained program: one executable zip out of the modules that it imports.

The zip holds ``__main__.py`` (the launcher) and ``modules.lzma``: every module's source, minified, in one text.
``python``, ``torchrun`` and ``unzip`` take the file as it is, and ``xz -dc modules.lzma`` shows its text.
The same sources give the same bytes.
"""

from __future__ import annotations

import ast
import io
import lzma
import zipfile
from collections.abc import Mapping
from pathlib import Path

from golf.runtime.errors import ConfigError, FairwayError, MissingInput
from golf.runtime.syntax import absolute, running_nodes

PROGRAM = "golf.bundle.program"
LAUNCHER = "golf.bundle.launcher"
PACKAGE = "golf"
EPOCH = (1980, 1, 1, 0, 0, 0)
# Best of all properties on Python source.
LZMA = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0}


def build(root: Path | str = ".") -> tuple[bytes, list[str]]:
    """The program's bytes, and the names of its modules.

    Args:
        root: folder that holds the package ``golf``.

    Raises:
        MissingInput: a module that is imported does not exist.
        ConfigError: python-minifier is not installed.
        FairwayError: a module is not Python.
    """
    sources = closure(Path(root), PROGRAM)
    text = join({name: minify(source, name) for name, source in sources.items()})
    launcher = minify(source_of(Path(root), LAUNCHER), LAUNCHER)
    return archive(launcher, text), list(sources)


def closure(root: Path, program: str) -> dict[str, str]:
    """Source by name, sorted, of ``program``, every module of ours that it may import, and their packages.

    Raises:
        MissingInput, FairwayError: see :func:`build`.
    """
    sources: dict[str, str] = {}
    waiting = [program]
    while waiting:
        name = waiting.pop()
        if name in sources:
            continue
        sources[name] = source_of(root, name)
        waiting += imports(sources[name], name, root)
        if "." in name:
            waiting.append(name.rpartition(".")[0])
    return dict(sorted(sources.items()))


def imports(source: str, name: str, root: Path) -> list[str]:
    """Our modules that ``source`` imports, anywhere in it, but not those for type checkers only."""
    found = []
    path = _path(root, name)
    package = name if path is not None and path.name == "__init__.py" else name.rpartition(".")[0]
    for node in running_nodes(_parse(source, name)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = absolute(node, package)
            found.append(base)
            found += [f"{base}.{alias.name}" for alias in node.names if _path(root, f"{base}.{alias.name}")]
    return [module for module in found if module.partition(".")[0] == PACKAGE]


def source_of(root: Path, name: str) -> str:
    """The source of a module.

    Raises:
        MissingInput: there is none.
    """
    path = _path(root, name)
    if path is None:
        raise MissingInput(f"bundle: no module {name} under {root}", hint="correct the import")
    return path.read_text(encoding="utf-8")


def minify(source: str, name: str) -> str:
    """``source`` without comments, docstrings, needless annotations and long local names.

    Kept: class annotations (dataclasses read them), and all names and annotations where Triton or ``torch.library``
    reads them.

    Raises:
        ConfigError: python-minifier is not installed.
        FairwayError: ``source`` is not Python.
    """
    try:
        import python_minifier
    except ImportError:
        raise ConfigError(
            "bundle: python-minifier is not installed", hint="pip install -c constraints.txt python-minifier"
        ) from None
    _parse(source, name)
    read = "triton" in source or "torch.library" in source
    text = python_minifier.minify(
        source,
        name,
        remove_annotations=python_minifier.RemoveAnnotationsOptions(
            remove_variable_annotations=not read,
            remove_return_annotations=not read,
            remove_argument_annotations=not read,
            remove_class_attribute_annotations=False,
        ),
        remove_literal_statements=True,
        hoist_literals=False,  # shorter text, but more bytes after compression
        rename_locals=not read,
        rename_globals=False,
    )
    ast.parse(text)
    return text


def join(sources: Mapping[str, str]) -> str:
    """The modules as the launcher takes them apart."""
    for name, source in sources.items():
        if "\f" in source or "\r" in source:
            raise FairwayError(f"bundle: {name} holds a form feed or carriage return, which part the modules")
    return "".join(f"\f{name}\n{source}" for name, source in sources.items())


def archive(launcher: str, text: str) -> bytes:
    """The executable zip, the same bytes for the same input."""
    packed = lzma.compress(text.encode(), format=lzma.FORMAT_ALONE, filters=[LZMA])
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as file:
        file.writestr(_member("__main__.py"), launcher, zipfile.ZIP_DEFLATED, 9)
        file.writestr(_member("modules.lzma"), packed, zipfile.ZIP_STORED)
    return buffer.getvalue()


def _member(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, EPOCH)
    info.create_system = 3  # else it tells the operating system of the build
    return info


def _parse(source: str, name: str) -> ast.Module:
    try:
        return ast.parse(source)
    except SyntaxError as error:
        raise FairwayError(f"bundle: {name}, line {error.lineno}: {error.msg}") from None


def _path(root: Path, name: str) -> Path | None:
    base = root.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
