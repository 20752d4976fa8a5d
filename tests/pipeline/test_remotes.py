"""Remotes end to end: a folder, and S3's protocol on loopback; what they say when they refuse, and what is left."""

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from golf.runtime.errors import Exit, FairwayError
from pipeline.doctor import services
from pipeline.remote import shown
from pipeline.save import save
from tests.pipeline import s3
from tests.pipeline.dvc_folder import make_dvc
from tests.pipeline.test_save import contents, here, run, saved, template
from tests.stages.world import ROOT

__all__ = ["here", "template"]
PYTHON = sys.executable
S3 = pytest.mark.skipif(not importlib.util.find_spec("dvc_s3"), reason="dvc-s3 is not installed: pip install '.[s3]'")


@pytest.fixture
def store(here: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[s3.Store]:
    """The same checkout; its remote is a prefix of a bucket."""
    for name in [name for name in services.theirs() if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(here.parent))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with s3.serving() as found:
        make_dvc(here, f"s3://{s3.BUCKET}/golf", endpointurl=found.url)
        yield found


def attempt() -> tuple[FairwayError, list[str]]:
    lines = list[str]()
    with pytest.raises(FairwayError) as caught:
        save(lines.append)
    return caught.value, lines


def cloned(here: Path) -> Path:
    """A fresh clone beside the checkout, with what the DVC remote holds."""
    run(here.parent, "git clone -q origin.git fresh")
    fresh = here.parent / "fresh"
    shutil.copy(here / ".dvc/config", fresh / ".dvc/config")  # where the test's remote is
    run(fresh, f"{PYTHON} -m dvc pull -q")
    return fresh


@S3
@pytest.mark.slow
def test_s3_keeps_a_result_and_gives_it_to_a_fresh_clone(here: Path, store: s3.Store) -> None:
    lines = list[str]()
    save(lines.append)
    assert [line.split()[:2] for line in lines] == [["ok", "cache"], ["ok", "experiments"], ["ok", "files"]]
    assert "3 files on bucket/golf, 3 of them read back now" in lines[0]
    assert [result.state for result in services.remote()] == ["ok"]
    assert not [key for key in store.objects if "/check/" in key]
    fresh = cloned(here)
    assert (fresh / "out/x").read_text() == "one"
    key = next(key for key in store.objects if "/files/md5/" in key and store.objects[key] == b"one")
    store.objects[key] = b"two"  # the remote's disk flips a bit
    Path(".dvc/tmp/fairway-read-back.json").unlink()
    error, _ = attempt()
    assert "another content than" in str(error)
    assert error.code == Exit.DATA


@S3
@pytest.mark.slow
def test_s3_that_refuses_is_one_clear_error_and_nothing_is_lost(
    here: Path, store: s3.Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(here)

    def refused(told: str, code: int) -> None:
        error, lines = attempt()
        assert [line.split()[0] for line in lines] == ["fail", "ok", "fail"]
        assert all(told in line and "\n" not in line for line in (lines[0], lines[2])), (told, lines)
        assert (error.code, store.objects, contents(here)) == (code, {}, before)

    store.trouble = s3.FULL
    refused("No space left on device", Exit.IO)
    store.trouble = s3.READ_ONLY
    refused("Access Denied", Exit.RETRY)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another")
    refused("Forbidden", Exit.RETRY)
    store.shutdown()
    store.server_close()
    refused("Could not connect to the endpoint URL", Exit.RETRY)
    (result,) = services.remote()
    assert result.state == "fail"
    assert "Could not connect" in result.found


@pytest.mark.slow
@pytest.mark.parametrize(("options", "told"), [("size=8k", "No space left on device"), ("ro", "Read-only file system")])
def test_a_disk_that_is_full_or_read_only(here: Path, options: str, told: str) -> None:
    """A real one, in a mount namespace of its own, which ends with the command."""
    store, before = here.parent / "store", contents(here)
    command = f"mount -t tmpfs -o {options} tmpfs {store} && {{ {PYTHON} -m pipeline.cli save; echo code $?; }}"
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", command],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if "code " not in done.stdout:
        pytest.skip(f"no mount namespace here: {done.stderr.strip()}")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:3]] == ["fail", "ok", "fail"], done
    assert told in lines[0]
    assert told in lines[2]
    assert lines[3] == f"code {int(Exit.IO)}"
    assert done.stderr.startswith("fairway: not everything is saved")
    assert contents(here) == before
    save(lambda _: None)  # a better disk: nothing was lost
    assert saved(here)["reports/gate/42.json"] == b'{"bytes": 1}'


def test_no_password_of_an_address_is_shown() -> None:
    said = "fatal: unable to access 'https://ada:secret@host/golf.git/': 403; ssh://git@host/x, s3://bucket/a@b"
    expected = "fatal: unable to access 'https://***@host/golf.git/': 403; ssh://***@host/x, s3://bucket/a@b"
    assert shown(said) == expected
