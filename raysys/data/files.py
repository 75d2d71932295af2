"""Files of a log: which there are, what pieces they are read in, and their rows as Arrow tables."""

import gzip
import hashlib
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.fs as pafs
import pyarrow.json as pajson
import pyarrow.parquet as pq

from raysys.errors import DataError
from raysys.storage import Folder, public_uri

ROWS_PER_PIECE = 2_000_000
"""Parquet row groups are gathered into pieces of about this many rows; a text file is one piece."""
BYTES_PER_ROW = 30
"""Of a text log, to guess its rows before it is read."""
HEAD_BYTES = 1 << 20
"""Bytes of a CSV file in which its header is looked for."""


@dataclass(frozen=True)
class Source:
    """One file: its folder, its name, its number in the sorted list, its size in bytes."""

    folder: Folder
    name: str
    number: int
    size: int

    @property
    def uri(self) -> str:
        return f"{self.folder.uri}/{self.name}"


@dataclass(frozen=True)
class Piece:
    """A part of a file that one task reads: row groups [start, stop) of Parquet, or a whole text file."""

    source: Source
    start: int = 0
    stop: int = 0
    first_row: int = 0


def file_format(name: str) -> str:
    """Return parquet, csv or json by the name's ending; DataError for any other."""
    lower = name.lower().removesuffix(".gz")
    for ending, kind in ((".parquet", "parquet"), (".csv", "csv"), (".jsonl", "json"), (".ndjson", "json")):
        if lower.endswith(ending):
            return kind
    raise DataError(f"{name}: unknown format; expected a name ending in .parquet, .csv, .csv.gz or .jsonl")


def list_sources(paths: str | Sequence[str], key: str) -> list[Source]:
    """Return the files behind paths, globs, folders and URIs, in sorted order without repeats.

    Args:
        paths: one or several; a folder stands for the data files in it.
        key: the config key, for the message.
    Raises:
        DataError: nothing is found, or a format is unknown.
    """
    found: dict[str, tuple[Folder, str, int]] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        matches = list(_expand(path))
        if not matches:
            raise DataError(
                f"{public_uri(path)}: no file found; {key} names it. See jobs/download.py for the public "
                "data sets"
            )
        for folder, name, size in matches:
            file_format(name)
            found[f"{folder.uri}/{name}"] = (folder, name, size)
    files = [found[uri] for uri in sorted(found)]
    return [Source(folder, name, number, size) for number, (folder, name, size) in enumerate(files)]


def _expand(path: str) -> Iterator[tuple[Folder, str, int]]:
    parent, pattern = Folder(path).parent
    if any(sign in pattern for sign in "*?["):
        for info in _entries(parent):
            if PurePosixPath(info.base_name).match(pattern):
                yield parent, info.base_name, info.size
        return
    info = parent.filesystem.get_file_info(f"{parent.path}/{pattern}")
    if info.type == pafs.FileType.Directory:
        folder = parent / pattern
        for entry in _entries(folder):
            if not entry.base_name.startswith((".", "_")):
                yield folder, entry.base_name, entry.size
    elif info.type == pafs.FileType.File:
        yield parent, pattern, info.size


def _entries(folder: Folder) -> list[pafs.FileInfo]:
    infos = folder.filesystem.get_file_info(pafs.FileSelector(folder.path, allow_not_found=True))
    return [info for info in infos if info.type == pafs.FileType.File]


def fingerprint(sources: Sequence[Source]) -> str:
    """Return a digest of names, sizes and modification times: equal means "unchanged", without reading the
    data."""
    lines = [f"{source.uri}\t{mark_of(source)}" for source in sources]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def mark_of(source: Source) -> str:
    """Return size and time of change of a file, by which a changed one is told."""
    folder = source.folder
    info = folder.filesystem.get_file_info(f"{folder.path}/{source.name}")
    return f"{info.size} {info.mtime_ns}"


def rows_of(source: Source) -> int:
    """Return the rows of a Parquet file, or a guess for a text file."""
    if file_format(source.name) == "parquet":
        return sum(_footer(source)[1])
    return source.size // BYTES_PER_ROW


def schema_of(source: Source) -> pa.Schema:
    """Return a file's columns; DataError says what is wrong with a file that cannot be read."""
    if file_format(source.name) == "parquet":
        return _footer(source)[0]
    table = next(iter(read_piece(Piece(source))), None)
    if table is None:
        raise DataError(f"{source.uri}: the file is empty; expected a header or rows")
    return table.schema


def _footer(source: Source) -> tuple[pa.Schema, list[int]]:
    try:
        with source.folder.open_input(source.name) as file:
            parquet = pq.ParquetFile(file)
            metadata = parquet.metadata
            return parquet.schema_arrow, [
                metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)
            ]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{source.uri}: not a readable Parquet file (truncated?): {_line(error)}") from None


def pieces_of(source: Source) -> list[Piece]:
    """Return the pieces of one file."""
    if file_format(source.name) != "parquet":
        return [Piece(source)]
    pieces: list[Piece] = []
    start, first_row, rows = 0, 0, 0
    sizes = _footer(source)[1]
    for group, size in enumerate(sizes):
        rows += size
        if rows >= ROWS_PER_PIECE or group == len(sizes) - 1:
            pieces.append(Piece(source, start, group + 1, first_row))
            start, first_row, rows = group + 1, first_row + rows, 0
    return pieces


def read_piece(piece: Piece, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """Yield the rows of a piece as tables of bounded size, in file order.

    Text formats yield text columns wherever a value could be an id, so that leading zeros survive;
    `wrong_width`
    rows of a CSV file raise DataError with the row's number.
    """
    source, folder = piece.source, piece.source.folder
    kind = file_format(source.name)
    try:
        with folder.open_input(source.name) as file:
            if kind == "parquet":
                parquet = pq.ParquetFile(file)
                wanted = [name for name in parquet.schema_arrow.names if columns is None or name in columns]
                groups = list(range(piece.start, piece.stop or parquet.metadata.num_row_groups))
                for batch in parquet.iter_batches(batch_size=1 << 19, row_groups=groups, columns=wanted):
                    yield pa.Table.from_batches([batch])
                return
            stream = gzip.GzipFile(fileobj=file) if source.name.lower().endswith(".gz") else file
            reader = _read_csv if kind == "csv" else _read_json
            for table in reader(stream, source):
                yield (
                    table
                    if columns is None
                    else table.select([n for n in table.schema.names if n in columns])
                )
    except (pa.ArrowException, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{source.uri}: cannot be read as {kind} (truncated or damaged?): {_line(error)}"
        ) from None


def _read_csv(stream: pa.NativeFile | gzip.GzipFile, source: Source) -> Iterator[pa.Table]:
    head = stream.read(HEAD_BYTES)
    header = head.split(b"\n", 1)[0].rstrip(b"\r")
    if not header:
        return
    names = pacsv.read_csv(io.BytesIO(header + b"\n")).schema.names
    stream.seek(0)
    convert = pacsv.ConvertOptions(
        column_types={name: pa.string() for name in names},
        null_values=[""],  # an item may well be called NA or null
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    if len(head) < HEAD_BYTES and not head[len(header) :].strip():
        yield pa.table({name: pa.array([], pa.string()) for name in names})
        return
    for batch in pacsv.open_csv(
        stream, convert_options=convert, parse_options=pacsv.ParseOptions(newlines_in_values=True)
    ):
        yield pa.Table.from_batches([batch])


def _read_json(stream: pa.NativeFile | gzip.GzipFile, source: Source) -> Iterator[pa.Table]:
    data = stream.read()
    if data.strip():
        yield pajson.read_json(
            io.BytesIO(data), read_options=pajson.ReadOptions(block_size=max(1 << 24, len(data)))
        )


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
