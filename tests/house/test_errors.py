"""Rule 8: an error says what, where, found, needed and the next command, and one place turns it into an exit code."""

import ast
import re
from pathlib import Path

import pytest

from golf.runtime.errors import FairwayError
from tests.house.source import called, calls, enclosing_function, files, tree

MODULES = files("golf", "stages", "pipeline")
OURS = {"FairwayError", "ConfigError", "DataError", "MissingInput", "BusyError", "StageFailed"}
EXITS = {"sys.exit", "exit", "os._exit", "quit"}


def hints(path: Path) -> list[tuple[int, str]]:
    found = []
    for node, _ in calls(path):
        for word in node.keywords:
            if word.arg == "hint":
                for part in _branches(word.value):
                    text = _text(part)
                    if text:
                        found.append((node.lineno, text))
    return found


def _branches(node: ast.expr) -> list[ast.expr]:
    return [*_branches(node.body), *_branches(node.orelse)] if isinstance(node, ast.IfExp) else [node]


def _text(node: ast.expr) -> str:
    """A literal's text, an f-string's with {} for its values."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return ""


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_a_hint_is_something_to_do(path: Path) -> None:
    """After "Try: " stands a command, or what to do in lower case; no full stop, no "please"."""
    for line, text in hints(path):
        where = f"{path}:{line}: {text!r}"
        assert not text.endswith("."), where
        assert not re.search(r"\b(please|try)\b", text, re.IGNORECASE), where
        first = text.split()[0]
        assert re.match(r"[a-z{`-]", first), where


@pytest.mark.parametrize("path", files("stages"), ids=str)
def test_a_stage_fails_only_as_ours(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            assert called(node.exc).rpartition(".")[2] in OURS, f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_nothing_is_checked_by_assert_and_nothing_leaves_by_itself(path: Path) -> None:
    """``python -O`` drops an assert; an exit anywhere but at the end of ``main`` skips who is waiting above."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Assert):  # `assert x is not None` only tells the type checker what is known
            narrows = ast.unparse(node.test).endswith(" is not None")
            assert narrows, f"{path}:{node.lineno}: raise an error instead"
        if isinstance(node, ast.Raise) and node.exc is not None and "SystemExit" in ast.unparse(node.exc):
            function = enclosing_function(node)  # a signal's handler has no other way to unwind
            assert function is not None
            assert [argument.arg for argument in function.args.args][1:2] == ["frame"], f"{path}:{node.lineno}"
        if isinstance(node, ast.Call) and called(node) in EXITS:
            function = enclosing_function(node)
            allowed = function is None or function.name in ("main", "run_main") or path.name == "isolate.py"
            assert allowed, f"{path}:{node.lineno}: {ast.unparse(node)}"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_no_failure_is_swallowed_whole(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            silent = all(isinstance(child, ast.Pass) for child in node.body)
            broad = node.type is None or ast.unparse(node.type) in ("Exception", "BaseException")
            assert not (silent and broad), f"{path}:{node.lineno}"


@pytest.mark.parametrize("path", [path for path in files("stages") if path.name != "__init__.py"], ids=str)
def test_a_stage_ends_in_run_main_under_its_own_name(path: Path) -> None:
    last = tree(path).body[-1]
    assert ast.unparse(last) == f"if __name__ == '__main__':\n    run_main('{path.stem}', main)"
    head = " ".join((ast.get_docstring(tree(path)) or "").split())
    assert f"python -m stages.{path.stem}" in head, "the module's head shows its command"


def test_the_message_of_an_error_is_one_line_with_its_next_command() -> None:
    error = FairwayError("size gate: 16,012,334 bytes > 16,000,000.", hint="dvc exp run -S quant.bits=5")
    assert str(error) == "size gate: 16,012,334 bytes > 16,000,000. Try: dvc exp run -S quant.bits=5"
