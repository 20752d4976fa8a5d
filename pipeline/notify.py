"""How a flow ended, told to a file or a webhook (``tracking.notify``): ``python -m pipeline.notify`` delivers.

The delivery is a process of its own, in a session of its own, that is given the message and the address on its input:
a webhook that is down, slow or wrong costs the run nothing, and is written to logs/notify.log. The address of a webhook
is a secret with most services: ``@FILE`` keeps it out of Git, and no more of it than the host is ever printed.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from golf.runtime.errors import ConfigError, FairwayError, run_main
from pipeline.lines import append_line

LOG = Path("logs/notify.log")
TRIES = (0.0, 5.0, 30.0)  # seconds before each
SECONDS = 10.0  # for the webhook to answer
TEXT = 1500  # characters: below every service's limit


def message(flow: str, run: str, state: str, text: str) -> dict[str, Any]:
    """What is told. ``text`` and ``content`` are what Slack, Mattermost, and Discord show."""
    line = f"{flow} {run}: {state}{': ' if text else ''}{text}"[:TEXT]
    return {
        "text": line, "content": line, "flow": flow, "run": run, "state": state, "message": text[:TEXT],
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def tell(where: str, content: dict[str, Any], cwd: Path | None = None) -> None:
    """Start the delivery of ``content`` to ``where`` and return at once. Nothing for an empty ``where``."""
    if not where:
        return
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline.notify"],
        cwd=cwd, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    if process.stdin is not None:
        process.stdin.write(json.dumps({"where": where, "content": content}).encode())
        process.stdin.close()


def deliver(where: str, content: dict[str, Any], tries: tuple[float, ...] = TRIES) -> str:
    """Tell ``where``, after the pauses ``tries``; what came of it, in words without a secret.

    Raises:
        FairwayError: it took none of the tries.
    """
    address = _address(where)
    if not address.startswith(("http://", "https://")):
        kept = {key: value for key, value in content.items() if key not in ("text", "content")}
        append_line(Path(address), json.dumps(kept))
        return f"{address}: written"
    host, why = _host(address), ""
    for pause in tries:
        time.sleep(pause)
        why, final = _post(address, content)
        if not why:
            return f"webhook of {host}: told"
        if final:
            break
    raise FairwayError(
        f"webhook of {host}: {why}; not told: {content['text'][:200]}", hint="correct tracking.notify in params.yaml"
    )


def _address(where: str) -> str:
    if not where.startswith("@"):
        return where
    path = Path(where[1:])
    lines = path.read_text(encoding="utf-8").split() if path.is_file() else []
    if not lines or not lines[0].startswith(("http://", "https://")):
        found = "no such file" if not path.is_file() else "no URL in it"
        raise ConfigError(f"tracking.notify: {path}: {found}, needed a webhook's URL", hint=f"echo URL > {path}")
    return lines[0]


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or "?"
    except ValueError:  # half an address in brackets
        return "?"


def _post(address: str, content: dict[str, Any]) -> tuple[str, bool]:
    """What went wrong, nothing if it was taken; and whether another try can't help."""
    try:
        headers = {"Content-Type": "application/json", "User-Agent": "fairway"}
        request = urllib.request.Request(address, json.dumps(content).encode(), headers, method="POST")
        with urllib.request.urlopen(request, timeout=SECONDS):
            return "", True
    except urllib.error.HTTPError as error:
        return f"status {error.code}", 400 <= error.code < 500 and error.code != 429
    except (OSError, ValueError, http.client.HTTPException) as error:  # its text may hold the address
        reason = getattr(error, "reason", error)
        return type(reason).__name__, isinstance(error, (ValueError, http.client.InvalidURL))


def main() -> None:
    """Deliver what stdin holds, and write to the log what came of it."""
    job = json.load(sys.stdin)
    try:
        said = deliver(job["where"], job["content"])
    except (FairwayError, OSError) as error:
        said = f"FAILED: {error}"
    append_line(LOG, f"{time.strftime('%Y-%m-%d %H:%M:%S')} {said}")


if __name__ == "__main__":
    run_main("notify", main)
