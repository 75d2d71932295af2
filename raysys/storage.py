"""Folders on a local disk or an object store, through pyarrow.fs; the only place that turns URIs into paths.

A local folder is replaced in one rename. An object store has no rename of folders, so there a folder counts
as finished when its `manifest.json` exists, which is therefore deleted first and written last.
"""

import json
import os
import shutil
import uuid
from collections.abc import Generator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs

from raysys.errors import ConfigError, DataError
from raysys.filesystems import FLAT, answers, open_input, open_uri

MANIFEST = "manifest.json"


def public_uri(text: str) -> str:
    """Return a path or URI without credentials and without its query, where secrets may stand."""
    scheme, mark, rest = text.partition("://")
    if not mark:
        return text
    authority, slash, path = rest.partition("?")[0].partition("/")
    return f"{scheme}://{authority.rpartition('@')[2]}{slash}{path}"


class Folder:
    """A folder named by a local path or a URI (`s3://`, `gs://`, `hdfs://`, `file://`). Cheap to send to
    workers."""

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        """Raises ConfigError where pyarrow knows no file system for the URI."""
        text = str(uri)
        if "://" not in text:
            text = os.path.abspath(os.path.expanduser(text))
        base, mark, query = text.partition("?") if "://" in text else (text, "", "")
        self._base, self._query = base.rstrip("/") or "/", mark + query
        self.uri = public_uri(self._base)
        """Where the folder is, fit for logs: credentials and query are left out."""
        if "://" not in text:
            self.filesystem, self.path = pafs.LocalFileSystem(), self._base
            return
        try:
            with self._answers():
                self.filesystem, self.path = open_uri(self._base + self._query)
        except (pa.ArrowInvalid, OSError) as error:
            reason = str(error).replace(self._query or "\0", "").replace(self._base, self.uri)
            raise ConfigError(f"{self.uri}: not a path or URI that can be opened: {reason}") from None

    def __reduce__(self) -> tuple[type["Folder"], tuple[str]]:
        return Folder, (self._base + self._query,)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __truediv__(self, name: str) -> "Folder":
        return Folder(f"{self._base.rstrip('/')}/{name}{self._query}")

    @property
    def parent(self) -> tuple["Folder", str]:
        """The folder that this one is in, and its name in it."""
        above, _, name = self._base.rpartition("/")
        return Folder((above or "/") + self._query), name

    @property
    def is_local(self) -> bool:
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    def _at(self, name: str) -> str:
        return f"{self.path}/{name}" if name else self.path

    def _answers(self, name: str = "") -> AbstractContextManager[None]:
        """Return a block in which the errors of an object store become one line that names a file."""
        authority = self._base.partition("://")[2].partition("/")[0]
        credentials = authority.rpartition("@")[0]
        secrets = (self._query, credentials, *credentials.split(":"))
        return answers(f"{self.uri}/{name}" if name else self.uri, *secrets)

    def info(self, name: str = "") -> pafs.FileInfo:
        """Return kind, size and time of change of an entry."""
        with self._answers(name):
            return self.filesystem.get_file_info(self._at(name))

    def entries(self, name: str = "", recursive: bool = False) -> list[pafs.FileInfo]:
        """Return what is in a subfolder, or anywhere below it; nothing where it does not exist."""
        selector = pafs.FileSelector(self._at(name), allow_not_found=True, recursive=recursive)
        with self._answers(name):
            return self.filesystem.get_file_info(selector)

    def exists(self, name: str = "") -> bool:
        return self.info(name).type != pafs.FileType.NotFound

    def names(self, name: str = "") -> list[str]:
        """Return the sorted base names of the entries of a subfolder; none where it does not exist."""
        return sorted(info.base_name for info in self.entries(name))

    def files(self) -> list[str]:
        """Return the sorted paths, relative to the folder, of every file below it."""
        infos = self.entries(recursive=True)
        return sorted(i.path[len(self.path) :].lstrip("/") for i in infos if i.type == pafs.FileType.File)

    def size(self, name: str) -> int:
        return int(self.info(name).size or 0)

    @contextmanager
    def open_input(self, name: str) -> Generator[pa.NativeFile]:
        """Open a file for random reads; DataError names a file that is not there."""
        with self._answers(name), ExitStack() as stack:
            try:
                file = stack.enter_context(open_input(self.filesystem, self._at(name)))
            except FileNotFoundError:
                raise DataError(f"{self.uri}/{name}: no such file") from None
            yield file

    @contextmanager
    def open_output(self, name: str) -> Generator[pa.NativeFile]:
        """Open a file for writing, with its folders where they are missing."""
        path = self._at(name)
        with self._answers(name):
            self._make_parent(path)
            with self.filesystem.open_output_stream(path, compression=None) as file:
                yield file

    def _make_parent(self, path: str) -> None:
        if self.filesystem.type_name not in FLAT:
            self.filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)

    def copy(self, name: str, target: "Folder", target_name: str) -> None:
        """Copy a file into another folder of the same file system.

        On a local disk both names share the bytes, so neither may be written again, only deleted or replaced.
        """
        path = target._at(target_name)
        with target._answers(target_name):
            target._make_parent(path)
            if self.is_local:
                # A task that is tried again finds its link: written over, it would empty the file that it
                # shares.
                Path(path).unlink(missing_ok=True)
                try:
                    os.link(self._at(name), path)
                    return
                except OSError:  # another disk, or one without hard links
                    pass
            self.filesystem.copy_file(self._at(name), path)

    def read_bytes(self, name: str) -> bytes:
        with self.open_input(name) as file:
            return file.read()

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file so that a reader sees the old content or the new one, never a part."""
        if not self.is_local:
            with self.open_output(name) as file:
                file.write(data)
            return
        target = Path(self._at(name))
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}")
        temporary.write_bytes(data)
        os.replace(temporary, target)

    def read_json(self, name: str) -> Any:
        try:
            return json.loads(self.read_bytes(name))
        except ValueError as error:
            raise DataError(f"{self.uri}/{name}: not valid JSON: {error}") from None

    def write_json(self, name: str, value: Any) -> None:
        text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        self.write_bytes(name, text.encode())

    def delete(self) -> None:
        """Delete the folder and everything below it; nothing happens where it does not exist."""
        with self._answers():
            if self.exists():
                self.filesystem.delete_dir(self.path)

    def delete_file(self, name: str) -> None:
        """Delete a file that exists."""
        with self._answers(name):
            self.filesystem.delete_file(self._at(name))


@contextmanager
def replacing(target: Folder) -> Generator[Folder]:
    """Yield a folder to write into; it becomes `target` when the block ends and vanishes when the block
    fails."""
    if not target.is_local:
        if target.exists(MANIFEST):
            target.delete_file(MANIFEST)
        target.delete()
        yield target
        return
    path = Path(target.path)
    for leftover in path.parent.glob(f".{path.name}.partial-*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staged = path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
    staged.mkdir(parents=True)
    try:
        yield Folder(staged)
        if path.exists():
            old = path.parent / f".{path.name}.partial-{uuid.uuid4().hex[:8]}"
            path.rename(old)
            staged.rename(path)
            shutil.rmtree(old)
        else:
            staged.rename(path)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
