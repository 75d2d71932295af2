"""A real local web server that records the ranges that it was asked for, and archives for it."""

import dataclasses
import hashlib
import http.server
import io
import random
import socket
import threading
import zipfile

import pytest

from raysys.data import download

CONTENT = random.Random(11).randbytes(1_024_001)
SIZE = len(CONTENT)
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Site(http.server.ThreadingHTTPServer):
    """Serves `content`; the n-th request is answered by the n-th word of `script`, later ones by the last."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = CONTENT
        self.script: list[str] = ["range"]
        self.ranges: list[str | None] = []
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/archive.zip"

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing when a client leaves early."""


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Site

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        site, asked = self.server, self.headers.get("Range")
        word = site.script[min(len(site.ranges), len(site.script) - 1)]
        site.ranges.append(asked)
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked else 0
        if word.isdigit():
            self.send_error(int(word))
        elif word.startswith("to:"):
            self.send_response(302)
            self.send_header("Location", word[3:])
            self.end_headers()
        elif word == "unsized":
            self.send_response(200)
            self.end_headers()
            self.wfile.write(site.content)
        elif start == 0 or "full" in word:
            self._send(200, site.content, word)
        else:
            self._send(206, site.content[start:], word, start + (word == "shifted"))

    def _send(self, status: int, body: bytes, word: str, start: int = 0) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if status == 206:
            total = len(self.server.content)
            self.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        self.end_headers()
        if "cut" in word or word == "stall":
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            if word == "stall":
                self.server.released.wait(30)
        else:
            self.wfile.write(body)


def zip_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def pin(monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, **changes: object) -> None:
    """Let `content` be the archive that is expected for the data set `name`."""
    digest = hashlib.sha256(content).hexdigest()
    dataset = dataclasses.replace(download.DATASETS[name], size=len(content), sha256=digest, **changes)
    monkeypatch.setitem(download.DATASETS, name, dataset)
