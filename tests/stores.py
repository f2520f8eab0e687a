"""Stand-ins, on this machine, for the stores that `hydrakit datasets get` downloads from."""

from __future__ import annotations

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "idc-open-data"


class Store(ThreadingHTTPServer):
    """A store with the part of the protocol S3 that s5cmd uses.

    Attributes:
        objects: Content of each file by its name, ``FOLDER/NAME``.
        faults: What to do wrong with a file: ``404``, ``cut`` (end in the middle), ``slow``,
            ``flip`` (change a byte), or a number of bytes that the list states.
        requested: Names of the files that were downloaded.
        lists: Number of lists.
    """

    daemon_threads = True
    request_queue_size = 300  # s5cmd has 256 workers

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _S3)
        self.objects: dict[str, bytes] = {}
        self.faults: dict[str, str | int] = {}
        self.requested: list[str] = []
        self.lists = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no news."""


class _S3(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        bucket, _, name = unquote(url.path).lstrip("/").partition("/")
        assert bucket == BUCKET
        if not name:
            self.list(parse_qs(url.query).get("prefix", [""])[0])
            return
        body, fault = self.server.objects.get(name), self.server.faults.get(name)
        if body is None or fault == "404":
            self.answer(404, b"")
            return
        if self.command == "GET":
            self.server.requested.append(name)
        status, headers = 200, {"ETag": f'"{hashlib.md5(body).hexdigest()}"'}
        if self.headers.get("Range"):
            status = 206
            headers["Content-Range"] = f"bytes 0-{len(body) - 1}/{len(body)}"
        if fault == "flip":
            body = bytes([body[0] ^ 1]) + body[1:]
        self.answer(status, body, headers, fault=fault)

    def list(self, prefix: str) -> None:
        self.server.lists += self.command == "GET"
        files = "".join(
            f"<Contents><Key>{escape(name)}</Key><LastModified>2024-01-01T00:00:00.000Z"
            f"</LastModified><ETag>&quot;{hashlib.md5(body).hexdigest()}&quot;</ETag>"
            f"<Size>{self.listed_size(name)}</Size></Contents>"
            for name, body in sorted(self.server.objects.items())
            if name.startswith(prefix)
        )
        self.answer(
            200,
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{BUCKET}</Name><Prefix>{prefix}</Prefix><KeyCount>1</KeyCount>"
            f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{files}"
            "</ListBucketResult>".encode(),
        )

    def listed_size(self, name: str) -> int:
        fault = self.server.faults.get(name)
        return fault if isinstance(fault, int) else len(self.server.objects[name])

    def answer(
        self,
        status: int,
        body: bytes,
        headers: Mapping[str, str] | None = None,
        *,
        fault: str | int | None = None,
    ) -> None:
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault == "cut":
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
        elif fault == "slow":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(60)
        else:
            self.wfile.write(body)


class Kaggle(ThreadingHTTPServer):
    """The part of Kaggle that kagglehub uses for one dataset.

    Attributes:
        archive: The archive.
        refuses: Whether it answers with status 403.
        tokens: Content of each request's header ``Authorization``.
    """

    daemon_threads = True

    def __init__(self, files: Mapping[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), _Kaggle)
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as file:
            for name, body in files.items():
                file.writestr(name, body)
        self.archive, self.refuses = packed.getvalue(), False
        self.tokens: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Kaggle(BaseHTTPRequestHandler):
    server: Kaggle

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.tokens.append(self.headers.get("Authorization"))
        kind, body = "application/json", json.dumps({"currentVersionNumber": 1}).encode()
        status = 403 if self.server.refuses else 200
        if self.server.refuses:
            body = json.dumps({"code": 403, "message": "Permission denied"}).encode()
        elif self.path.endswith("DownloadDataset"):
            kind, body = "application/zip", self.server.archive
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[None]:
    """Answer requests within a ``with`` block."""
    Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
