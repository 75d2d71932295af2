"""Files of a log: which there are, what pieces they are read in, and their rows as Arrow tables."""

import hashlib
import re
import zlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from raysys.data.columns import find_column, select
from raysys.data.formats import Block, Piece, Source, TextFormat, file_kind
from raysys.data.json_lines import json_blocks
from raysys.data.separated import csv_blocks, csv_names
from raysys.data.text_files import encoding_of, is_wide, open_text
from raysys.errors import DataError
from raysys.storage import Folder, public_uri

BYTES_PER_ROW = 30
"""Of a text log, to guess its rows before it is read."""
ROWS_PER_PIECE = 2_000_000
"""Parquet row groups are gathered into pieces of about this many rows."""
BYTES_PER_PIECE = 64 << 20
"""A text file larger than this is cut into pieces of about this size."""
BATCH_ROWS = 1 << 19
MAX_FILES = 1 << 23
MAX_FILE_BYTES = 1 << 40

_WILD = re.compile(r"[*?\[]")


def list_sources(paths: str | Sequence[str], key: str, format: TextFormat | None = None) -> list[Source]:
    """Return the files behind paths, globs, folders and URIs, in sorted order without repeats.

    Args:
        paths: one or several; a folder stands for the data files in it. In a glob `*`, `?` and `[...]` stay
            within a folder's name and `**` is any number of folders.
        key: the config key, for the message.
        format: how the files are written, where their names do not say it.
    Raises:
        DataError: nothing is found, a format is unknown, or there are more or larger files than can be
            numbered (8 million; 1 TB).
    """
    format = format or TextFormat()
    format_key = f"{key.rpartition('.')[0]}.format"
    found: dict[str, tuple[Folder, str, int]] = {}
    for path in [paths] if isinstance(paths, str) else paths:
        matches = list(_expand(path))
        if not matches:
            raise DataError(
                f"{public_uri(path)}: no file found; {key} names it. See jobs/download.py for the public "
                "data sets"
            )
        for folder, name, size in matches:
            file_kind(name, format, format_key)
            found[f"{folder.uri}/{name}"] = (folder, name, size)
    for uri, (_, _, size) in found.items():
        if size >= MAX_FILE_BYTES or len(found) > MAX_FILES:
            raise DataError(
                f"{uri}: {size} bytes in one of {len(found)} files; expected files below 1 TB and at most "
                f"{MAX_FILES} of them; {key} names it"
            )
    files = [found[uri] for uri in sorted(found)]
    return [Source(*file, format, format_key) for file in _numbered(files)]


def _numbered(files: list[tuple[Folder, str, int]]) -> list[tuple[Folder, str, int, int]]:
    return [(folder, name, number, size) for number, (folder, name, size) in enumerate(files)]


def _expand(path: str) -> Iterator[tuple[Folder, str, int]]:
    parent, pattern = Folder(path).parent
    while _WILD.search(parent.path):
        parent, above = parent.parent
        pattern = f"{above}/{pattern}"
    if _WILD.search(pattern):
        yield from _glob(parent, pattern)
        return
    info = parent.info(pattern)
    if info.type == pafs.FileType.Directory:
        folder = parent / pattern
        for entry in _entries(folder):
            if not entry.base_name.startswith((".", "_")):
                yield folder, entry.base_name, entry.size
    elif info.type == pafs.FileType.File:
        yield parent, pattern, info.size


def _glob(base: Folder, pattern: str) -> Iterator[tuple[Folder, str, int]]:
    expression = re.compile(_translate(pattern))
    for info in _entries(base, recursive="/" in pattern):
        relative = info.path[len(base.path.rstrip("/")) + 1 :]
        if expression.fullmatch(relative):
            folder, _, name = relative.rpartition("/")
            yield (base / folder if folder else base), name, info.size


def _translate(pattern: str) -> str:
    """Return the regular expression of a glob over a path with slashes."""
    expression, at = "", 0
    for match in re.finditer(r"\*\*/|\*\*|\*|\?|\[!?\]?[^\]/]*\]", pattern):
        expression += re.escape(pattern[at : match.start()])
        sign, at = match[0], match.end()
        known = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}
        inner = sign[1:-1].replace("\\", "\\\\").replace("[", "\\[")
        inner = f"^{inner[1:]}" if inner.startswith("!") else inner.replace("^", "\\^", 1)
        expression += known.get(sign, f"[{inner}]")
    return expression + re.escape(pattern[at:])


def _entries(folder: Folder, recursive: bool = False) -> list[pafs.FileInfo]:
    return [info for info in folder.entries(recursive=recursive) if info.type == pafs.FileType.File]


def fingerprint(sources: Sequence[Source]) -> str:
    """Return a digest of names, sizes and times of change: equal means "unchanged", without reading data."""
    lines = [f"{source.uri}\t{mark_of(source)}" for source in sources]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]


def mark_of(source: Source) -> str:
    """Return size and time of change of a file, by which a changed one is told."""
    info = source.folder.info(source.name)
    return f"{info.size} {info.mtime_ns}"


def rows_of(source: Source) -> int:
    """Return the rows of a Parquet file, or a guess for a text file."""
    return sum(_footer(source)[1]) if source.kind == "parquet" else source.size // BYTES_PER_ROW


def schema_of(source: Source, columns: Sequence[str] = ()) -> pa.Schema:
    """Return a file's columns; of JSON those of its first lines, or of as many as show the named columns.

    Raises:
        DataError: what is wrong with a file that cannot be read; an empty file that names no columns.
    """
    if source.kind == "parquet":
        return _footer(source)[0]
    if source.kind == "csv":
        with _readable(source):
            names = csv_names(source)
        if names is None:
            raise DataError(f"{source.uri}: the file is empty; expected a header or rows")
        return pa.schema([(name, pa.string()) for name in names])
    schema: pa.Schema | None = None
    for block in read_piece(Piece(source)):
        found = block.table.schema
        schema = found if schema is None else _merge(schema, found)
        if all(find_column(schema, name) for name in columns):
            break
    if schema is None:
        raise DataError(f"{source.uri}: the file is empty; expected a header or rows")
    return schema


def _merge(one: pa.Schema, other: pa.Schema) -> pa.Schema:
    """Return the columns of both, those inside of structs too."""
    fields = {field.name: field for field in one}
    for field in other:
        known = fields.get(field.name)
        both = known is not None and pa.types.is_struct(known.type) and pa.types.is_struct(field.type)
        if known is not None and both:
            inner = _merge(pa.schema(list(known.type)), pa.schema(list(field.type)))
            fields[field.name] = pa.field(field.name, pa.struct(list(inner)))
        elif known is None or pa.types.is_null(known.type):
            fields[field.name] = field
    return pa.schema(list(fields.values()))


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
    """Return the pieces of one file, in order; a text file is looked into only if it is to be cut."""
    if source.kind == "parquet":
        return _row_groups(source)
    if source.is_compressed or source.format.multiline or source.size <= BYTES_PER_PIECE:
        return [Piece(source)]
    with _readable(source):
        encoding = encoding_of(source)
    if is_wide(encoding):
        return [Piece(source, encoding=encoding)]
    count = -(-source.size // BYTES_PER_PIECE)
    bounds = [source.size * number // count for number in range(count + 1)]
    return [Piece(source, bounds[i], bounds[i + 1], encoding=encoding) for i in range(count)]


def _row_groups(source: Source) -> list[Piece]:
    pieces: list[Piece] = []
    start, first_row, rows = 0, 0, 0
    sizes = _footer(source)[1]
    for group, size in enumerate(sizes):
        rows += size
        if rows >= ROWS_PER_PIECE or group == len(sizes) - 1:
            pieces.append(Piece(source, start, group + 1, first_row))
            start, first_row, rows = group + 1, first_row + rows, 0
    return pieces


def read_piece(piece: Piece, columns: Sequence[str] | None = None) -> Iterator[Block]:
    """Yield the rows of a piece in blocks of bounded size, in file order.

    Args:
        piece: what to read.
        columns: names of the columns wanted, dotted for those in structs, which come out flat so named;
            None: the top-level columns as they are. One that is not there is left out, or null in JSON
            lines, where a key may be missing.
    Returns:
        Blocks; columns of separated text are text, so that leading zeros survive.
    Raises:
        DataError: the file is truncated, damaged or in another encoding or format.
    """
    source = piece.source
    with _readable(source):
        if source.kind == "parquet":
            yield from _parquet_blocks(piece, columns)
            return
        with open_text(source) as stream:
            yield from (csv_blocks if source.kind == "csv" else json_blocks)(piece, stream, columns)


@contextmanager
def _readable(source: Source) -> Generator[None]:
    """Turn the errors of the libraries into one line that names the file."""
    try:
        yield
    except (pa.ArrowException, UnicodeDecodeError, EOFError, OSError, zlib.error) as error:
        raise DataError(
            f"{source.uri}: cannot be read as {source.kind} (truncated or damaged?): {_line(error)}"
        ) from None


def _parquet_blocks(piece: Piece, columns: Sequence[str] | None) -> Iterator[Block]:
    row = piece.first_row
    with piece.source.folder.open_input(piece.source.name) as file:
        parquet = pq.ParquetFile(file)
        groups = list(range(piece.start, piece.stop or parquet.metadata.num_row_groups))
        leaves = None
        if columns is not None:
            paths = [find_column(parquet.schema_arrow, name) for name in columns]
            leaves = [".".join(path) for path in paths if path is not None]
        for batch in parquet.iter_batches(batch_size=BATCH_ROWS, row_groups=groups, columns=leaves):
            table = pa.Table.from_batches([batch])
            rows = np.arange(row, row + table.num_rows, dtype=np.int64)
            row += table.num_rows
            yield Block(table if columns is None else select(table, columns), rows)


def number_rows(rejected: pa.Table, cuts: Mapping[str, Sequence[tuple[int, int]]]) -> pa.Table:
    """Return rejected rows with their row numbers in place of their positions.

    Args:
        rejected: columns `file` (a source's URI) and `row` (a position, see `Piece.first_position`).
        cuts: file -> first position and rows of each of its pieces, in order; the positions of a file that is
            not there are its row numbers.
    """
    rows = np.asarray(rejected.column("row").to_numpy()).copy()
    files = rejected.column("file").combine_chunks().dictionary_encode()
    codes = np.asarray(files.indices.to_numpy())
    for code, uri in enumerate(files.dictionary.to_pylist()):
        if uri in cuts:
            starts, counts = np.array(cuts[uri], dtype=np.int64).T
            before = np.cumsum(counts) - counts
            mine = np.flatnonzero(codes == code)
            rows[mine] += (before - starts)[np.searchsorted(starts, rows[mine], side="right") - 1]
    return rejected.set_column(rejected.schema.get_field_index("row"), "row", pa.array(rows))


def _line(error: BaseException) -> str:
    return str(error).splitlines()[0][:300] if str(error) else type(error).__name__
