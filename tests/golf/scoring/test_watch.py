"""Which files count as read: those that were there before, and are neither code nor the system's."""

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from golf.scoring import audit
from golf.scoring.watch import watched
from tests.cheats.honest import ChunkTTT, LoadedFromDisk
from tests.cheats.toy import VOCAB, stream


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """A file that was there before."""
    path = tmp_path / "val_000000.bin"
    np.arange(300, dtype="<u2").tofile(path)
    time.sleep(0.05)
    return path


def test_every_way_to_read_a_file_by_python(there: Path) -> None:
    ways: list[Callable[[], object]] = [
        there.read_bytes,
        lambda: os.close(os.open(os.fsencode(there), os.O_RDONLY)),
        lambda: there.open("r+b").close(),
        lambda: np.fromfile(there, "<u2"),
        lambda: np.memmap(there, mode="r"),
        lambda: torch.UntypedStorage.from_file(str(there), False, 9),
    ]
    seen = []
    for way in ways:
        found: set[str] = set()
        with watched(found):
            way()
        assert found <= {str(there)}
        seen.append(bool(found))
    assert seen == [True] * 5 + [False], "the last one is C++, which Python hears nothing of: docs/rules.md says so"


def test_a_link_is_the_file(there: Path) -> None:
    link = there.with_name("weights.bin")
    link.symlink_to(there)
    found: set[str] = set()
    with watched(found):
        link.read_bytes()
    assert found == {str(there)}


def test_what_is_not_read_or_not_of_before(there: Path, tmp_path: Path) -> None:
    code = tmp_path / "module.py"
    code.write_text("x = 1")
    time.sleep(0.05)
    found: set[str] = set()
    with watched(found):
        there.open("ab").close()  # written to
        (tmp_path / "new").write_text("new")
        (tmp_path / "new").read_text()
        with tempfile.TemporaryFile() as file:
            os.fdopen(os.dup(file.fileno())).close()
        code.read_text()
        Path(np.__file__).with_name("version.py").read_text()
        Path(sys.executable).read_bytes()
        Path("/proc/self/status").read_text()
        with pytest.raises(FileNotFoundError):
            (tmp_path / "nowhere").read_text()
        there.stat()
    there.read_bytes()
    assert found == set()


def test_the_inner_block_hears_of_it_alone(there: Path) -> None:
    outer: set[str] = set()
    inner: set[str] = set()
    with watched(outer), watched(inner):
        there.read_bytes()
    assert (outer, inner) == (set(), {str(there)})


def test_a_scorer_in_memory_may_read_nothing_when_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LoadedFromDisk, "path", tmp_path / "weights.npy", raising=False)
    LoadedFromDisk.leave(stream())
    time.sleep(0.05)
    assert audit(LoadedFromDisk, stream(), vocab_size=VOCAB).passed
    report = audit(LoadedFromDisk, stream(), vocab_size=VOCAB, loaded=True)
    assert report.failed == ("score-first",)
    assert report["score-first"].evidence == (
        f"the scorer read {tmp_path / 'weights.npy'}: needed the artifact and the stream alone"
    )
    assert audit(ChunkTTT, stream(), vocab_size=VOCAB, loaded=True).passed
