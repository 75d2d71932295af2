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
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import require, suggest
from raysys.errors import SchemaError

CORE = ("user", "item", "time")
OPTIONAL = ("order", "event", "session", "rating", "weight")
EARLIEST_NS = 315_532_800 * 10**9  # 1980-01-01; anything before it is a wrong unit, not a behaviour log
LATEST_NS = 4_102_444_800 * 10**9  # 2100-01-01
UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
LARGEST = 2**62

TimeUnit = Literal["s", "ms", "us", "ns", "iso8601"]


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
        clash = {"user_id", "item_id", "time_ns", "file", "row", "partition", "at", "role", "cut"} & set(
            self.features
        )
        require(
            not clash, f"columns.{min(clash, default='')}: this name is taken; choose another feature name"
        )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the event-level features, in the config's order."""
        return tuple(name for name in self.columns if name not in CORE + OPTIONAL)


def event_schema(config: DataConfig) -> pa.Schema:
    """Return the Arrow schema of a canonical event table under this config."""
    fields = [
        ("user_id", pa.string()),
        ("item_id", pa.string()),
        ("time_ns", pa.int64()),
        ("order", pa.int64()),
    ]
    fields += [(name, pa.string()) for name in ("session", "event") if name in config.columns]
    fields += [(name, pa.float32()) for name in ("rating", "weight") if name in config.columns]
    fields += [(name, pa.string()) for name in config.features]
    return pa.schema([*fields, ("file", pa.int32()), ("row", pa.int64())])


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
    column = {name: raw.column(source) for name, source in config.columns.items()}
    reasons = np.zeros(raw.num_rows, dtype=np.int8)
    names = ["", "null_user", "null_item", "null_time", "unparsable_time", "time_out_of_range", "bad_number"]
    user = to_text(column["user"], file, "user", config)
    item = to_text(column["item"], file, "item", config)
    time_ns, time_state = parse_time(column["time"], config.time_unit, file, config.columns["time"])
    values: dict[str, pa.Array | pa.ChunkedArray] = {"user_id": user, "item_id": item}
    values["time_ns"] = pa.array(time_ns)
    bad_number = np.zeros(raw.num_rows, dtype=bool)
    values["order"] = pa.array(np.zeros(raw.num_rows, dtype=np.int64))
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
    for code, mask in (
        (6, bad_number),
        (5, time_state == 3),
        (4, time_state == 2),
        (3, time_state == 1),
        (2, is_empty(item)),
        (1, is_empty(user)),
    ):
        reasons[mask] = code
    good = reasons == 0
    dropped: dict[str, int] = {}
    keep = good.copy()
    if config.keep_events:
        wanted = pc.is_in(values["event"], value_set=pa.array(config.keep_events, pa.string()))
        unwanted = keep & ~wanted.to_numpy(zero_copy_only=False)
        dropped["event_not_kept"], keep = int(unwanted.sum()), keep & ~unwanted
    if config.min_rating is not None:
        low = keep & (np.asarray(values["rating"]) < config.min_rating)
        dropped["below_min_rating"], keep = int(low.sum()), keep & ~low
    rows = np.arange(first_row, first_row + raw.num_rows, dtype=np.int64)
    values["file"] = pa.array(np.full(raw.num_rows, file_number, dtype=np.int32))
    values["row"] = pa.array(rows)
    schema = event_schema(config)
    events = pa.table([values[name] for name in schema.names], schema=schema).filter(pa.array(keep))
    bad_rows = np.flatnonzero(~good)
    rejected = pa.table(
        {
            "file": pa.array([file] * len(bad_rows), pa.string()),
            "reason": pa.array([names[code] for code in reasons[bad_rows]], pa.string()),
            "user": user.take(pa.array(bad_rows)),
            "item": item.take(pa.array(bad_rows)),
            "time": column["time"].take(pa.array(bad_rows)).cast(pa.string()),
            "row": pa.array(rows[bad_rows]),
        },
        schema=REJECTED_SCHEMA,
    )
    return Normalised(events, rejected, {reason: n for reason, n in dropped.items() if n})


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


def combine(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a chunked array as one array."""
    if isinstance(column, pa.Array):
        return column
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def is_empty(text: pa.Array) -> np.ndarray:
    """Return (N,) bool: null, or nothing but white space."""
    blank = pc.equal(pc.utf8_trim_whitespace(text), "")
    return np.asarray(pc.fill_null(blank, True).to_numpy(zero_copy_only=False))


def parse_number(column: pa.ChunkedArray, file: str, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return float64 values and a mask of those that are null, no number or not finite.

    Raises:
        SchemaError: the column holds neither numbers nor text.
    """
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(combine(column.cast(pa.string())))
        pattern = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
        fits = pc.fill_null(pc.match_substring_regex(text, pattern), False)
        values = pc.if_else(fits, text, pa.scalar("nan")).cast(pa.float64())
    elif (
        pa.types.is_integer(kind)
        or pa.types.is_floating(kind)
        or pa.types.is_decimal(kind)
        or pa.types.is_null(kind)
    ):
        values = combine(column.cast(pa.float64(), safe=False))  # beyond 2**53 the nearest number
    else:
        raise SchemaError(f"{file}: column {name!r} has type {kind}, expected numbers")
    numbers = np.asarray(pc.fill_null(values, np.nan).to_numpy(zero_copy_only=False))
    return numbers, ~np.isfinite(numbers)


def parse_whole(column: pa.ChunkedArray, file: str, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return numbers as their whole part and the rest, and a mask of what is null, no number or not finite.

    Returns:
        (N,) int64, exact for integers, also for those in text that a float64 cannot hold, and held to
        +-2**62 beyond it; (N,) float64 in [0, 1); (N,) bool.
    Raises:
        SchemaError: the column holds neither numbers nor text.
    """
    kind = column.type
    if pa.types.is_integer(kind):
        missing = np.asarray(combine(column.is_null()).to_numpy(zero_copy_only=False))
        whole = np.asarray(combine(pc.fill_null(column, 0)).to_numpy(zero_copy_only=False))
        whole = (np.minimum(whole, LARGEST) if kind == pa.uint64() else whole).astype(np.int64)
        return whole, np.zeros(len(whole)), missing
    numbers, bad = parse_number(column, file, name)
    parts = np.divmod(np.clip(np.where(bad, 0.0, numbers), -float(LARGEST), float(LARGEST)), 1.0)
    whole, rest = parts[0].astype(np.int64), parts[1]
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        text = pc.utf8_trim_whitespace(combine(column.cast(pa.string())))
        short = pc.fill_null(pc.match_substring_regex(text, r"^-?[0-4]?\d{1,18}$"), False)
        exact = np.asarray(pc.if_else(short, text, pa.scalar("0")).cast(pa.int64()).to_numpy())
        whole = np.where(np.asarray(short.to_numpy(zero_copy_only=False)), exact, whole)
    return whole, rest, bad


def parse_time(
    column: pa.ChunkedArray, unit: TimeUnit, file: str, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Return times and their state.

    Returns:
        (N,) int64 nanoseconds since 1970 UTC (0 where unusable) and (N,) int8: 0 good, 1 null, 2 unparsable,
        3 outside 1980 to 2100.
    Raises:
        SchemaError: the column's type cannot be a time in this unit.
    """
    kind = column.type
    missing = np.asarray(combine(column.is_null()).to_numpy(zero_copy_only=False))
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if is_text:
        missing = missing | is_empty(combine(column.cast(pa.string())))
    if unit == "iso8601" and not pa.types.is_timestamp(kind):
        if not is_text and not pa.types.is_null(kind):
            raise SchemaError(
                f"{file}: column {name!r} has type {kind}, expected ISO 8601 text; check data.time_unit"
            )
        exact, bad = parse_iso8601(combine(column.cast(pa.string())))
        outside = (exact < EARLIEST_NS) | (exact >= LATEST_NS)
    else:
        if pa.types.is_timestamp(kind):
            column, factor = column.cast(pa.int64()), UNIT_NS[kind.unit]
        else:
            factor = UNIT_NS[unit]
        whole, rest, bad = parse_whole(column, file, name)
        outside = (whole < EARLIEST_NS // factor) | (whole >= LATEST_NS // factor)
        exact = np.where(outside, 0, whole) * factor + np.round(rest * factor).astype(np.int64)
    state = np.select([missing, bad, outside], [1, 2, 3], default=0).astype(np.int8)
    return np.where(state == 0, exact, 0), state


def parse_iso8601(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return (N,) int64 nanoseconds UTC and a mask of what cannot be read; without a zone a time counts as
    UTC."""
    from datetime import UTC, datetime

    codes = text.dictionary_encode()
    unique = codes.dictionary.to_pylist()
    values, bad = np.zeros(len(unique) + 1, dtype=np.int64), np.zeros(len(unique) + 1, dtype=bool)
    bad[-1] = True  # nulls
    for i, value in enumerate(unique):
        try:
            moment = datetime.fromisoformat(value.strip())
        except ValueError:
            bad[i] = True
            continue
        moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
        since = round((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds() * 1_000_000) * 1000
        values[i] = min(max(since, -LARGEST), LARGEST)  # years that int64 nanoseconds cannot hold
    index = np.asarray(pc.fill_null(codes.indices, len(unique)).to_numpy(zero_copy_only=False))
    return values[index], bad[index]
