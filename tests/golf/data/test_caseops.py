"""The transform comes back from every string, and takes capitals out of words."""

import random
import sys

import pytest

from golf.data.caseops import ALLCAPS, BLOCKS, CAPNEXT, ESC, MARKERS, TITLE, apply, case_pairs, undo
from golf.runtime.errors import DataError

SHOWN = {"T": TITLE, "A": ALLCAPS, "C": CAPNEXT, "E": ESC}
PAIRS = [*case_pairs(), *case_pairs().values()]
ODD = "ßẞİıſς\u212a\u212bǅǄǆŉǰȺⱥɐᾈΐ\u03f2\u03f9 \u2581\u00a0\n\t\0'_-1中あ😀𐐀"
ODD += "\u0300\u0301\u030c\u0345\u0327\u20d7"  # combining
ALPHABET = "aabbcABBC" + ODD + "".join(MARKERS) + "ÉéЖжΣσԱա Aa Bb  "


def marked(text: str) -> str:
    """``text`` with markers written <T>, <A>, <C>, <E>."""
    for name, marker in SHOWN.items():
        text = text.replace(f"<{name}>", marker)
    return text


@pytest.mark.parametrize(
    ("text", "needed"),
    [
        ("", ""),
        ("nothing to do, 1 café", "nothing to do, 1 café"),
        ("The NASA Launch", "<T>the<A> nasa<T> launch"),
        ("iPhone OpenAI", "i<C>phone<T> open<A>ai"),
        ("PCs, URLs: McDonald's X", "<A>pc<C>s,<A> url<C>s:<T> mc<C>donald's<T> x"),
        ("a  B\nC (D)", "a <T> b\n<T>c (<T>d)"),
        ("ABcDEf", "<A>ab<C>c<A>de<C>f"),
        ("\ue001The \ue004\ue004", "<E>\ue001<T>the <E>\ue004<E>\ue004"),
        ("AB\ue003c", "<A>ab<E>\ue003c"),
        ("ÉCOLE Жук ΟΔΟΣ ς", "<A>école<T> жук<A> οδοσ ς"),
        ("STRAßE İst ǅ ẞ", "<A>straß<T>e İst ǅ ẞ"),
        ("J\u030cAB ABC\u0301 ABC AB\u20d7", "J\u030c<A>ab ABC\u0301<A> abc<A> ab\u20d7"),
    ],
)
def test_examples(text: str, needed: str) -> None:
    assert apply([text]) == [marked(needed)]
    assert undo([marked(needed)]) == [text]


def test_pairs_are_one_to_one_and_equally_long() -> None:
    pairs = case_pairs()
    assert len(pairs) == len(set(pairs.values())) == 584
    assert not set(pairs) & set(pairs.values())
    for capital, small in pairs.items():
        assert (capital.lower(), small.upper()) == (small, capital)
        assert len(capital.encode()) == len(small.encode())
    assert not set("ßẞİıſς\u212aǅȺ") & set(PAIRS)
    assert all(any(ord(letter) in block for block in BLOCKS) for letter in PAIRS)


def test_every_character_comes_back_among_letters_marks_and_markers() -> None:
    points = [chr(point) for point in range(sys.maxunicode + 1) if not 0xD800 <= point < 0xE000]
    whole = "".join(points)
    for around in ("", "A", "ab", "AB", " A", "A\u0301", TITLE, ESC, ALLCAPS + "a"):
        text = around.join(points[:0x3400]) if around else whole
        assert undo(apply([text])) == [text]


def test_random_strings_come_back() -> None:
    rng = random.Random(5)
    texts = ["".join(rng.choices(ALPHABET, k=rng.randrange(0, 24))) for _ in range(30_000)]
    transformed = apply(texts)
    assert undo(transformed) == texts
    assert [apply([text])[0] for text in texts[:500]] == transformed[:500]  # what stands beside it changes nothing
    free = [text for text in texts if not set(text) & set("\u0300\u0301\u030c\u0345\u0327")]
    assert not any(set(text) & set(case_pairs()) for text in apply(free))


def test_many_texts_and_long_ones_keep_their_ends() -> None:
    texts = ["A" * 120_000, "", "B", "", "c" * 70_000 + "D", "\0"]
    assert undo(apply(texts)) == texts
    assert apply([]) == undo([]) == []


def test_a_marker_before_nothing_stays() -> None:
    texts = [TITLE, TITLE + "1", ALLCAPS + " ", CAPNEXT + " a", ESC, "a" + ESC, ESC + "a", TITLE + "A"]
    assert undo(texts) == texts


@pytest.mark.parametrize("half", [0xD800, 0xDFFF])
def test_half_a_surrogate_pair_is_refused(half: int) -> None:
    for change in (apply, undo):
        with pytest.raises(DataError, match="text 1: half a surrogate pair at character 2"):
            change(["fine", "ab" + chr(half)])
