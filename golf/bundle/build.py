"""Build the self-contained program: one executable zip out of the modules that it imports.

The modules are linked into one (:mod:`golf.bundle.link`), made for the parameters (:mod:`golf.bundle.optimize`),
stripped of what only readers need and given short names. The file begins with that text, packed; the zip behind it
holds ``__main__.py``, the launcher. ``python`` and ``torchrun`` take the file as it is, and
the launcher says how to unpack it (docs/program.md). The same sources and parameters give the same bytes.
"""

from __future__ import annotations

import ast
import gc
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from golf.bundle.link import MORE, SEPARATOR, Linker, Statement, is_flat
from golf.bundle.names import bound_in
from golf.bundle.once import inline_once
from golf.bundle.optimize import fix, optimize
from golf.bundle.prune import leave_out, order, reach
from golf.bundle.rename import rename
from golf.bundle.strip import drop_hints, strip
from golf.runtime.errors import ConfigError, FairwayError, MissingInput
from golf.runtime.syntax import absolute, running_nodes

PROGRAM = "golf.bundle.program"
CHECK = "golf.bundle.check"
# What the second calls of the first: these keep their names.
EXPORTS = {PROGRAM: [("golf.bundle.scoring", name) for name in ("hasten", "opened", "read_validation", "scorer")]}
LAUNCHER = "golf.bundle.launcher"
PACKAGE = "golf"
# What ships in place of modules that tell how a run goes, or guard what others go on from.
PLAIN = {
    "golf.codec.artifact": "golf.bundle.plain.artifact",
    "golf.codec.report": "golf.bundle.plain.report",
    "golf.runtime.files": "golf.bundle.plain.files",
    "golf.runtime.progress": "golf.bundle.plain.progress",
    "golf.train.connect": "golf.bundle.plain.connect",
    "golf.train.diagnose": "golf.bundle.plain.diagnose",
    "golf.train.flops": "golf.bundle.plain.flops",
    "golf.train.meter": "golf.bundle.plain.meter",
}
# Functions whose calls, as statements, are left out: they refuse early, and with more words, what fails anyway.
EARLY = [("golf.train.plan", "check")]
MAIN = "main"
PART = "\f"  # between the parts of the program
EPOCH = (1980, 1, 1, 0, 0, 0)
WINDOW = 18  # of brotli, as a power of two
# Best of all properties on Python source; a match of 96 bytes is taken without looking for a longer one.
LZMA = {"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "lc": 3, "lp": 0, "pb": 0, "nice_len": 96}


class Built(NamedTuple):
    """A program, and what is in it: its text by module, before names are short."""

    program: bytes
    texts: dict[str, str]

    def modules(self) -> dict[str, float]:
        """Its bytes by module: all of them, shared in proportion to what each module adds to the rest."""
        return shares(self.texts, len(self.program))


def build(
    root: Path | str = ".", document: Mapping[str, Mapping[str, Any]] | None = None, program: str = PROGRAM
) -> Built:
    """The program's bytes.

    Args:
        root: folder that holds the package ``golf``.
        document: checked parameters by section, for which the program is made; None: for any.
        program: the module whose ``main`` it runs.

    Raises:
        MissingInput: a module that is imported does not exist.
        ConfigError: python-minifier or brotli is not installed.
        FairwayError: a module is not Python, or can't be linked.
    """
    sources = closure(Path(root), program)
    linker = Linker(sources, program)
    with _without_collector():
        trees = compose(linker, document)
        texts = _by_module(linker, trees)
        rename(trees, _exports(linker), {MORE})
        text = PART.join(minify(ast.unparse(tree)) for tree in trees)
    # brotli is smaller, but no part of Python: for programs whose artifacts need it anyway
    codec = "brotli" if document and "brotli" in document["compress"]["codecs"] else "lzma"
    return Built(archive(source_of(Path(root), LAUNCHER), text, codec), texts)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Python looks for cycles each time that so many nodes were made, among all that there are: a fifth of a build."""
    there = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if there:
            gc.enable()


def compose(linker: Linker, document: Mapping[str, Mapping[str, Any]] | None) -> list[ast.Module]:
    """The parts of the program: what its command line needs, and the rest; flat names in them."""
    statements, names = linker.link(), set(_exports(linker))
    drop_hints([statement for statement in statements if not statement.binds & linker.flat_names(linker.entry)])
    leave_out(statements, {linker.flat(module, name) for module, name in EARLY if module in linker.trees})
    live = optimize(statements, names, fix(statements, document) if document else {})
    strip(live)
    inline_once(live)
    live = reach(live, names, lazily=True)
    front = {id(statement) for statement in reach(live, {linker.flat(linker.entry, MAIN)}, lazily=False)}
    halves = [[s.node for s in order([s for s in live if (id(s) in front) == first])] for first in (True, False)]
    there: set[str] = set()
    return [ast.fix_missing_locations(ast.Module(merged(half, there), [])) for half in halves]


def merged(nodes: Sequence[ast.stmt], there: set[str]) -> list[ast.stmt]:
    """The statements behind one import of all modules that they import, and one from each that they import from.

    Without what is ``there`` already, by the texts of its imports; what comes is added. No function imports it again.
    """
    imports: dict[str, ast.Import | ast.ImportFrom] = {}
    for node in nodes:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            imports |= {text: single for text, single in _singles(node).items() if text not in there}
    there.update(imports)
    named: dict[str, list[ast.alias]] = {}
    for single in imports.values():
        named.setdefault(getattr(single, "module", ""), []).extend(single.names)
    found: list[ast.stmt] = [ast.Import(named.pop(""))] if "" in named else []
    found += [ast.ImportFrom(module, names, 0) for module, names in named.items()]
    again = _Again(there)
    return found + [again.visit(node) for node in nodes if not isinstance(node, (ast.Import, ast.ImportFrom))]


def _singles(node: ast.Import | ast.ImportFrom) -> dict[str, ast.Import | ast.ImportFrom]:
    """An import of several names as imports of one, by their texts."""
    module = node.module if isinstance(node, ast.ImportFrom) else None
    single = [ast.ImportFrom(module, [alias], 0) if module else ast.Import([alias]) for alias in node.names]
    return {ast.unparse(one): one for one in single}


class _Again(ast.NodeTransformer):
    """Takes out imports of what is there already."""

    def __init__(self, there: set[str]) -> None:
        self.there = there

    def _import(self, node: ast.Import | ast.ImportFrom) -> ast.stmt:
        left = [single.names[0] for text, single in _singles(node).items() if text not in self.there]
        node.names = left
        return node if left else ast.Pass()

    visit_Import = visit_ImportFrom = _import


def _exports(linker: Linker) -> dict[str, str]:
    known = [(linker.entry, MAIN), *EXPORTS.get(linker.entry, [])]
    return {linker.flat(module, name): name for module, name in known}


def _by_module(linker: Linker, trees: Sequence[ast.Module]) -> dict[str, str]:
    names = list(linker.trees)
    texts: dict[str, str] = {}
    for node in (node for tree in trees for node in tree.body):
        flat = [name for name in bound_in([node]) if is_flat(name)]
        if flat:
            module = names[int(flat[0].rpartition(SEPARATOR)[2])]
            texts[module] = texts.get(module, "") + ast.unparse(node).replace("    ", " ") + "\n"
    return texts


def shares(texts: Mapping[str, str], size: int) -> dict[str, float]:
    """``size`` bytes divided among ``texts``: by the bytes of deflate that each adds to the others."""

    def packed(without: str) -> int:
        return len(zlib.compress("".join(text for name, text in texts.items() if name != without).encode(), 9))

    whole = packed("")
    added = {name: max(whole - packed(name), 0) for name in texts}
    return {name: size * part / max(sum(added.values()), 1) for name, part in added.items()}


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
        sources[name] = source_of(root, PLAIN.get(name, name))
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


def minify(source: str, names: bool = False) -> str:
    """``source`` with as little space as it can do with; ``names``: and with short names in its functions.

    Raises:
        ConfigError: python-minifier is not installed.
    """
    try:
        import python_minifier
    except ImportError:
        raise ConfigError(
            "bundle: python-minifier is not installed", hint="pip install -c constraints.txt python-minifier"
        ) from None
    return python_minifier.minify(
        source,
        remove_annotations=False,
        hoist_literals=False,  # shorter text, but more bytes after compression
        rename_locals=names,
        rename_globals=False,
    )


def archive(launcher: str, text: str, codec: str = "lzma") -> bytes:
    """The executable zip behind the packed program, the same bytes for the same input.

    Args:
        launcher: its ``__main__``, which unpacks with lzma.
        text: the program.
        codec: ``lzma`` or ``brotli``.

    Raises:
        ConfigError: brotli is not installed.
    """
    if codec == "brotli":
        try:
            import brotli
        except ImportError:
            raise ConfigError("bundle: brotli is not installed", hint="pip install -c constraints.txt brotli") from None
        modes = brotli.MODE_GENERIC, brotli.MODE_FONT  # of distances: which suits a text is chance
        packed = min((brotli.compress(text.encode(), mode=mode, lgwin=WINDOW) for mode in modes), key=len)
    else:
        packed = lzma.compress(text.encode(), format=lzma.FORMAT_ALONE, filters=[LZMA])
    statements = [Statement(node, set()) for node in ast.parse(launcher.replace("lzma", codec)).body]
    strip(statements)
    kept = ast.Module([s.node for s in statements if bound_in([s.node]) != {"SIZE"}], [])
    starter = ast.unparse(ast.fix_missing_locations(kept)).replace("SIZE", str(len(packed)))
    buffer = io.BytesIO()
    buffer.write(packed)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_STORED) as file:
        file.writestr(_member("__main__.py"), minify(starter, names=True), zipfile.ZIP_DEFLATED, 9)
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
