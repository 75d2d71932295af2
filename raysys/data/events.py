"""Raw rows to valid events: which rows are kept, rejected (with a reason) or dropped.

A canonical event table has, in this order,

    user_id  int64 or string   as logged, see `event_schema`
    item_id  int64 or string
    time_ns  int64      nanoseconds since 1970 UTC; only used to sort, stored later as `at` in seconds
    order    int64      the log's own order column, where the config names it
    session, event      string, where the config names them
    rating, weight      float32, where the config names them; weight also under `event_weights`
    <feature>           string, one per event-level feature
    place    int64      number of the source file << 40 | position in that file
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import suggest
from raysys.data.columns import column_names, column_type, find_column
from raysys.data.formats import Block
from raysys.data.log_config import DataConfig
from raysys.data.parsing import combine, is_empty, is_text, missing_of, parse_number, parse_whole, plain
from raysys.data.times import parse_time
from raysys.errors import SchemaError

POSITION_BITS = 40

REJECTED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("file", "reason", "user", "item", "time")] + [("row", pa.int64())]
)


def pack_place(file_number: int, positions: np.ndarray) -> np.ndarray:
    """Return (N,) int64 places that order rows by file, then by position in the file."""
    return positions | np.int64(file_number << POSITION_BITS)


def file_of(place: np.ndarray) -> np.ndarray:
    """Return (N,) int64 file numbers of places."""
    return place >> POSITION_BITS


def position_of(place: np.ndarray) -> np.ndarray:
    """Return (N,) int64 positions of places in their files, see `Piece.first_position`."""
    return place & ((1 << POSITION_BITS) - 1)


def event_schema(config: DataConfig, files: Iterable[pa.Schema] = ()) -> pa.Schema:
    """Return the Arrow schema of a canonical event table.

    Args:
        config: what the columns mean.
        files: the columns of every file of the log. Ids are int64 where the column is an integer (but not
            uint64) in each of them, else text; separated text and JSON lines count as text, because what a
            later row holds is not known. No file at all: text.
    """
    schemas = list(files)
    kinds = {name: _id_type(schemas, config.columns_of(name)[0]) for name in ("user", "item")}
    fields = [("user_id", kinds["user"]), ("item_id", kinds["item"]), ("time_ns", pa.int64())]
    fields += [("order", pa.int64())] if "order" in config.columns else []
    fields += [(name, pa.string()) for name in ("session", "event") if name in config.columns]
    fields += [("rating", pa.float32())] if "rating" in config.columns else []
    fields += [("weight", pa.float32())] if config.has_weight else []
    fields += [(name, pa.string()) for name in config.features]
    return pa.schema([*fields, ("place", pa.int64())])


def _id_type(schemas: Sequence[pa.Schema], column: str) -> pa.DataType:
    kinds = [column_type(schema, column) for schema in schemas]
    whole = [pa.types.is_integer(kind) and kind != pa.uint64() for kind in kinds]
    fits = [one or pa.types.is_null(kind) for one, kind in zip(whole, kinds, strict=True)]
    return pa.int64() if any(whole) and all(fits) else pa.string()


@dataclass(frozen=True)
class Normalised:
    """The outcome of one block of raw rows: events kept, rows rejected, rows dropped on purpose by reason."""

    events: pa.Table
    rejected: pa.Table
    dropped: dict[str, int]


def normalise(block: Block, config: DataConfig, schema: pa.Schema, file: str, file_number: int) -> Normalised:
    """Turn a block of raw rows into canonical events.

    Args:
        block: the log's own columns, as `read_piece` gives and `check_columns` accepts them.
        config: what the columns mean.
        schema: of the events, as `event_schema` decided it for the whole log.
        file: the file's name, for rejected rows and messages.
        file_number: its number among the log's files.
    Returns:
        Events in the order of the block, and rejected rows with their position in the file as `row`.
    Raises:
        SchemaError: a column has a type that cannot hold what the config says it holds.
    """
    column = {name: plain(block.table.column(config.columns_of(name)[0])) for name in config.columns}
    column["time"] = _joined([plain(block.table.column(name)) for name in config.columns_of("time")])
    values, masks = _read_columns(column, block.table, config, schema, file)
    values["place"] = pa.array(pack_place(file_number, block.positions))
    bad = np.logical_or.reduce([mask for mask in masks.values() if mask is not None] or [np.False_])
    keep, dropped = _wanted(values, ~bad if bad.ndim else None, config)
    events = pa.table([values[name] for name in schema.names], schema=schema)
    events = events if keep is None else events.filter(pa.array(keep))
    rejected = [_unreadable(block, file)] if block.unreadable else []
    if bad.any():
        rejected.append(_rejected(values, column["time"], masks, bad, block.positions, file))
    return Normalised(events, pa.concat_tables([REJECTED_SCHEMA.empty_table(), *rejected]), dropped)


def _read_columns(
    column: dict[str, pa.ChunkedArray], raw: pa.Table, config: DataConfig, schema: pa.Schema, file: str
) -> tuple[dict[str, Any], dict[str, np.ndarray | None]]:
    """Return the canonical columns, and reason -> (N,) bool, None where no row has it; the first reason of a
    row counts."""
    user = to_id(column["user"], schema.field("user_id").type, file, "user", config)
    item = to_id(column["item"], schema.field("item_id").type, file, "item", config)
    time_ns, state = parse_time(column["time"], config.clock, file, " ".join(config.columns_of("time")))
    values: dict[str, Any] = {"user_id": user, "item_id": item, "time_ns": pa.array(time_ns)}
    for name in ("session", "event", *config.features):
        if name in column:
            values[name] = to_text(column[name], file, name, config)
    bad_number: np.ndarray | None = None
    if "order" in column:
        order, rest, bad = parse_whole(column["order"], file, config.columns_of("order")[0])
        values["order"] = pa.array(order)
        bad_number = _either(bad, None if rest is None else rest != 0)
    for name in ("rating", "weight"):
        if name in column:
            number, bad = parse_number(column[name], file, config.columns_of(name)[0])
            values[name], bad_number = pa.array(number.astype(np.float32)), _either(bad_number, bad)
    if config.event_weights:
        values["weight"] = _weights(values["event"], values.get("weight"), config)
    negative: np.ndarray | None = None
    for name in config.reject_negative:
        quantity = plain(raw.column(name))
        number, bad = parse_number(quantity, file, name)
        there = None if bad is None else bad & ~_absent(quantity)
        bad_number, negative = _either(bad_number, there), _either(negative, number < 0)
    return values, {
        "null_user": _empty(user),
        "null_item": _empty(item),
        "null_time": None if state is None else state == 1,
        "unparsable_time": None if state is None else state == 2,
        "time_out_of_range": None if state is None else state == 3,
        "unknown_event": _outside(values["event"], config.known_events) if config.known_events else None,
        "bad_number": bad_number,
        "negative_quantity": negative,
    }


def _either(one: np.ndarray | None, other: np.ndarray | None) -> np.ndarray | None:
    if one is None or other is None:
        return other if one is None else one
    return one | other


def _empty(ids: pa.Array) -> np.ndarray | None:
    """Return where an id is null or blank, None where none is."""
    if is_text(ids.type):
        empty = is_empty(ids)
        return empty if empty.any() else None
    return missing_of(ids) if ids.null_count else None


def _absent(column: pa.ChunkedArray) -> np.ndarray:
    return is_empty(combine(column)) if is_text(column.type) else missing_of(column)


def _outside(values: pa.Array, known: Sequence[str]) -> np.ndarray:
    return ~pc.is_in(values, value_set=pa.array(known, pa.string())).to_numpy(zero_copy_only=False)


def _weights(events: pa.Array, weight: pa.Array | None, config: DataConfig) -> pa.Array:
    """Return (N,) float32: what the type of each event weighs, times the log's own weight."""
    names = pa.array(list(config.event_weights), pa.string())
    factors = np.array([*config.event_weights.values(), 1.0], dtype=np.float32)
    place = pc.fill_null(pc.index_in(events, value_set=names), len(names))
    weighed = factors[np.asarray(place.to_numpy(zero_copy_only=False))]
    return pa.array(weighed if weight is None else weighed * np.asarray(weight))


def _joined(columns: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """Return columns as one, their text joined by a space; null where one of them is null or blank."""
    if len(columns) == 1:
        return columns[0]
    texts = [pc.utf8_trim_whitespace(combine(column.cast(pa.string()))) for column in columns]
    filled = [pc.if_else(pa.array(is_empty(text)), pa.scalar(None, pa.string()), text) for text in texts]
    return pa.chunked_array([pc.binary_join_element_wise(*filled, " ")])


def _wanted(
    values: dict[str, Any], good: np.ndarray | None, config: DataConfig
) -> tuple[np.ndarray | None, dict[str, int]]:
    """Return which good rows the config wants (None: all), and how many it does not, by reason."""
    keep, dropped = good, dict[str, int]()
    for reason, unwanted in (
        ("event_not_kept", _outside(values["event"], config.keep_events) if config.keep_events else None),
        (
            "below_min_rating",
            None if config.min_rating is None else np.asarray(values["rating"]) < config.min_rating,
        ),
    ):
        if unwanted is not None:
            unwanted = unwanted if keep is None else unwanted & keep
            dropped[reason] = int(unwanted.sum())
            keep = ~unwanted if keep is None else keep & ~unwanted
    return keep, {reason: count for reason, count in dropped.items() if count}


def _rejected(
    values: dict[str, Any],
    time: pa.ChunkedArray,
    masks: dict[str, np.ndarray | None],
    bad: np.ndarray,
    positions: np.ndarray,
    file: str,
) -> pa.Table:
    """Return the rejected rows, each with its first reason."""
    rows = np.flatnonzero(bad)
    found = {reason: mask[rows] for reason, mask in masks.items() if mask is not None}
    reason = np.select(list(found.values()), list(found), default="")
    return pa.table(
        {
            "file": pa.array([file] * len(rows), pa.string()),
            "reason": pa.array(reason.tolist(), pa.string()),
            "user": values["user_id"].take(pa.array(rows)).cast(pa.string()),
            "item": values["item_id"].take(pa.array(rows)).cast(pa.string()),
            "time": time.take(pa.array(rows)).cast(pa.string()),
            "row": pa.array(positions[rows]),
        },
        schema=REJECTED_SCHEMA,
    )


def _unreadable(block: Block, file: str) -> pa.Table:
    """Return the rows that the reader could not make out, in the order of the file."""
    pairs = [(int(row), reason) for reason, rows in block.unreadable.items() for row in rows]
    rows = [
        {"file": file, "reason": reason, "user": None, "item": None, "time": None, "row": row}
        for row, reason in sorted(pairs)
    ]
    return pa.Table.from_pylist(rows, schema=REJECTED_SCHEMA)


def check_columns(schema: pa.Schema, config: DataConfig, file: str) -> None:
    """Raise SchemaError where the file lacks a column that the config names, or has it twice."""
    for column, key in config.log_columns.items():
        path = find_column(schema, column)
        if path is None:
            raise SchemaError(
                f"{file}: no column {column!r}, which data.{key} names"
                f"{suggest(column, list(column_names(schema)))}"
            )
        if schema.names.count(path[0]) > 1:
            raise SchemaError(
                f"{file}: {schema.names.count(path[0])} columns are called {path[0]!r}, which "
                f"data.{key} names; expected one, rename the others"
            )


def to_id(column: pa.ChunkedArray, kind: pa.DataType, file: str, name: str, config: DataConfig) -> pa.Array:
    """Return a column of ids as text or as int64."""
    if kind == pa.int64() and (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        return combine(column if column.type == kind else column.cast(kind))
    return to_text(column, file, name, config).cast(kind)


def to_text(column: pa.ChunkedArray, file: str, name: str, config: DataConfig) -> pa.Array:
    """Return a column as text; text and integers will do, anything else is a SchemaError."""
    kind = column.type
    if kind == pa.string():
        return combine(column)
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_integer(kind):
        return combine(column.cast(pa.string()))
    raise SchemaError(
        f"{file}: column {config.columns[name]!r} (data.columns.{name}) has type {kind}, "
        "expected text or integer"
    )
