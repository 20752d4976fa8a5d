"""What a source brings in, read without running it."""

import ast

import pytest

from golf.runtime.syntax import absolute, running_nodes


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ("if TYPE_CHECKING:\n    import a\nelse:\n    import b", ["b"]),
        ("if typing.TYPE_CHECKING:\n    import a\nimport b", ["b"]),
        ("if not TYPE_CHECKING:\n    import a", ["a"]),
        ("if TYPE_CHECKING or True:\n    import a", ["a"]),
        ("def f():\n    if TYPE_CHECKING:\n        import a\n    import b", ["b"]),
    ],
)
def test_only_what_a_type_checker_alone_reads_never_runs(source: str, needed: list[str]) -> None:
    found = [node.names[0].name for node in running_nodes(ast.parse(source)) if isinstance(node, ast.Import)]
    assert found == needed


@pytest.mark.parametrize(
    ("source", "needed"),
    [
        ("from x.y import z", "x.y"),
        ("from . import z", "golf.a.b"),
        ("from .c import z", "golf.a.b.c"),
        ("from ..c.d import z", "golf.a.c.d"),
        ("from ... import z", "golf"),
    ],
)
def test_leading_dots_count_from_the_package(source: str, needed: str) -> None:
    [node] = ast.parse(source).body
    assert isinstance(node, ast.ImportFrom)
    assert absolute(node, "golf.a.b") == needed
