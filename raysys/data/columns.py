"""Columns by name, also those inside of structs: `payload.item.id`."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc


def find_column(fields: pa.Schema | pa.StructType, name: str) -> tuple[str, ...] | None:
    """Return the path to a column, None where there is none; a column literally so named comes first."""
    names = _names(fields)
    if name in names:
        return (name,)
    parts = name.split(".")
    for size in range(len(parts) - 1, 0, -1):
        head = ".".join(parts[:size])
        kind = _type(fields, head) if head in names else None
        if kind is not None and pa.types.is_struct(kind):
            rest = find_column(kind, ".".join(parts[size:]))
            if rest is not None:
                return (head, *rest)
    return None


def column_type(schema: pa.Schema, name: str) -> pa.DataType:
    """Return the type of a column that `find_column` finds, without dictionary encoding."""
    path = find_column(schema, name)
    assert path is not None, name
    fields: Any = schema
    for part in path:
        fields = _type(fields, part)
    return fields.value_type if pa.types.is_dictionary(fields) else fields


def column_names(fields: pa.Schema | pa.StructType) -> Iterator[str]:
    """Yield the names by which columns can be asked for, those of structs dotted."""
    for name in _names(fields):
        yield name
        kind = _type(fields, name)
        if pa.types.is_struct(kind):
            yield from (f"{name}.{inner}" for inner in column_names(kind))


def select(table: pa.Table, columns: Iterable[str], fill: bool = False) -> pa.Table:
    """Return a flat table of the named columns that exist; with `fill` the others are null."""
    found: dict[str, Any] = {}
    for name in columns:
        path = find_column(table.schema, name)
        if path is not None:
            found[name] = follow(table, path)
        elif fill:
            found[name] = pa.nulls(table.num_rows)
    return pa.table(found) if found else table.select([])


def follow(table: pa.Table, path: Sequence[str]) -> pa.ChunkedArray:
    """Return the column at a path; null where any struct on the way is null."""
    column = table.column(table.schema.names.index(path[0]))
    for part in path[1:]:
        column = pc.struct_field(column, part)
    return column


def _names(fields: pa.Schema | pa.StructType) -> list[str]:
    return fields.names if isinstance(fields, pa.Schema) else [one.name for one in fields]


def _type(fields: Any, name: str) -> pa.DataType:
    return fields.field(_names(fields).index(name)).type
