"""Raw rows to valid events: what a log's columns mean, which rows are kept, rejected (with a reason) or
dropped.

A canonical event table has, in this order,

    user_id  string     as logged
    item_id  string     as logged
    time_ns  int64      nanoseconds since 1970 UTC; only used to sort, stored later as `at` in seconds
    order    int64      the log's own order column, else 0
    session, event      string, where the config names them
    rating, weight      float32, where the config names them
    <feature>           string, one per event-level feature
    file     int32      number of the source file
    row      int64      0-based row in that file
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import require, suggest
from raysys.data.parsing import TimeUnit, combine, is_empty, parse_number, parse_time, parse_whole, plain
from raysys.errors import SchemaError

CORE = ("user", "item", "time")
OPTIONAL = ("order", "event", "session", "rating", "weight")


@dataclass(frozen=True, kw_only=True)
class SideFeature:
    """One feature of a side table."""

    kind: Literal["categorical", "multi_valued", "numeric"] = "categorical"
    """categorical: one id; multi_valued: ids joined by `separator`, or a list column; numeric: a number."""
    column: str = ""
    """The column's own name; empty: the feature's name."""
    separator: str = "|"
    """What joins the values of a multi-valued text column."""
    max_values: int = 8
    """Values kept of a multi-valued feature, the first ones."""

    def __post_init__(self) -> None:
        require(self.max_values >= 1, f"max_values: found {self.max_values}, expected >= 1")


@dataclass(frozen=True, kw_only=True)
class SideTable:
    """A table with one row per item or per user."""

    path: str
    """Path, glob or URI; Parquet, CSV, CSV.gz or JSON lines."""
    id: str
    """The column that holds the id."""
    title: tuple[str, ...] = ()
    """Columns that make a readable name in the report, joined by " / "."""
    features: dict[str, SideFeature] = field(default_factory=dict)
    """Feature name -> what it is."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """`[data]`: where the log is, what its columns mean and which events count."""

    events: str | tuple[str, ...]
    """Path, glob, folder or URI of the log, or a list of them: Parquet, CSV, CSV.gz, JSON lines."""
    columns: dict[str, str]
    """Meaning -> column: user, item, time; order, event, session, rating, weight; any other name is an event
    feature."""
    time_unit: TimeUnit = "s"
    """Unit of a numeric time column; ignored where the column is a Parquet timestamp."""
    keep_events: tuple[str, ...] = ()
    """Event types that count; empty: all. Needs `columns.event`."""
    min_rating: float | None = None
    """Events rated lower are dropped. Needs `columns.rating`."""
    items: SideTable | None = None
    """Item side table."""
    users: SideTable | None = None
    """User side table."""
    min_item_events: int = 1
    """Items with fewer events are dropped, together with `min_user_events` to a fixed point (k-core)."""
    min_user_events: int = 1
    """Users with fewer events are dropped."""
    max_reject_fraction: float = 0.01
    """The stage fails when more than this fraction of the rows is rejected."""
    keep_duplicates: bool = False
    """Keep rows that repeat another row in every column; otherwise they are rejected as `duplicate`."""
    partitions: int = 0
    """Number of user partitions; 0: one per 64 MB of log, at least 4. Results do not depend on it."""

    def __post_init__(self) -> None:
        for name in CORE:
            require(name in self.columns, f"columns.{name}: missing; name the log's {name} column")
        for name, column in self.columns.items():
            require(bool(column), f"columns.{name}: found an empty name, expected a column of the log")
        require(bool(self.events), "events: found nothing, expected a path, a glob or a URI")
        require(
            not self.keep_events or "event" in self.columns,
            "keep_events: needs columns.event, which is not set",
        )
        require(
            self.min_rating is None or "rating" in self.columns,
            "min_rating: needs columns.rating, which is not set",
        )
        require(self.min_item_events >= 1, f"min_item_events: found {self.min_item_events}, expected >= 1")
        require(self.min_user_events >= 1, f"min_user_events: found {self.min_user_events}, expected >= 1")
        require(
            0 <= self.max_reject_fraction <= 1,
            f"max_reject_fraction: found {self.max_reject_fraction}, expected 0 to 1",
        )
        require(self.partitions >= 0, f"partitions: found {self.partitions}, expected >= 0")
        clash = {"user_id", "item_id", "time_ns", "place", "at", "role", "cut", "type"} & set(
            self.features
        )
        require(
            not clash, f"columns.{min(clash, default='')}: this name is taken; choose another feature name"
        )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the event-level features, in the config's order."""
        return tuple(name for name in self.columns if name not in CORE + OPTIONAL)

    @property
    def coded_features(self) -> dict[str, str]:
        """Event-level feature -> its column of the event table; the event type is the feature `type`."""
        kind = {"type": "event"} if "event" in self.columns else {}
        return kind | {name: name for name in self.features}


def event_schema(config: DataConfig, kinds=(pa.string(), pa.string())) -> pa.Schema:
    """Return the Arrow schema of a canonical event table under this config."""
    fields = [
        ("user_id", kinds[0]),
        ("item_id", kinds[1]),
        ("time_ns", pa.int64()),
    ]
    fields += [(name, pa.int64()) for name in ("order",) if name in config.columns]
    fields += [(name, pa.string()) for name in ("session", "event") if name in config.columns]
    fields += [(name, pa.float32()) for name in ("rating", "weight") if name in config.columns]
    fields += [(name, pa.string()) for name in config.features]
    return pa.schema([*fields, ("place", pa.int64())])


FILE_SHIFT = 40


def pack_place(file_number: int | np.ndarray, position: np.ndarray) -> np.ndarray:
    """Return (N,) int64: where events stand in the log; ordered by (file, position)."""
    return (np.int64(1) * file_number << FILE_SHIFT) | position


def file_of(place: np.ndarray) -> np.ndarray:
    """Return (N,) int64 file numbers of places."""
    return place >> FILE_SHIFT


def position_of(place: np.ndarray) -> np.ndarray:
    """Return (N,) int64 positions in their files of places."""
    return place & ((1 << FILE_SHIFT) - 1)


REJECTED_SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("file", "reason", "user", "item", "time")] + [("row", pa.int64())]
)


@dataclass(frozen=True)
class Normalised:
    """The outcome of one block of raw rows: events kept, rows rejected, rows dropped on purpose by reason."""

    events: pa.Table
    rejected: pa.Table
    dropped: dict[str, int]


def normalise(raw: pa.Table, config: DataConfig, file: str, file_number: int, first_row: int) -> Normalised:
    """Turn a block of raw rows into canonical events.

    Args:
        raw: the log's own columns, as `check_columns` accepted them.
        config: what the columns mean.
        file: the file's name, for rejected rows and messages.
        file_number: its number among the log's files.
        first_row: row number of the block's first row in the file.
    Raises:
        SchemaError: a column has a type that cannot hold what the config says it holds.
    """
    column = {name: plain(raw.column(source)) for name, source in config.columns.items()}
    values, reason = _read_columns(column, config, file, raw.num_rows)
    good = reason == ""
    keep, dropped = _wanted(values, good, config)
    rows = np.arange(first_row, first_row + raw.num_rows, dtype=np.int64)
    values["place"] = pa.array(pack_place(file_number, rows))
    schema = event_schema(config, (values["user_id"].type, values["item_id"].type))
    events = pa.table([values[name] for name in schema.names], schema=schema).filter(pa.array(keep))
    bad = np.flatnonzero(~good)
    rejected = pa.table(
        {
            "file": pa.array([file] * len(bad), pa.string()),
            "reason": pa.array(reason[bad].tolist(), pa.string()),
            "user": values["user_id"].take(pa.array(bad)).cast(pa.string()),
            "item": values["item_id"].take(pa.array(bad)).cast(pa.string()),
            "time": column["time"].take(pa.array(bad)).cast(pa.string()),
            "row": pa.array(rows[bad]),
        },
        schema=REJECTED_SCHEMA,
    )
    return Normalised(events, rejected, dropped)


def _read_columns(
    column: dict[str, pa.ChunkedArray], config: DataConfig, file: str, count: int
) -> tuple[dict[str, Any], np.ndarray]:
    """Return the canonical columns and (N,) the reason why a row is rejected, "" where it is not."""
    user = column["user"].combine_chunks() if column["user"].type==pa.int64() else to_text(column["user"], file, "user", config)
    item = column["item"].combine_chunks() if column["item"].type==pa.int64() else to_text(column["item"], file, "item", config)
    time_ns, state = parse_time(column["time"], config.time_unit, file, config.columns["time"])
    values: dict[str, Any] = {"user_id": user, "item_id": item, "time_ns": pa.array(time_ns)}
    bad_number = np.zeros(count, dtype=bool)
    if "order" in column:
        order, rest, bad = parse_whole(column["order"], file, config.columns["order"])
        values["order"], bad_number = pa.array(order), bad_number | bad | (rest != 0)
    for name in ("rating", "weight"):
        if name in column:
            number, bad = parse_number(column[name], file, config.columns[name])
            values[name], bad_number = pa.array(number.astype(np.float32)), bad_number | bad
    for name in ("session", "event", *config.features):
        if name in column:
            values[name] = to_text(column[name], file, name, config)
    reasons = {
        "null_user": np.zeros(count,bool) if user.type==pa.int64() else is_empty(user),
        "null_item": np.zeros(count,bool) if item.type==pa.int64() else is_empty(item),
        "null_time": state == 1,
        "unparsable_time": state == 2,
        "time_out_of_range": state == 3,
        "bad_number": bad_number,
    }
    return values, np.select(list(reasons.values()), list(reasons), default="")


def _wanted(
    values: dict[str, Any], good: np.ndarray, config: DataConfig
) -> tuple[np.ndarray, dict[str, int]]:
    """Return which good rows the config wants, and how many it does not, by reason."""
    keep, dropped = good.copy(), dict[str, int]()
    if config.keep_events:
        wanted = pc.is_in(values["event"], value_set=pa.array(config.keep_events, pa.string()))
        unwanted = keep & ~wanted.to_numpy(zero_copy_only=False)
        dropped["event_not_kept"], keep = int(unwanted.sum()), keep & ~unwanted
    if config.min_rating is not None:
        low = keep & (np.asarray(values["rating"]) < config.min_rating)
        dropped["below_min_rating"], keep = int(low.sum()), keep & ~low
    return keep, {reason: count for reason, count in dropped.items() if count}


def check_columns(schema: pa.Schema, config: DataConfig, file: str) -> None:
    """Raise SchemaError where the file lacks a column that the config names, or has it twice."""
    for name, column in config.columns.items():
        if column not in schema.names:
            raise SchemaError(
                f"{file}: no column {column!r}, which data.columns.{name} names"
                f"{suggest(column, schema.names)}"
            )
        if schema.names.count(column) > 1:
            raise SchemaError(
                f"{file}: {schema.names.count(column)} columns are called {column!r}, which "
                f"data.columns.{name} names; expected one, rename the others"
            )


def to_text(column: pa.ChunkedArray, file: str, name: str, config: DataConfig) -> pa.Array:
    """Return a column of ids as text; text and integers are ids, anything else is a SchemaError."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if (
        pa.types.is_null(kind)
        or pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_integer(kind)
    ):
        return combine(column.cast(pa.string()))
    raise SchemaError(
        f"{file}: column {config.columns[name]!r} (data.columns.{name}) has type {kind}, "
        "expected text or integer"
    )
