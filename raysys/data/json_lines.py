"""JSON lines to tables; a line that is not a JSON object is set aside."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json as pajson

from raysys.data.columns import find_column, select
from raysys.data.formats import Block, Piece
from raysys.data.text_files import count_lines, text_blocks

UNPARSABLE = "unparsable_row"
_MISSING = object()


def json_blocks(piece: Piece, stream: Any, columns: Sequence[str] | None) -> Iterator[Block]:
    """Yield the rows of a piece: the named columns (null where no line of a block has them), or all.

    Numbers are numbers and text is text, also where it looks like a time. Where lines of a block disagree
    about a value's type, its columns are text, and "all" are the values inside of objects, by dotted name.
    """
    row, hint = piece.first_position, pa.schema([])
    for _, data in text_blocks(piece, stream):
        if not data.strip():
            continue
        table, hint = _read(data, columns, hint)
        bad: list[int] = []
        if table is None:
            table, bad = _read_by_line(data, columns)
        elif columns is not None:
            table = select(table, columns, fill=True)
        rows = np.arange(row, row + table.num_rows + len(bad), dtype=np.int64)
        row += len(rows)
        yield Block(table, np.delete(rows, bad) if bad else rows, {UNPARSABLE: rows[bad]} if bad else {})


def _read(data: bytes, columns: Sequence[str] | None, hint: pa.Schema) -> tuple[pa.Table | None, pa.Schema]:
    """Return the lines as a table, None where they need a closer look; and what the next block may assume."""
    table = _parse(data, hint)
    if table is None and len(hint):
        hint = pa.schema([])
        table = _parse(data, hint)
    if table is None:
        return None, hint
    texts = _times_as_text(table.schema, columns)
    if texts:  # the reader turns what looks like a time into one, in a way that the config does not say
        fields = {field.name: field for field in [*hint, *texts]}
        again = _parse(data, pa.schema(list(fields.values())))
        return again, pa.schema(list(fields.values())) if again is not None else hint
    return table, hint


def _parse(data: bytes, hint: pa.Schema) -> pa.Table | None:
    try:
        table = pajson.read_json(
            pa.BufferReader(data),
            pajson.ReadOptions(use_threads=False, block_size=len(data) + 1),
            pajson.ParseOptions(explicit_schema=hint if len(hint) else None),
        )
    except pa.ArrowException:
        return None
    lines = count_lines(data)
    if table.num_rows != lines and table.num_rows != sum(1 for line in data.splitlines() if line.strip()):
        return None  # an object on several lines, or several on one
    return table


def _times_as_text(schema: pa.Schema, columns: Sequence[str] | None) -> list[pa.Field]:
    """Return the top-level fields in which times are wanted, with text in their place."""
    tops = None
    if columns is not None:
        paths = (find_column(schema, name) for name in columns)
        tops = {path[0] for path in paths if path is not None}
    texts: list[pa.Field] = []
    for field in schema:
        changed = _with_text(field.type)
        if (tops is None or field.name in tops) and changed != field.type:
            texts.append(pa.field(field.name, changed))
    return texts


def _with_text(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_timestamp(kind):
        return pa.string()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _with_text(field.type)) for field in kind])
    if pa.types.is_list(kind):
        return pa.list_(_with_text(kind.value_type))
    return kind


def _read_by_line(data: bytes, columns: Sequence[str] | None) -> tuple[pa.Table, list[int]]:
    """Return the lines that are objects, every value as text, and the numbers of the others."""
    rows: list[dict[str, Any]] = []
    bad: list[int] = []
    for number, line in enumerate(line for line in data.split(b"\n") if line.strip()):
        try:
            row = json.loads(line, parse_int=str, parse_float=str)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            bad.append(number)
    names = (
        list(columns) if columns is not None else list(dict.fromkeys(n for row in rows for n in _leaves(row)))
    )
    values = {name: _text_column([_value(row, name) for row in rows]) for name in names}
    return pa.table(values) if names else pa.table({"": pa.nulls(len(rows))}).select([]), bad


def _leaves(row: Mapping[str, Any]) -> Iterator[str]:
    """Yield the dotted names of the values that are no objects."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from (f"{name}.{inner}" for inner in _leaves(value))
        else:
            yield name


def _value(row: Mapping[str, Any], name: str) -> Any:
    """Return the value at a dotted name, None where there is none; a key literally so named comes first."""
    value = row.get(name, _MISSING)
    if value is not _MISSING:
        return value
    head, dot, rest = name.rpartition(".")
    while dot:
        inner = row.get(head)
        if isinstance(inner, Mapping):
            found = _value(inner, rest)
            if found is not None:
                return found
        head, dot, more = head.rpartition(".")
        rest = f"{more}.{rest}"
    return None


def _text_column(values: list[Any]) -> pa.Array:
    if any(isinstance(value, list) for value in values):
        lists = [value if value is None or isinstance(value, list) else [value] for value in values]
        texts = [None if one is None else [_text(value) for value in one] for one in lists]
        return pa.array(texts, pa.list_(pa.string()))
    return pa.array([_text(value) for value in values], pa.string())


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
