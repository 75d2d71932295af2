"""Columns of text and numbers to arrays, with a mask or a state for what cannot be read."""

from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.errors import SchemaError

EARLIEST_NS = 315_532_800 * 10**9  # 1980-01-01; anything before it is a wrong unit, not a behaviour log
LATEST_NS = 4_102_444_800 * 10**9  # 2100-01-01
UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
LARGEST = 2**62

TimeUnit = Literal["s", "ms", "us", "ns", "iso8601"]


def combine(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a chunked array as one array."""
    if isinstance(column, pa.Array):
        return column
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return a column without dictionary encoding."""
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


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
