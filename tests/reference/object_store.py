"""An S3 server on this machine, as a process of its own, and a door to it that fails now and then.

The server is moto's, which knows S3's protocol from another source than the code under test.
"""

import http.client
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import zlib
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUCKET = "bucket"
KEY, SECRET = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY"
FATES = (("refuse", 2), ("drop", 1), ("slow", 1))
"""What happens to a request, and how many times before it goes through."""


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def query(port):
    """Return what a URI needs behind its path to reach a server here instead of at Amazon."""
    return f"?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1&allow_delayed_open=true"


class ObjectStore:
    """A server with one empty bucket; `with` stops it."""

    def __init__(self, log):
        self.port = free_port()
        with open(log, "w") as told:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                stdout=told,
                stderr=told,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                request = urllib.request.Request(f"http://127.0.0.1:{self.port}/{BUCKET}", method="PUT")
                urllib.request.urlopen(request, timeout=10).close()
                return
            except OSError:
                assert time.monotonic() < deadline, log.read_text()
                assert self.process.poll() is None, log.read_text()
                time.sleep(0.05)

    def uri(self, path, port=0):
        """Return a URI with credentials, as this test process and Ray's workers share no environment."""
        return f"s3://{KEY}:{SECRET}@{BUCKET}/{path}{query(port or self.port)}"

    def pause(self):
        """Let every request wait from now on: the server is there and says nothing."""
        self.process.send_signal(signal.SIGSTOP)

    def close(self):
        self.process.kill()
        self.process.wait(30)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Door:
    """A server in front of a store that answers some requests badly, by a rule without chance.

    A request is told by its method and its target. By the checksum of both, `share` of all requests are
    refused with 503 the first two times, as many get no answer the first time, as many a slow one, and the
    rest goes through at once. `times`, where it is set, is how many times a bad one stays bad.
    """

    def __init__(self, store, share=0.02, slow_s=0.3):
        self.share, self.times = share, 0
        self.seen, self.count, self.lock = Counter(), Counter(), threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler(store.port, slow_s))
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def fate(self, method, target):
        """Return what happens to a request: "pass", "refuse", "slow" or "drop"."""
        with self.lock:
            before = self.seen[method, target]
            self.seen[method, target] += 1
            place = zlib.crc32(f"{method} {target}".encode()) / 2**32 / self.share
            fate, times = next((fate for i, fate in enumerate(FATES) if place < i + 1), ("pass", 0))
            if before >= (self.times or times):
                fate = "pass"
            self.count[fate] += 1
            return fate

    def _handler(self, port, slow_s):
        door = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_):
                pass

            def handle_any(self):
                body = self.body()
                fate = door.fate(self.command, self.path)
                if fate in ("slow", "drop"):
                    time.sleep(slow_s)
                if fate == "drop":
                    self.close_connection = True
                elif fate == "refuse":
                    self.answer(
                        503, {}, b"<Error><Code>SlowDown</Code><Message>less, please</Message></Error>"
                    )
                else:
                    self.forward(body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_any  # noqa: N815 # http.server's names

            def body(self):
                if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
                    return self.rfile.read(int(self.headers.get("Content-Length", 0)))
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)

            def forward(self, body):
                behind = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                try:
                    left_out = ("expect", "transfer-encoding", "content-length")
                    headers = {n: v for n, v in self.headers.items() if n.lower() not in left_out}
                    behind.request(self.command, self.path, body, headers)
                    answer = behind.getresponse()
                    self.answer(answer.status, dict(answer.getheaders()), answer.read())
                finally:
                    behind.close()

            def answer(self, status, headers, body):
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                        self.send_header(name, value)
                length = headers.get("Content-Length", headers.get("content-length", len(body)))
                self.send_header("Content-Length", str(length if self.command == "HEAD" else len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

        return Handler

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(10)
