"""A stand-in for the hub on loopback: repository information, HEAD with ETag, ranges, and transfers that break."""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Serves ``files`` as one dataset; ``breaks[name]`` is how many of its transfers stop half-way."""

    def __init__(self, repo: str, files: dict[str, bytes]) -> None:
        self.repo, self.files = repo, files
        self.breaks: dict[str, int] = {}
        self.wrong_sha: set[str] = set()
        self.requests: list[tuple[str, str, str]] = []  # method, file or path, Range
        handler = type("Handler", (_Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)

    def __enter__(self) -> "Hub":
        self.thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def gets(self, name: str) -> list[str]:
        return [span for method, path, span in self.requests if method == "GET" and path == name]


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._serve(body=False)

    def do_GET(self) -> None:
        self._serve(body=True)

    def _serve(self, *, body: bool) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        info = re.fullmatch(rf"/api/datasets/{hub.repo}/revision/(.+)", path)
        file = re.fullmatch(rf"/datasets/{hub.repo}/resolve/([^/]+)/(.+)", path)
        span = self.headers.get("Range", "")
        hub.requests.append((self.command, file[2] if file else path, span))
        if info and info[1] in ("main", COMMIT):
            siblings = [
                {
                    "rfilename": name,
                    "size": len(raw),
                    "lfs": {"sha256": self._sha(name), "size": len(raw), "pointerSize": 1},
                }
                for name, raw in hub.files.items()
            ]
            self._answer(200, json.dumps({"id": hub.repo, "sha": COMMIT, "siblings": siblings}).encode(), {}, body)
        elif info:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"}, body)
        elif file and file[1] == COMMIT and file[2] in hub.files:
            self._file(file[2], span, body)
        else:
            code = "EntryNotFound" if file else "RepoNotFound"
            self._answer(404, b"{}", {"X-Error-Code": code}, body)

    def _sha(self, name: str) -> str:
        return hashlib.sha256(self.hub.files[name] + b"x" * (name in self.hub.wrong_sha)).hexdigest()

    def _file(self, name: str, span: str, body: bool) -> None:
        raw = self.hub.files[name]
        start = int(span.removeprefix("bytes=").split("-")[0]) if span else 0
        headers = {"ETag": f'"{self._sha(name)}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(raw) - 1}/{len(raw)}"
        if body and self.hub.breaks.get(name, 0) > 0:
            self.hub.breaks[name] -= 1
            self.send_response(206 if start else 200)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(raw) - start))
            self.end_headers()
            self.wfile.write(raw[start : start + (len(raw) - start) // 2])
            self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return
        self._answer(206 if start else 200, raw[start:], headers, body)

    def _answer(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if body:
            self.wfile.write(content)
