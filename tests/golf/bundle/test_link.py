"""Linking, folding and renaming of small packages: what runs gives what it gave."""

import ast
from typing import Any

import pytest

from golf.bundle.build import MAIN, MORE, compose
from golf.bundle.fold import Classes, Fold
from golf.bundle.link import Linker
from golf.bundle.optimize import optimize
from golf.bundle.positional import use_places
from golf.bundle.rename import rename
from golf.bundle.simplify import Simplify
from golf.bundle.strip import drop_hints, strip
from golf.runtime.errors import FairwayError

ENTRY = "golf.bundle.entry"


def text(sources: dict[str, str], **known: dict[str, object]) -> str:
    """The program of ``sources``; ``known`` are attributes by class."""
    linker = Linker({"golf": "", "golf.bundle": "", **sources}, ENTRY)
    statements = linker.link()
    main = linker.flat(ENTRY, MAIN)
    flat = {linker.flat(ENTRY, name): values for name, values in known.items()}
    live = optimize(statements, {main}, flat)
    strip(live)
    module = ast.fix_missing_locations(ast.Module([statement.node for statement in live], []))
    rename([module], {main: MAIN}, {MORE})
    return ast.unparse(module)


def outcome(program: str, *arguments: object) -> Any:
    space: dict[str, Any] = {MORE: lambda: None}
    exec(program, space)
    return space[MAIN](*arguments)


def test_names_of_modules_stay_apart() -> None:
    one = "SIZE = 1\ndef size():\n    return SIZE\n"
    two = "from golf.a.one import size as other\nSIZE = 2\ndef size():\n    return SIZE + 10 * other()\n"
    entry = "from golf.a import two\nfrom golf.a.two import SIZE\ndef main(size):\n    return two.size(), SIZE, size\n"
    program = text({"golf.a": "", "golf.a.one": one, "golf.a.two": two, ENTRY: entry})
    assert outcome(program, 5) == (12, 2, 5)


def test_scopes_of_every_kind() -> None:
    entry = """
x = 1
def main(y):
    def inner(x=x):
        nonlocal y
        y += x
        return [x for x in range(x + y)], {z: x for z in (x, y)}, (lambda x: x + y)(10)
    class Local:
        x = 7
        def get(self):
            return x
    try:
        raise ValueError(y)
    except ValueError as error:
        found = str(error)
    return inner(2), Local.x, Local().get(), found, [x for x in (x, y)]
"""
    space: dict[str, Any] = {}
    exec(entry, space)
    assert outcome(text({ENTRY: entry}), 3) == space["main"](3)


def test_what_nothing_reaches_is_gone() -> None:
    entry = """
class Thing:
    def used(self):
        return 1
    def unused(self):
        return missing()
def unreached():
    return Thing().unused
def main():
    return Thing().used()
"""
    program = text({ENTRY: entry})
    assert outcome(program) == 1
    assert "missing" not in program
    assert "unreached" not in program


CONFIG = """
from dataclasses import dataclass
@dataclass
class Config:
    gate: bool
    layers: int
    names: tuple
class Other:
    gate = "another's"
"""


def test_known_parameters_rule_out_branches() -> None:
    entry = f"""{CONFIG}
def gated():
    return "gate"
class Model:
    def __init__(self, config: Config):
        self.config = config
        self.gate = gated() if config.gate else None
        self.depth = config.layers if config.layers > 2 else 0
    def run(self):
        return self.gate if self.gate is not None else self.config.layers
def main(x):
    config = Config(False, 3, ())
    other = Other()
    for name in config.names or ():
        print(name)
    return Model(config).run(), Model(config).depth, other.gate if x else None
"""
    program = text({ENTRY: entry}, Config={"gate": False, "layers": 3, "names": ()})
    assert outcome(program, 1) == (3, 3, "another's")
    assert "gate'" not in program.replace('"another\'s"', "")
    assert "print" not in program


def test_what_has_no_known_type_is_left_to_run_time() -> None:
    entry = f"{CONFIG}\ndef main(config):\n    return config.gate\n"
    program = text({ENTRY: entry}, Config={"gate": False})
    assert outcome(program, type("Any", (), {"gate": 5})()) == 5


def test_a_variable_that_changes_keeps_its_name() -> None:
    entry = f"""{CONFIG}
def main(other):
    config = Config(False, 1, ())
    config = other
    return config.gate
"""
    assert outcome(text({ENTRY: entry}, Config={"gate": False}), type("Any", (), {"gate": 5})()) == 5


def test_arguments_that_never_vary_are_taken_out() -> None:
    entry = """
def scaled(x, factor=2, *, offset, flag=False):
    return x * factor + offset if not flag else None
def main(x):
    return scaled(x, offset=1), scaled(offset=1, x=x + 1)
"""
    program = text({ENTRY: entry + CONFIG}, Config={"gate": False})
    assert outcome(program, 4) == (9, 11)
    assert "offset" not in program


@pytest.mark.parametrize(
    ("source", "simple"),
    [
        ("a and True and b", "a and b"),
        ("False and f()", "False"),
        ("f() and False", "f() and False"),
        ("None is not None or a", "a"),
        ("a if 'x' in ('x', 'y') else b", "a"),
        ("1 is 1", "1 is 1"),
        ("not ()", "True"),
        ("f'{1}{a}{\"b\"}'", "f'1{a}b'"),
        ("2 * 3 - 1", "5"),
        ("0.1 + 0.2", "0.1 + 0.2"),
    ],
)
def test_only_what_is_decided_is_simplified(source: str, simple: str) -> None:
    tree = ast.parse(source, mode="eval")
    assert ast.unparse(Simplify().visit(tree)) == simple


def test_blocks_end_where_they_are_left() -> None:
    tree = ast.parse("def f():\n    if True:\n        return 1\n    g()\n    h()\n")
    assert ast.unparse(Simplify().visit(tree)) == "def f():\n    return 1"


def test_an_attribute_found_to_be_two_things_is_not_known() -> None:
    linker = Linker({ENTRY: f"{CONFIG}\nclass M:\n    def __init__(self, c: Config, o: Other):\n        self.x = c\n"
                            "        self.x = o\n    def get(self):\n        return self.x.gate\n"}, ENTRY)  # fmt: skip
    statements = linker.link()
    fold = Fold(
        Classes(statements), {linker.flat(ENTRY, "Config"): {"gate": 1}, linker.flat(ENTRY, "Other"): {"gate": 2}}
    )
    for statement in statements:
        fold.visit(statement.node)
    assert fold.count == 0


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("import golf.a.one\ndef main():\n    pass\n", "needed `from"),
        ("from golf.a import one\ndef main():\n    return one\n", "as a value"),
        ("from golf.a.one import nothing\ndef main():\n    return nothing\n", "has no name nothing"),
    ],
)
def test_what_cannot_be_linked_is_named(source: str, text: str) -> None:
    with pytest.raises(FairwayError, match=text):
        compose(Linker({"golf.a": "", "golf.a.one": "x = 1\n", ENTRY: source}, ENTRY), None)


PLACES = """
from dataclasses import dataclass
@dataclass
class Pair:
    left: int
    right: int = 5
class Base:
    def __init__(self, *, width, height=2):
        self.width, self.height = width, height
class Wide(Base):
    def __init__(self, width):
        super().__init__(width=width, height=7)
log = []
def note(value):
    log.append(value)
    return value
def area(first, *, width, height=3):
    return first, width, height
def call(function, **options):
    return function(1, **options)
def main():
    wide = Wide(width=3)
    return (
        area(1, height=4, width=2), area(first=note(1), width=note(2)), area(height=note(5), first=0, width=note(6)),
        call(area, width=9), area(**{"first": 8, "width": 1}),
        Pair(right=1, left=2), Pair(left=3), wide.height, Base(height=1, width=4).width, log,
    )
"""


def test_keywords_become_places_and_nothing_else_changes() -> None:
    space: dict[str, Any] = {}
    exec(PLACES, space)
    program = text({ENTRY: PLACES})
    assert repr(outcome(program)).replace("'", "") == repr(space["main"]()).replace("Pair", found_name(program))
    statements = Linker({"golf": "", "golf.bundle": "", ENTRY: PLACES}, ENTRY).link()
    use_places(statements)
    placed = "\n".join(ast.unparse(statement.node) for statement in statements)
    for call in ("(1, 2, 4)", "(note__2(1), note__2(2))", "Pair__2(2, 1)", "Base__2(4, 1)", "Wide__2(3)"):
        assert call in placed
    assert "height=note__2(5), first=0, width=note__2(6)" in placed  # else they would act in another order


def found_name(program: str) -> str:
    tree = ast.parse(program)
    return next(
        n.name for n in tree.body if isinstance(n, ast.ClassDef) and "dataclass" in map(ast.unparse, n.decorator_list)
    )


def test_what_errors_advise_is_left_out_but_what_callers_pass_on() -> None:
    source = """
class Error(Exception):
    def __init__(self, message, *, hint=""):
        super().__init__(message, hint=hint)
def f():
    raise Error("wrong", hint="dvc repro")
"""
    statements = Linker({"golf": "", "golf.bundle": "", ENTRY: source}, ENTRY).link()
    drop_hints(statements)
    left = "\n".join(ast.unparse(statement.node) for statement in statements)
    assert "('wrong')" in left
    assert "hint=hint" in left


SECTIONS = """
from dataclasses import dataclass, fields
from typing import ClassVar
class Section:
    SECTION: ClassVar[str] = ""
@dataclass
class Free(Section):
    SECTION: ClassVar[str] = "free"
    width: int = 111
    height: int = 112
@dataclass
class Called(Section):
    SECTION: ClassVar[str] = "called"
    width: int = 113
@dataclass
class Asked(Section):
    SECTION: ClassVar[str] = "asked"
    width: int = 114
@dataclass
class Fixed(Section):
    SECTION: ClassVar[str] = "fixed"
    FIXED = "*"
    width: int = 115
def load(section, **values):
    return section.SECTION, section(**values).width, [field.name for field in fields(section)]
def main():
    return load(Free, width=1, height=2), Called().width, Asked.width, load(Asked), load(Called), load(Fixed)
"""


def test_defaults_that_no_reader_of_parameters_needs_are_gone() -> None:
    space: dict[str, Any] = {}
    exec(SECTIONS, space)
    program = text({ENTRY: SECTIONS})
    assert outcome(program) == space[MAIN]()
    assert "ClassVar[" not in program
    assert [number for number in range(111, 116) if str(number) in program] == [113, 114, 115]
