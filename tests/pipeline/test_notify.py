"""Told: a file, a webhook; one that is down, slow or wrong holds nothing, and its address is printed nowhere."""

import http.server
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from golf.runtime.errors import FairwayError
from pipeline import notify, scheduled

CONTENT = notify.message("nightly", "red-fox", "Refused", "gate: 16,012,334 bytes > 16,000,000")
SECRET = "T0/B0/xyzzy"


class Hook(http.server.BaseHTTPRequestHandler):
    got: ClassVar[list[dict]] = []
    codes: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        self.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(self.codes.pop(0) if self.codes else 200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.chdir(tmp_path)
    Hook.got, Hook.codes = [], []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hook) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{SECRET}"
        server.shutdown()


def test_a_webhook_named_by_a_file_is_told(hook: str) -> None:
    Path(".notify").write_text(hook + "\n")
    assert notify.deliver("@.notify", CONTENT) == "webhook of 127.0.0.1: told"
    assert Hook.got == [CONTENT]
    assert CONTENT["text"] == "nightly red-fox: Refused: gate: 16,012,334 bytes > 16,000,000"


def test_a_server_s_fault_is_tried_again_and_a_refusal_is_not(hook: str) -> None:
    Hook.codes = [503, 429, 200]
    notify.deliver(hook, CONTENT, (0.0, 0.0, 0.0))
    assert len(Hook.got) == 3
    Hook.codes = [404]
    with pytest.raises(FairwayError, match=r"webhook of 127\.0\.0\.1: status 404; not told: nightly") as caught:
        notify.deliver(hook, CONTENT, (0.0, 0.0, 0.0))
    assert len(Hook.got) == 4
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("where", ["http://127.0.0.1:1/T0/B0/xyzzy", "http://[T0/B0/xyzzy", "@missing"])
def test_what_cannot_be_told_is_said_without_the_secret(tmp_path: Path, monkeypatch, where: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FairwayError) as caught:
        notify.deliver(where, CONTENT, (0.0,))
    assert SECRET not in str(caught.value)


def test_a_file_gets_a_line_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        notify.deliver("logs/told.jsonl", CONTENT)
    lines = [json.loads(line) for line in Path("logs/told.jsonl").read_text().splitlines()]
    assert [line["state"] for line in lines] == ["Refused"] * 2


def test_a_slow_webhook_holds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hook returns at once, and what became of it is in the log of a process of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(notify.__file__).parents[1]))
    Path("params.yaml").write_text("tracking: {notify: '@.notify'}\n")
    Path(".notify").write_text("http://127.0.0.1:x/T0/B0/xyzzy\n")
    thing = type("Thing", (), {"name": "x", "message": "", "is_completed": lambda self: False})()
    begin = time.monotonic()
    scheduled.told(flow=thing, flow_run=thing, state=thing)
    assert time.monotonic() - begin < 1
    end = time.monotonic() + 20
    while not notify.LOG.is_file() or not notify.LOG.read_text().endswith("\n"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert "FAILED: " in notify.LOG.read_text()
    assert SECRET not in notify.LOG.read_text()
    Path("params.yaml").write_text("tracking: nonsense\n")
    scheduled.told(flow=thing, flow_run=thing, state=thing)
