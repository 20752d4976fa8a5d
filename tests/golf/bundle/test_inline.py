"""What stands in place of names, and which names can be short: what runs gives what it gave."""

import ast
import re
from dataclasses import astuple
from typing import Any

import pytest

from golf.bundle.build import MAIN
from golf.bundle.link import Linker
from golf.bundle.optimize import optimize
from golf.bundle.simplify import Simplify
from golf.bundle.strip import strip
from tests.golf.bundle.test_link import ENTRY, outcome, text

LITERALS = """
ONCE = "a text that is read once"
TWICE = "a text that is read twice"
SHORT = 64
LEFT, RIGHT = 123456, [1]
if SHORT > 1:
    CHANGED = 6
CHANGED = 5
def main():
    return ONCE, TWICE + TWICE, SHORT + SHORT, LEFT, RIGHT, CHANGED
"""


def result(source: str) -> Any:
    space: dict[str, Any] = {}
    exec(source, space)
    return space[MAIN]()


def test_literals_stand_where_they_are_read() -> None:
    program = text({ENTRY: LITERALS})
    assert outcome(program) == result(LITERALS)
    assert program.count("read twice") == 1
    assert {ast.unparse(n.targets[0]).count(",") for n in ast.parse(program).body if isinstance(n, ast.Assign)} == {0}
    assert sum(isinstance(n, ast.Assign) for n in ast.parse(program).body) == 4  # TWICE, RIGHT, CHANGED and CHANGED


TRIVIAL = """
log = []
def note(value):
    log.append(value)
    return value
def nothing(value):
    pass
def seven(value):
    return 7
def shape(value, unread, *, unread_too=3):
    return value
class Section:
    def require(self, holds, example):
        return holds
    def check(self):
        return self.require(True, 512), self.require(1 < 2, 64)
class Other:
    def __init__(self, size, unread):
        self.size = size
def main():
    nothing(log)
    nothing(note(1))
    return (
        seven(log), seven(note(2)), shape(3, log), shape(4, 5, unread_too=log), shape(5, note(6)),
        Section().check(), Other(8, log).size, isinstance(Other(8, 9), Other), log,
    )
"""


def test_what_does_nothing_is_gone_and_what_acts_stays() -> None:
    program = text({ENTRY: TRIVIAL}, Other={"known": 1})
    assert outcome(program) == result(TRIVIAL)
    assert "512" not in program
    assert "return 7" in program  # for the call whose argument acts
    assert program.count("(7,") == 1


UNREAD = """
class Box:
    def __init__(self):
        self.seen = []
    def note(self, value, example):
        self.seen.append(value)
        return value
    def run(self, size):
        unread, kept = f"{size} is unread", size
        advice = 64 * size
        self.note(kept, advice)
        self.note(kept + 1, min(advice, 16, round(size / 3)))
        return self.seen
def main():
    acts = counted = total = shared = outer = 0
    acts = note = [1].pop()
    counted += 1
    def inner():
        nonlocal shared
        shared = outer = 2
        class Local:
            outer = 3
        return Local.outer
    return Box().run(6), inner(), [counted for counted in (1, 2)], note
"""


def test_variables_that_nothing_reads_are_gone() -> None:
    program = text({ENTRY: UNREAD})
    assert outcome(program) == result(UNREAD)
    assert not {"unread", "64", "min"} & set(re.findall(r"\w+", program))
    assert "acts(" in text({ENTRY: UNREAD.replace("min(", "acts(")})
    assert "pop()" in program


DEFAULTS = """
from dataclasses import dataclass, field
@dataclass
class Given:
    size: int = 301
    parts: list = field(default_factory=lambda: [302])
    rest: int = 303
@dataclass
class Made:
    size: int = 304
    @classmethod
    def of(cls):
        return cls()
class Box:
    def __init__(self, width, height=305, depth=306):
        self.size = width, height, depth
    def area(self, width=307):
        return self._scaled(width, 2)
    def _scaled(self, factor=308, offset=309):
        return self.size[0] * factor + offset
def kept(x, first=310, second=311):
    return x, first, second
def dropped(x, *, first=312, second=313):
    return x, first, second
def handed(x=314):
    return x
def main(x=315):
    return (
        Given(x, [x]), Made.of(), Made(x), Box(x, x).size, Box(width=x, height=1, depth=2).area(), kept(x, second=x),
        kept(2, 3, x), dropped(x, second=x, first=4), dropped(4, first=x, second=5), list(map(handed, [x])), handed(x),
    )
"""


def test_defaults_that_every_call_gives_are_gone() -> None:
    space: dict[str, Any] = {}
    exec(DEFAULTS, space)
    program = text({ENTRY: DEFAULTS})
    found, expected = outcome(program), space[MAIN]()
    assert [astuple(made) for made in found[:3]] == [astuple(made) for made in expected[:3]]
    assert found[3:] == expected[3:]
    left = {number for number in range(301, 316) if str(number) in program}
    assert left == {303, 304, 306, 307, 310, 314, 315}


NAMES = """
class Base:
    def __init__(self, width, height=2):
        self.width, self.height, self.reader = width, height, area
    @property
    def measure(self):
        return volume
    def scaled(self, factor, offset=0):
        return self.width * factor + offset
    @classmethod
    def square(cls, side):
        return cls(width=side, height=side)
class Wide(Base):
    def __init__(self, wide):
        super().__init__(width=wide, height=7)
def area(depth, along=3):
    return depth, along
def volume(deep, around=4):
    return deep, around
def table(low, high=5):
    return low, high
def spread(near, far=1):
    return near, far
class Spread:
    def __init__(self, here, there=2):
        self.found = here, there
    def of(self, this, that=3):
        return this, that
def plain(first_of_all, second_of_all):
    return first_of_all - second_of_all
ALIAS = table
def call(function, **options):
    return function(**options)
def main():
    wide = Wide(wide=3)
    kept = {"depth": 8}
    filled = dict(this=5)
    filled["that"] = 6
    return (
        wide.reader(depth=1, along=2), wide.measure(deep=3, around=1), wide.scaled(factor=2, offset=1),
        Base.square(side=4).height, ALIAS(low=6, high=7), call(area, **kept), plain(second_of_all=1, first_of_all=9),
        spread(**{"near": 1, "far": 2}), Spread(**dict(here=3, there=4)).found, Spread(1).of(**filled),
        sorted([3, 1, 2], key=lambda along: -along),
    )
"""


def test_names_that_a_call_may_give_stay() -> None:
    program = text({ENTRY: NAMES})
    assert outcome(program) == result(NAMES)
    assert "first_of_all" not in program
    assert "side" in program  # of a method whose receiver nobody knows


@pytest.mark.parametrize(
    ("source", "simple"),
    [
        ("(0.9, 0.95)[1]", "0.95"),
        ("(1, 2)[3]", "(1, 2)[3]"),
        ("len(()) + 0", "0"),
        ("max(1, 2) * 3", "6"),
        ("int(True)", "1"),
        ("max(x, 2)", "max(x, 2)"),
        ("isinstance(None, Gate__12)", "False"),
        ("isinstance(None, Gate)", "isinstance(None, Gate)"),
        ("max((), default=3)", "max((), default=3)"),
        ("(1,) + (2, 'a')", "(1, 2, 'a')"),
        ("1 if x and True else 2", "1 if x else 2"),
        ("x and True", "x and True"),
        ("1 if x or True else 2", "1 if x or True else 2"),
        ("1 if x or False else 2", "1 if x else 2"),
    ],
)
def test_functions_and_members_of_literals(source: str, simple: str) -> None:
    assert ast.unparse(Simplify().visit(ast.parse(source, mode="eval"))) == simple


def test_assertions_of_every_kind_are_stripped() -> None:
    source = """
@custom_op("golf::x", mutates_args=(), schema="(Tensor y, Tensor[] terms, Tensor? gate, int n) -> (Tensor, Tensor[])")
def f(a):
    try:
        return list(zip(a, a, strict=True))
    except ValueError as error:
        raise KeyError(str(error)) from error
"""
    statements = Linker({"golf": "", "golf.bundle": "", ENTRY: source}, ENTRY).link()
    strip(statements)
    left = ast.unparse(statements[0].node)
    assert "(Tensor a, Tensor[] b, Tensor? c, int d) -> (Tensor, Tensor[])" in left
    assert "zip(a, a)" in left
    assert left.endswith("raise KeyError(str(error))")


CAUGHT = """
def whole(text):
    try:
        number = int(text)
    except ValueError:
        return False
    return True
def there(box):
    try:
        found = box["k"]
    except KeyError:
        return False
    finally:
        unread = 64
    return True
def spread(first, second):
    *kept, unread = first, second
    other, unused = *first, second
    return kept, other
def main():
    return whole("3"), whole("x"), there({}), there({"k": 1}), spread([1], 2)
"""


def test_what_is_asked_for_its_error_and_what_is_spread_stay() -> None:
    program = text({ENTRY: CAUGHT})
    assert outcome(program) == result(CAUGHT)
    assert "64" not in program


OUTSIDE = """
from dataclasses import dataclass
@dataclass
class Record:
    size: int = 1
class Box:
    def __init__(self, size=2):
        self.size = size
def exported(size, more=3):
    return size, more
def main():
    return Record(5), Box(6).size, exported(7, 8)
"""


def test_what_others_call_too_takes_all_that_it_took() -> None:
    linker = Linker({"golf": "", "golf.bundle": "", ENTRY: OUTSIDE}, ENTRY)
    roots = {linker.flat(ENTRY, name) for name in (MAIN, "Record", "Box", "exported")}
    space: dict[str, Any] = {}
    exec("\n".join(ast.unparse(part.node) for part in optimize(linker.link(), roots, {})), space)
    record, box, exported = (space[linker.flat(ENTRY, name)] for name in ("Record", "Box", "exported"))
    assert (record().size, record(4).size, box().size, box(4).size) == (1, 4, 2, 4)
    assert (exported(9), exported(9, 1)) == ((9, 3), (9, 1))


FIELDS = """
from dataclasses import dataclass, field
from typing import ClassVar
@dataclass
class Counted:
    KIND: ClassVar[int] = 501
    size: int
    rest: int = 502
@dataclass
class Later:
    size: int
    parts: list = field(init=False, default_factory=list)
    rest: int = 503
@dataclass
class Named:
    size: int = field(kw_only=True, default=504)
    rest: int = 505
def main():
    counted, later, named = Counted(1, 2), Later(3, 4), Named(5)
    return (counted.KIND, counted.size, counted.rest, Counted.KIND, later.size, later.parts, later.rest,
            named.size, named.rest)
"""


def test_fields_that_no_call_gives_by_place_count_for_none() -> None:
    assert outcome(text({ENTRY: FIELDS})) == result(FIELDS)
