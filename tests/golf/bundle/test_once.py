"""Values in place of variables that the next statement begins with."""

import ast
from typing import Any

import pytest

from golf.bundle.link import Statement
from golf.bundle.once import inline_once


def inlined(body: str) -> str:
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    tree = ast.parse(f"def f(a, b, act):\n{lines}\n")
    inline_once([Statement(tree.body[0], {"f"}), Statement(ast.parse("import numpy as np").body[0], {"np"})])
    return ast.unparse(ast.fix_missing_locations(tree)).partition("\n")[2].replace("\n    ", "\n").strip()


@pytest.mark.parametrize(
    ("body", "left"),
    [
        ("x = act(a)\nreturn x", "return act(a)"),
        ("x = a + b\ny = x.real\nreturn y.imag + act(b)", "return (a + b).real.imag + act(b)"),
        ("x = act(a)\nif x:\n    y = act(b)\n    return y", "if act(a):\n    return act(b)"),
        ("x = act(a)\nreturn [c + b for c in x]", "return [c + b for c in act(a)]"),
        ("x = act(a)\nreturn (x, act(b))", "return (act(a), act(b))"),
        ("x = act(a)\nwith x as b:\n    pass", "with act(a) as b:\n    pass"),
        ("x = act(a)\nreturn ours__3(x, b)", "return ours__3(act(a), b)"),
        ("x = act(a)\nreturn int(x)", "return int(act(a))"),
        ("x = act(a)\nreturn np.sum(x)", "return np.sum(act(a))"),
        *[
            (body, body)
            for body in (
                "x = act(a)\nreturn act(x)",  # act may be another by then
                "x = act(a)\nreturn x + x",
                "x = act(a)\nreturn a.sum(x)",
                "np = act(a)\nx = act(b)\nreturn np.sum(x)",
                "x = act(a)\nreturn [x for c in b]",
                "x = act(a)\nact(b)\nreturn x",
                "x = act(a)\nwhile x:\n    pass",
                "x = act(a)\nx += b\nreturn x",
                "a = act(a)\nreturn a",
                "x = (yield a)\nreturn x",
                "x = act(a)\nreturn lambda: x",
                "x = y = act(a)\nreturn x",
                "x = tl.load(a)\nreturn x",
                "global x\nx = act(a)\nreturn x",
            )
        ],
    ],
)
def test_only_what_comes_first_is_put_in_place(body: str, left: str) -> None:
    assert inlined(body) == left


def test_all_comes_in_its_order() -> None:
    source = """
class Box:
    def run(self, note):
        one = note(1)
        two = one + note(2)
        three = two if note(3) else None
        return three, note(4)
"""
    tree = ast.parse(source)
    inline_once([Statement(tree.body[0], {"Box"})])
    text = ast.unparse(ast.fix_missing_locations(tree))
    assert "one =" not in text
    outcomes = []
    for program in (source, text):
        seen: list[int] = []
        space: dict[str, Any] = {}
        exec(program, space)
        outcomes.append((space["Box"]().run(lambda number, seen=seen: seen.append(number) or number), seen))
    assert outcomes[0] == outcomes[1]


def test_what_a_class_body_binds_and_what_is_bound_anew_stay() -> None:
    source = """
chosen__3 = None
def choose(value):
    global chosen__3
    chosen__3 = value
    return 1
def f(act):
    class Local:
        if act:
            x = act(1)
            y = x
    z = choose(act)
    return Local.x, Local.y, chosen__3(z)
"""
    tree = ast.parse(source)
    inline_once([Statement(node, {"f"}) for node in tree.body])
    space: dict[str, Any] = {}
    exec(ast.unparse(ast.fix_missing_locations(tree)), space)
    assert space["f"](lambda value: value + 1) == (2, 2, 2)
