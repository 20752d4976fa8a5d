"""The default corpus: what becomes a document, and that it is the same each time."""

from pathlib import Path

import pytest

from golf.data import docstrings
from golf.runtime.errors import MissingInput

SOURCE = '''"""The module explains itself at some length, enough to be worth a document of its own."""
class Thing(Base):
    """A thing with a purpose."""
    if True:
        def act(self, force, *, quickly=False):
            """Acts with `force`."""
    def silent(self): pass
async def wait(seconds):
    """Waits for a while."""
add_newdoc('pkg', 'obj', ('attr', """An attribute that was compiled."""))
add_newdoc('pkg', 'made', "put together".format(x))
'''


def test_groups_of_a_source_file(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SOURCE)
    groups = dict(docstrings._parse(("pkg.m", str(tmp_path / "m.py"))))
    assert [title for title, _ in groups["pkg.m"]] == ["pkg.m", "wait(seconds)"]
    assert groups["pkg.m.Thing"] == [
        ("pkg.m.Thing", "A thing with a purpose."),
        ("act(self, force, quickly)", "Acts with `force`."),
    ]
    assert groups["pkg.obj"] == [("pkg.obj.attr", "An attribute that was compiled.")]
    assert "pkg.made" not in groups
    (tmp_path / "bad.py").write_text('def broken(: """doc"""')
    assert docstrings._parse(("bad", str(tmp_path / "bad.py"))) == []


def test_docstrings_are_used_once_and_long_documents_are_continued() -> None:
    seen: set[bytes] = set()
    parts = [(f"f{i}()", f"number {i} " * 500) for i in range(8)]
    first = list(docstrings._documents(("m", [*parts, parts[0]]), seen))
    assert len(first) == 3
    assert all(len(text) < docstrings.DOCUMENT_CHARACTERS + 100 for text in first)
    assert all(text.startswith("m\n\n") for text in first[1:])
    assert list(docstrings._documents(("copy", parts), seen)) == []


def test_topics_of_pydoc() -> None:
    [(name, parts)] = docstrings._topics(b"topics = {'if': 'The if statement.'}")
    assert (name, parts) == ("python.if", [("Python: if", "The if statement.")])


def test_absent_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "PACKAGES", ("no_such_package_here",))
    with pytest.raises(MissingInput, match="no_such_package_here is not installed"):
        docstrings.corpus(processes=1)


def test_corpus_of_numpy_and_the_topics(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(docstrings, "PACKAGES", ("numpy",))
    jobs = [job for job in docstrings._sources() if job[0].startswith(("numpy.lib", "numpy._core", "pydoc_data"))]
    assert len(jobs) > 100
    monkeypatch.setattr(docstrings, "_sources", lambda: jobs)
    one, two = docstrings.corpus(processes=1), docstrings.corpus(processes=2)
    assert one == two
    assert len(set(one)) == len(one) > 300
    assert sum(len(text.encode()) for text in one) > 1_000_000
    assert any(text.startswith("numpy._core.multiarray.ndarray.") for text in one)  # attached to compiled code
    assert any(text.startswith("Python: ") for text in one)
    topics = [text.startswith("Python: ") for text in one]
    assert 0.2 < sum(topics[: len(one) // 2]) / sum(topics) < 0.8  # every share is a mix
