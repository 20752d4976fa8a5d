"""A server of S3's protocol on loopback, as small as DVC's S3 remote needs: objects of one bucket in a dict.

It keeps what it is given, lists, deletes, and takes parts; it knows one access key (any other: 403) and checks no
signature. ``trouble`` makes it refuse writes, as (status, code, message): full, read-only.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.etree import ElementTree
from xml.sax.saxutils import escape

BUCKET, KEY = "bucket", "test-access-key"
XML = '<?xml version="1.0" encoding="UTF-8"?>'
FULL = (507, "InsufficientStorage", "No space left on device")
READ_ONLY = (403, "AccessDenied", "Access Denied")


class Store(ThreadingHTTPServer):
    """The server, with its objects."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.objects: dict[str, bytes] = {}
        self.parts: dict[str, dict[int, bytes]] = {}
        self.trouble: tuple[int, str, str] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


@contextmanager
def serving() -> Iterator[Store]:
    """Run it in a thread."""
    with Store() as store:
        thread = threading.Thread(target=store.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield store
        finally:
            store.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Store
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _begin(self) -> str | None:
        """The object's key ("" for the bucket), the query and the body; None where the request was answered."""
        parts = urlsplit(self.path)
        self.query = {name: values[0] for name, values in parse_qs(parts.query, keep_blank_values=True).items()}
        self.body = _plain(
            self.rfile.read(int(self.headers.get("Content-Length", 0))), self.headers.get("Content-Encoding")
        )
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        if KEY not in self.headers.get("Authorization", ""):
            return self._refuse(403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist")
        if bucket != BUCKET:
            return self._refuse(404, "NoSuchBucket", "The specified bucket does not exist")
        if self.server.trouble and self.command in ("PUT", "POST", "DELETE"):
            return self._refuse(*self.server.trouble)
        return key

    def _refuse(self, status: int, code: str, message: str) -> None:
        self._answer(f"{XML}<Error><Code>{code}</Code><Message>{message}</Message></Error>".encode(), status)

    def _answer(self, body: bytes = b"", status: int = 200, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", headers.pop("length", str(len(body))))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self) -> None:
        key = self._begin()
        if key is not None and (not key or key in self.server.objects):
            body = self.server.objects.get(key, b"")
            self._answer(length=str(len(body)), ETag=_tag(body), Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT")
        elif key is not None:
            self._answer(status=404)

    def do_GET(self) -> None:
        key = self._begin()
        if key is None:
            return
        if not key:
            self._list()
        elif key not in self.server.objects:
            self._refuse(404, "NoSuchKey", "The specified key does not exist")
        else:
            body = self.server.objects[key]
            first, _, last = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
            part = body[int(first) : int(last) + 1 if last else None]
            status = 206 if "Range" in self.headers else 200
            span = f"bytes {first}-{int(first) + len(part) - 1}/{len(body)}"
            self._answer(
                part, status, ETag=_tag(body), Content_Range=span, Last_Modified="Thu, 01 Jan 2026 00:00:00 GMT"
            )

    def _list(self) -> None:
        prefix, end = self.query.get("prefix", ""), self.query.get("delimiter", "")
        found, folders = [], dict[str, None]()
        for key in sorted(key for key in self.server.objects if key.startswith(prefix)):
            head, mark, _ = key[len(prefix) :].partition(end) if end else ("", "", "")
            if mark:
                folders[prefix + head + mark] = None
            else:
                body = self.server.objects[key]
                found.append(
                    f"<Contents><Key>{escape(key)}</Key><Size>{len(body)}</Size><ETag>{_tag(body)}</ETag>"
                    "<LastModified>2026-01-01T00:00:00.000Z</LastModified><StorageClass>STANDARD</StorageClass></Contents>"
                )
        found += [f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>" for name in folders]
        head = f"<Name>{BUCKET}</Name><KeyCount>{len(found)}</KeyCount><IsTruncated>false</IsTruncated>"
        self._answer(f"{XML}<ListBucketResult>{head}{''.join(found)}</ListBucketResult>".encode())

    def do_PUT(self) -> None:
        key = self._begin()
        if key is None:
            return
        if "partNumber" in self.query:
            self.server.parts[self.query["uploadId"]][int(self.query["partNumber"])] = self.body
        else:
            self.server.objects[key] = self.body
        self._answer(ETag=_tag(self.body))

    def do_POST(self) -> None:
        key = self._begin()
        if key is None:
            return
        if "delete" in self.query:
            for element in ElementTree.fromstring(self.body).iter():
                if element.tag.endswith("Key"):
                    self.server.objects.pop(element.text or "", None)
            self._answer(f"{XML}<DeleteResult></DeleteResult>".encode())
        elif "uploads" in self.query:
            name = hashlib.sha256(key.encode()).hexdigest()[:16]
            self.server.parts[name] = {}
            self._answer(f"{XML}<InitiateMultipartUploadResult><Bucket>{BUCKET}</Bucket><Key>{escape(key)}</Key>"
                         f"<UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode())  # fmt: skip
        else:
            parts = self.server.parts.pop(self.query["uploadId"])
            self.server.objects[key] = body = b"".join(part for _, part in sorted(parts.items()))
            self._answer(f"{XML}<CompleteMultipartUploadResult><Key>{escape(key)}</Key><ETag>{_tag(body)}</ETag>"
                         "</CompleteMultipartUploadResult>".encode())  # fmt: skip

    def do_DELETE(self) -> None:
        key = self._begin()
        if key is not None:
            self.server.objects.pop(key, None)
            self._answer(status=204)


def _tag(body: bytes) -> str:
    return f'"{hashlib.md5(body).hexdigest()}"'


def _plain(body: bytes, encoding: str | None) -> bytes:
    """The body without the frames of ``aws-chunked``: size in hex, data, …, a trailer."""
    if "aws-chunked" not in (encoding or ""):
        return body
    found = b""
    while body:
        head, _, body = body.partition(b"\r\n")
        size = int(head.partition(b";")[0], 16)
        if not size:
            break
        found, body = found + body[:size], body[size + 2 :]
    return found
