"""What a URI opens through pyarrow.fs, how long an object store may take, and what its errors mean."""

import functools
import io
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raysys.errors import ConfigError, StorageError

MAX_ATTEMPTS = 8
"""Tries of one request, the first among them; the waits between them grow to 20 s, about 45 s in all."""
CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 20.0
"""Silence of a connected server after which a request is tried again."""

FIRST_WAIT_S, LAST_WAIT_S = 0.5, 16.0
"""Waits between the tries that are our own: the first, and what doubling it ends at."""

FLAT = ("s3", "gcs")
"""Stores without folders: a file is written without making its folder first, which would take a request for
every level."""
_REFUSED = (
    "ACCESS_DENIED",
    "INVALID_ACCESS_KEY_ID",
    "SIGNATURE_DOES_NOT_MATCH",
    "INVALID_SIGNATURE",
    "NO_SUCH_BUCKET",
    "HTTP status 403",
)


def open_uri(uri: str) -> tuple[pafs.FileSystem, str]:
    """Return the file system of a URI, and the path in it.

    Raises:
        ArrowInvalid, OSError: pyarrow knows no such file system, or cannot open it.
    """
    filesystem, path = pafs.FileSystem.from_uri(uri)
    return (_patient(filesystem) if filesystem.type_name == "s3" else filesystem), path


def _patient(filesystem: Any) -> pafs.FileSystem:
    """Return an S3 file system with our limits, which it keeps in every process that it is sent to."""
    _, (options,) = filesystem.__reduce__()
    return _s3_type()(**options)


@functools.cache
def _s3_type() -> Any:
    """Return the class of S3 file systems with our limits; made when needed, as pyarrow may be built without
    S3."""

    class PatientS3(pafs.S3FileSystem):  # type: ignore[misc] # pyarrow has no types
        def __init__(self, **options: Any) -> None:
            limits = {
                "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
                "connect_timeout": CONNECT_TIMEOUT_S,
                "request_timeout": REQUEST_TIMEOUT_S,
            }
            super().__init__(**{**options, **limits})

        def __reduce__(self) -> tuple[Any, ...]:
            _, (options,) = super().__reduce__()
            return _s3_again, (options,)

    return PatientS3


def _s3_again(options: dict[str, Any]) -> pafs.FileSystem:
    return _s3_type()(**options)


@contextmanager
def open_input(filesystem: pafs.FileSystem, path: str) -> Generator[pa.NativeFile]:
    """Open a file for random reads.

    Raises:
        FileNotFoundError: no such file.
    """
    with filesystem.open_input_file(path) as file:
        yield pa.PythonFile(_PatientReader(file), mode="r") if filesystem.type_name == "s3" else file


class _PatientReader(io.RawIOBase):
    """Reads an S3 file and tries again what pyarrow gives up at once.

    pyarrow lets the body of an answer run into memory of the size that was asked for. Where the page that
    comes with "503 Slow Down" is longer than that, as with the last bytes of a Parquet file, the error is
    one of the memory, which nothing in pyarrow tries again.
    """

    def __init__(self, file: pa.NativeFile) -> None:
        super().__init__()
        self.file, self.size, self.place = file, int(file.size()), 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.size}[whence]
        return self.place

    def readall(self) -> bytes:
        return self.read(-1)

    def read(self, size: int = -1) -> bytes:
        left = max(self.size - self.place, 0)
        wanted = left if size < 0 else min(size, left)
        data = self._read(wanted) if wanted else b""
        self.place += len(data)
        return data

    def _read(self, size: int) -> bytes:
        wait_s = FIRST_WAIT_S
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return self.file.read_at(size, self.place)
            except OSError as error:
                if "Failed to flush response stream" not in str(error):
                    raise
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, LAST_WAIT_S)
        return self.file.read_at(size, self.place)


@contextmanager
def answers(uri: str, *secrets: str) -> Generator[None]:
    """Turn an object store's last word on a request into one line.

    Args:
        uri: what was asked for, without credentials.
        secrets: texts that the line must not show.
    Raises:
        ConfigError: the store refuses: no such bucket, or no right to it.
        StorageError: the store does not answer, or fails, in every try.
    """
    try:
        yield
    except OSError as error:
        reason = " ".join(str(error).split())[:400]
        if "AWS Error" not in reason:
            raise
        for secret in filter(None, secrets):
            reason = reason.replace(secret, "…")
        if any(sign in reason for sign in _REFUSED):
            raise ConfigError(
                f"{uri}: the object store refuses: {reason}; check the bucket's name, the credentials and "
                "their rights"
            ) from None
        raise StorageError(
            f"{uri}: the object store gives no answer in {MAX_ATTEMPTS} tries: {reason}; see that it runs "
            "and can be reached, then run the same command again"
        ) from None
