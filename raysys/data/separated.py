"""CSV, TSV and any other separated text to tables of text columns, with rows of another width set aside."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from raysys.data.formats import Block, Piece, Source
from raysys.data.text_files import count_lines, first_line, text_blocks
from raysys.errors import DataError

WRONG_WIDTH = "wrong_width"
_STAND_INS = [bytes([code]) for code in (31, 30, 29, 28, *range(1, 9))]
"""Control characters that may stand for a separator of several characters in a block without them."""


def csv_names(source: Source, encoding: str = "") -> list[str] | None:
    """Return the columns' names in order, None where the file has neither a header nor a line."""
    if source.format.columns:
        return list(source.format.columns)
    line = first_line(source, encoding)
    if line is None:
        return None
    data, delimiter = _delimited(line.encode() + b"\n", source)
    return pacsv.read_csv(io.BytesIO(data), parse_options=_parsing(source, delimiter)).schema.names


def csv_blocks(piece: Piece, stream: Any, columns: Sequence[str] | None) -> Iterator[Block]:
    """Yield the rows of a piece; columns are text, and only an empty field without quotes is null.

    Raises:
        DataError: a quoted field runs over the end of its line and `multiline` is not set.
    """
    names = csv_names(piece.source, piece.encoding)
    if names is None:
        return
    wanted = [at for at, name in enumerate(names) if columns is None or name in columns]
    blocks = _without_header(piece, text_blocks(piece, stream))
    if piece.source.format.multiline:
        yield from _multiline(piece, blocks, names, wanted)
        return
    row = piece.first_position
    yield Block(_table([], names, wanted), np.zeros(0, np.int64))  # a quiet hour has a header and no rows
    for offset, data in blocks:
        table, bad = _parse(data, piece.source, offset, names, wanted)
        rows = np.arange(row, row + table.num_rows + len(bad), dtype=np.int64)
        row += len(rows)
        unreadable = {WRONG_WIDTH: rows[bad]} if bad else {}
        yield Block(table, np.delete(rows, bad) if bad else rows, unreadable)


def _without_header(piece: Piece, blocks: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    waiting = piece.source.format.header and piece.start == 0
    for offset, data in blocks:
        block = data
        if waiting:
            block = data.lstrip(b"\r\n")
            waiting = not block
            block = b"".join(re.split(rb"\r\n|\r|\n", block, maxsplit=1)[1:])
        if block:
            yield offset + len(data) - len(block), block


def _parse(
    data: bytes, source: Source, offset: int, names: list[str], wanted: list[int]
) -> tuple[pa.Table, list[int]]:
    """Return the good rows of some lines, and the numbers of the others among all that are not empty."""
    quote = source.format.quote.encode()
    lines = count_lines(data)
    data, delimiter = _delimited(data, source)
    guard = 0
    if quote and data.find(quote, data.rfind(b"\n", 0, len(data) - 1) + 1) >= 0:
        # A quote that the last line leaves open would end with the block, unseen; it takes in this row.
        filler = b"0" + delimiter.encode() * (len(names) - 1) + b"\n"
        data, guard = (data if data.endswith(b"\n") else data + b"\n") + filler, 1
    bad: list[int] = []

    def skip(row: Any) -> str:
        bad.append(row.number - 1)
        return "skip"

    table = pacsv.read_csv(
        pa.BufferReader(data),
        pacsv.ReadOptions(column_names=_numbered(names), use_threads=False, block_size=len(data) + 1),
        _parsing(source, delimiter, skip),
        _conversion(names, wanted),
    )
    rows = table.num_rows + len(bad) - guard
    if rows != lines and rows != sum(1 for line in data.splitlines() if line) - guard:
        raise DataError(
            f"{source.uri}: a quoted field after byte {offset} goes on in the next line; set "
            f'{source.key}.multiline = true, or {source.key}.quote = "" where quotes are plain text'
        )
    table = table.slice(0, table.num_rows - guard)
    separator = source.separator
    if quote and separator != delimiter and quote in data:  # a quoted field may hold the separator itself
        columns = [pc.replace_substring(column, delimiter, separator) for column in table.columns]
        return _table(columns, names, wanted), bad
    return _table(table.columns, names, wanted), bad


def _multiline(
    piece: Piece, blocks: Iterator[tuple[int, bytes]], names: list[str], wanted: list[int]
) -> Iterator[Block]:
    bad: list[int] = []

    def skip(row: Any) -> str:
        bad.append(row.number - 1)
        return "skip"

    row = 0
    with io.BufferedReader(_Joined(data for _, data in blocks)) as stream:
        if not stream.peek(1):
            yield Block(_table([], names, wanted), np.zeros(0, np.int64))
            return
        reader = pacsv.open_csv(
            stream,
            pacsv.ReadOptions(column_names=_numbered(names), use_threads=False),
            _parsing(piece.source, piece.source.separator, skip),
            _conversion(names, wanted),
        )
        for batch in reader:
            rows = np.arange(row, row + batch.num_rows + len(bad), dtype=np.int64)
            rows = rows[~np.isin(rows, bad)][: batch.num_rows]
            row = int(rows[-1]) + 1 if len(rows) else row
            passed = [number for number in bad if number < row]
            del bad[: len(passed)]
            unreadable = {WRONG_WIDTH: np.array(passed, np.int64)} if passed else {}
            yield Block(_table(batch.columns, names, wanted), rows, unreadable)
    if bad:
        yield Block(_table([], names, wanted), np.zeros(0, np.int64), {WRONG_WIDTH: np.array(bad, np.int64)})


class _Joined(io.RawIOBase):
    """Blocks of bytes as one stream."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self.blocks, self.rest = blocks, b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self.rest = self.rest or next(self.blocks, b"")
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size


def _numbered(names: list[str]) -> list[str]:
    return [str(at) for at in range(len(names))]  # a header may name two columns alike


def _parsing(source: Source, delimiter: str, handler: Any = None) -> pacsv.ParseOptions:
    return pacsv.ParseOptions(
        delimiter=delimiter,
        quote_char=source.format.quote or False,
        newlines_in_values=source.format.multiline,
        invalid_row_handler=handler,
    )


def _conversion(names: list[str], wanted: list[int]) -> pacsv.ConvertOptions:
    return pacsv.ConvertOptions(
        # No column at all would mean every column, so one stands for the number of rows.
        include_columns=[str(at) for at in wanted] or ["0"],
        column_types=dict.fromkeys(_numbered(names), pa.string()),
        null_values=[""],  # an item may well be called NA or null
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        check_utf8=False,
    )


def _table(columns: Sequence[Any], names: list[str], wanted: list[int]) -> pa.Table:
    if not columns or not wanted:
        columns = [pa.array([], pa.string()) for _ in wanted]
    return pa.table(list(columns), names=[names[at] for at in wanted])


def _delimited(data: bytes, source: Source) -> tuple[bytes, str]:
    """Return the data with a separator of one byte, and that byte."""
    separator = source.separator.encode()
    if len(separator) == 1:
        return data, source.separator
    stand_in = next((sign for sign in _STAND_INS if sign not in data), None)
    if stand_in is None:
        raise DataError(
            f"{source.uri}: too many control characters to read it with {source.key}.separator = "
            f"{source.separator!r}; is it text?"
        )
    return data.replace(separator, stand_in), stand_in.decode()
