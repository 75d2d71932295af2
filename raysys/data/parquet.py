"""Parquet files of the data stage."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from raysys.storage import Folder


def write_table(folder: Folder, name: str, table: pa.Table) -> None:
    with folder.open_output(name) as file:
        pq.write_table(table, file, compression="zstd")


def write_columns(folder: Folder, name: str, table: pa.Table) -> None:
    """Write a big sorted table: differences for whole numbers, dictionaries for text.

    Encoding costs as much as everything else that is done to an event, so what does not pay is left out.
    """
    delta, rest = dict[str, str](), list[str]()
    for field in table.schema:
        is_list = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        kind = field.type.value_type if is_list else field.type
        leaf = f"{field.name}.list.element" if is_list else field.name
        if pa.types.is_int64(kind) or pa.types.is_int32(kind):
            delta[leaf] = "DELTA_BINARY_PACKED"
        else:
            rest.append(leaf)
    with folder.open_output(name) as file:
        options: dict[str, Any] = {
            "compression": dict.fromkeys(delta, "none") | dict.fromkeys(rest, "zstd"),
            "use_dictionary": rest,
            "column_encoding": delta,
        }
        pq.write_table(table, file, write_statistics=False, **options)


def read_table(folder: Folder, name: str) -> pa.Table:
    with folder.open_input(name) as file:
        return pq.read_table(file)


def join_tables(folder: Folder, names: Sequence[str], target: str) -> None:
    """Write tables of one schema as one file, in the order given, with one of them in memory at a time."""
    writer: pq.ParquetWriter | None = None
    with folder.open_output(target) as file:
        for name in names:
            table = read_table(folder, name)
            writer = writer or pq.ParquetWriter(file, table.schema, compression="zstd")
            writer.write_table(table)
        if writer:
            writer.close()
