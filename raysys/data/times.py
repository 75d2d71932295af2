"""Times in any notation to nanoseconds since 1970 UTC: numbers in a unit, ISO 8601, strptime, time zones."""

import re
import zoneinfo
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.parsing import LARGEST, combine, is_empty, is_text, missing_of, parse_whole
from raysys.errors import SchemaError

EARLIEST_NS = 315_532_800 * 10**9  # 1980-01-01; anything before it is a wrong unit, not a behaviour log
LATEST_NS = 4_102_444_800 * 10**9  # 2100-01-01
UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}

TimeUnit = Literal["s", "ms", "us", "ns", "iso8601"]

_YEAR = re.compile(r"%[YyGcxDs]")
_PLAIN = re.compile(r"(%[YmdHMSb]|[^%A-Za-z0-9\s]|[TZ ])+")
"""Formats that Arrow reads as Python does, but for dates that do not exist."""
_FRACTION, _OFFSET = r"\.(?P<fraction>\d{1,6})", r"(?P<zone>Z|[+-][01]\d:?[0-5]\d)"
_TAIL = re.compile(r"(?P<head>.*?)(?P<fraction>\.%f)?(?P<zone>\s*%z)?", re.DOTALL)
_ISO = (
    r"^(19[89]\d|20\d\d)-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])"
    r"([T ]([01]\d|2[0-3])(:[0-5]\d(:[0-5]\d(\.\d{1,9})?)?)?%s)?$"
)
_NO_ZONE, _WITH_ZONE = _ISO % "", _ISO.replace(")?$", ")$") % r"(Z|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)"


@dataclass(frozen=True)
class Clock:
    """How the log writes its times.

    Attributes:
        unit: unit of numbers, or iso8601.
        format: strptime format of text; empty: none.
        zone: IANA name of the zone of times that name none; numbers are UTC always.
        year: year of times whose format has none; 0: none.
    """

    unit: TimeUnit = "s"
    format: str = ""
    zone: str = "UTC"
    year: int = 0

    @property
    def is_text(self) -> bool:
        return bool(self.format) or self.unit == "iso8601"


def has_year(format: str) -> bool:
    """Return whether a strptime format holds the year."""
    return bool(_YEAR.search(format.replace("%%", "")))


def parse_time(
    column: pa.ChunkedArray, clock: Clock, file: str, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """Return times and their state.

    Returns:
        (N,) int64 nanoseconds since 1970 UTC (0 where unusable) and (N,) int8: 0 good, 1 null, 2 unparsable,
        3 outside 1980 to 2100; None where all are good.
    Raises:
        SchemaError: the column's type cannot be a time in this unit.
    """
    kind = column.type
    if pa.types.is_timestamp(kind):
        exact, bad, outside = _timestamps(column, clock)
    elif clock.is_text:
        dates = pa.types.is_date(kind) or (bool(clock.format) and pa.types.is_integer(kind))
        if not (is_text(kind) or dates or pa.types.is_null(kind)):
            raise SchemaError(
                f"{file}: column {name!r} has type {kind}, expected "
                f"{'text' if clock.format else 'ISO 8601 text'}; check data.time_unit and data.time_format"
            )
        exact, bad = parse_text(combine(column.cast(pa.string())), clock)
        outside = (exact < EARLIEST_NS) | (exact >= LATEST_NS)
    else:
        exact, bad, outside = _scaled(column, UNIT_NS[clock.unit], file, name)
    if bad is None and not outside.any():
        return exact, None
    missing = missing_of(column)
    if is_text(kind):
        missing = missing | is_empty(combine(column))
    bad = np.zeros(len(exact), dtype=bool) if bad is None else bad
    state = np.select([missing, bad, outside], [1, 2, 3], default=0).astype(np.int8)
    return np.where(state == 0, exact, 0), state if state.any() else None


def _scaled(
    column: pa.ChunkedArray, factor: int, file: str, name: str
) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    whole, rest, bad = parse_whole(column, file, name)
    outside = (whole < EARLIEST_NS // factor) | (whole >= LATEST_NS // factor)
    if outside.any():
        whole = np.where(outside, 0, whole)
    exact = whole * factor
    return (exact if rest is None else exact + np.round(rest * factor).astype(np.int64)), bad, outside


def _timestamps(column: pa.ChunkedArray, clock: Clock) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Read a column that knows its own unit; without a zone it is in the clock's."""
    kind = column.type
    exact, bad, outside = _scaled(column.cast(pa.int64()), UNIT_NS[kind.unit], "", "")
    return (exact if kind.tz else to_utc(exact, clock.zone)), bad, outside


def parse_text(text: pa.Array, clock: Clock) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (N,) int64 nanoseconds UTC and a mask of what cannot be read, None where all can.

    Nanoseconds are exact in ISO 8601; years beyond int64 nanoseconds are held to +-2**62.
    """
    if not clock.format:
        return _parse_iso8601(text, clock.zone)
    format = clock.format
    if clock.year:
        text = pc.binary_join_element_wise(str(clock.year), pc.utf8_trim_whitespace(text), " ")
        format = f"%Y {format}"
    exact, known = np.zeros(len(text), dtype=np.int64), np.zeros(len(text), dtype=bool)
    tail = _TAIL.fullmatch(format)
    if tail and _PLAIN.fullmatch(tail["head"]) and text.null_count < len(text):
        head, rest = _split(text, tail["fraction"], tail["zone"])
        moments = _arrow_strptime(head, tail["head"])
        known = np.asarray(moments.is_valid().to_numpy(zero_copy_only=False))
        seconds = np.asarray(pc.fill_null(moments, 0).to_numpy(zero_copy_only=False))
        local = np.clip(seconds, -LARGEST // 10**9, LARGEST // 10**9) * 10**9 + rest
        exact = local if tail["zone"] else to_utc(local, clock.zone)
    return _complete(
        text, exact, pa.array(known), clock.zone, lambda value: datetime.strptime(value.strip(), format)
    )


def _split(text: pa.Array, fraction: str | None, zone: str | None) -> tuple[pa.Array, np.ndarray]:
    """Return text without its fraction of a second and offset from UTC, null where it lacks them.

    Also returns (N,) int64 nanoseconds: the fraction minus the offset.
    """
    rest = np.zeros(len(text), dtype=np.int64)
    if not fraction and not zone:
        return text, rest
    space = r"\s+" if zone and zone != "%z" else ""
    pattern = rf"^(?P<head>.*?){_FRACTION if fraction else ''}{space}{_OFFSET if zone else ''}$"
    parts = pc.extract_regex(text, pattern)
    if fraction:
        digits = pc.utf8_rpad(pc.fill_null(pc.struct_field(parts, "fraction"), "0"), 6, "0")
        rest += np.asarray(digits.cast(pa.int64())) * 1000
    if zone:
        codes = pc.fill_null(pc.struct_field(parts, "zone"), "Z").dictionary_encode()
        rest -= _offsets_of(codes.dictionary.to_pylist())[np.asarray(codes.indices)]
    return pc.struct_field(parts, "head"), rest


def _offsets_of(zones: list[str]) -> np.ndarray:
    """Return (Z,) int64 nanoseconds of offsets such as Z, +0200 and -04:30."""
    seconds = [0 if zone == "Z" else int(zone[1:3]) * 3600 + int(zone[-2:]) * 60 for zone in zones]
    signs = [-1 if zone.startswith("-") else 1 for zone in zones]
    return np.array(seconds, dtype=np.int64) * np.array(signs, dtype=np.int64) * 10**9


def _arrow_strptime(text: pa.Array, format: str) -> pa.Array:
    """Return seconds, null where Arrow cannot read a text or reads a date that does not exist."""
    moments = pc.strptime(text, format=format, unit="s", error_is_null=True)
    # Arrow takes 31 February for 2 March and a 61st second for the next minute's first.
    doubtful = pc.or_(pc.less_equal(pc.day(moments), 3), pc.less_equal(pc.second(moments), 1))
    rows = pc.indices_nonzero(pc.fill_null(doubtful, False))
    seconds = moments.cast(pa.int64())
    if len(rows):
        same = pc.equal(pc.strftime(moments.take(rows), format=format), text.take(rows))
        wrong = np.zeros(len(text), dtype=bool)
        wrong[np.asarray(rows)[~np.asarray(same.to_numpy(zero_copy_only=False))]] = True
        seconds = pc.if_else(pa.array(wrong), pa.scalar(None, pa.int64()), seconds)
    return seconds


def _parse_iso8601(text: pa.Array, zone: str) -> tuple[np.ndarray, np.ndarray | None]:
    for kind in (pa.timestamp("ns"), pa.timestamp("ns", tz="UTC")):
        try:
            moments = text.cast(kind)
        except pa.ArrowInvalid:
            continue
        exact = np.asarray(pc.fill_null(moments.cast(pa.int64()), 0).to_numpy(zero_copy_only=False))
        return to_utc(exact, "UTC" if kind.tz else zone), missing_of(moments) if moments.null_count else None
    exact, known = np.zeros(len(text), dtype=np.int64), np.zeros(len(text), dtype=bool)
    for pattern, kind in ((_NO_ZONE, pa.timestamp("ns")), (_WITH_ZONE, pa.timestamp("ns", tz="UTC"))):
        fits = pc.fill_null(pc.match_substring_regex(text, pattern), False)
        rows = np.asarray(pc.indices_nonzero(fits))
        try:
            values = np.asarray(text.take(pa.array(rows)).cast(kind).cast(pa.int64()))
        except pa.ArrowInvalid:
            continue  # a day that does not exist is among them; the slow way finds it
        exact[rows] = to_utc(values, "UTC" if kind.tz else zone)
        known[rows] = True
    return _complete(text, exact, pa.array(known), zone, lambda value: datetime.fromisoformat(value.strip()))


def _complete(
    text: pa.Array, exact: np.ndarray, known: pa.Array, zone: str, parse: Callable[[str], datetime]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Parse what is not known yet, each distinct text once."""
    rows = np.flatnonzero(~np.asarray(known.to_numpy(zero_copy_only=False)))
    if not len(rows):
        return exact, None
    codes = text.take(pa.array(rows)).dictionary_encode()
    unique = codes.dictionary.to_pylist()
    values, failed = np.zeros(len(unique) + 1, dtype=np.int64), np.zeros(len(unique) + 1, dtype=bool)
    failed[-1] = True  # nulls
    home = zoneinfo.ZoneInfo(zone)
    for i, value in enumerate(unique):
        try:
            moment = parse(value)
        except ValueError:
            failed[i] = True
            continue
        values[i] = _nanoseconds(moment if moment.tzinfo else moment.replace(tzinfo=home))
    index = np.asarray(pc.fill_null(codes.indices, len(unique)).to_numpy(zero_copy_only=False))
    exact, bad = exact.copy(), np.zeros(len(exact), dtype=bool)
    exact[rows], bad[rows] = values[index], failed[index]
    return exact, bad


def _nanoseconds(moment: datetime) -> int:
    since = moment.replace(tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)
    with suppress(OverflowError):  # the first or last day that there is, out of range whatever the zone
        since -= moment.utcoffset() or timedelta(0)
    exact = (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000
    return min(max(exact, -LARGEST), LARGEST)  # years that int64 nanoseconds cannot hold


def to_utc(local: np.ndarray, zone: str) -> np.ndarray:
    """Return (N,) int64 nanoseconds UTC of wall-clock nanoseconds in a zone.

    As in Python with fold 0: of a wall-clock time that comes twice the first counts, and one that a change of
    the clock skips is read with the offset before the change, so that it moves forward by the gap.
    """
    if zone == "UTC":
        return local
    starts, offsets = _offsets(zone)
    if not len(starts):
        return local - offsets[0]
    return local - offsets[np.searchsorted(starts, local, side="right")]


@lru_cache(maxsize=8)
def _offsets(zone: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the wall-clock nanoseconds (C,) at which a zone's offset changes, 1970 to 2100, and its offsets
    (C + 1,)."""
    info = zoneinfo.ZoneInfo(zone)

    def offset(second: int) -> int:
        offset = datetime.fromtimestamp(second, info).utcoffset()
        assert offset is not None, "a ZoneInfo has an offset at every moment"
        return round(offset.total_seconds())

    starts: list[int] = []
    offsets = [offset(0)]
    day = 86_400
    for begin in range(0, LATEST_NS // 10**9, day):
        after = offset(begin + day)
        if after == offsets[-1]:
            continue
        low, high = begin, begin + day
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if offset(middle) == offsets[-1] else (low, middle)
        starts.append(high + max(offsets[-1], after))
        offsets.append(after)
    return np.array(starts, dtype=np.int64) * 10**9, np.array(offsets, dtype=np.int64) * 10**9
