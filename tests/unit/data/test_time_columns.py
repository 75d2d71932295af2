"""Columns of times: every unit and type is exact, what cannot be a time is said."""

import datetime as dt

import pyarrow as pa
import pytest

from raysys.data.times import EARLIEST_NS, LATEST_NS, Clock, parse_text, parse_time
from raysys.errors import SchemaError

T = 1_600_000_000
NS = 10**9


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def times(values, unit, kind=None):
    time_ns, state = parse_time(column(values, kind), Clock(unit), "f", "t")
    return time_ns.tolist(), [0] * len(time_ns) if state is None else state.tolist()


@pytest.mark.parametrize(("unit", "factor"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
@pytest.mark.parametrize("kind", [pa.int64(), pa.uint64(), pa.string(), pa.large_string()])
def test_integers_of_every_unit_are_exact(unit, factor, kind):
    values = [T * factor, T * factor + factor - 1]
    values = [str(value) for value in values] if kind in (pa.string(), pa.large_string()) else values
    time_ns, state = times(values, unit, kind)
    assert time_ns == [T * NS, T * NS + (factor - 1) * (NS // factor)]
    assert state == [0, 0]


def test_seconds_fit_in_32_bits():
    assert times([T], "s", pa.int32()) == ([T * NS], [0])


@pytest.mark.parametrize("kind", [pa.float64(), pa.string()])
def test_float_seconds_keep_their_fraction(kind):
    values = [T + 0.25, float(T)]
    values = [str(value) for value in values] if kind == pa.string() else values
    assert times(values, "s", kind) == ([T * NS + NS // 4, T * NS], [0, 0])


def test_decimal_seconds_and_exponents():
    assert times(["1.6e9", " 1600000000 ", "01600000000"], "s") == ([T * NS] * 3, [0, 0, 0])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2020-09-13T12:26:40", T * NS),  # no zone: UTC
        ("2020-09-13 12:26:40", T * NS),
        ("2020-09-13T12:26:40Z", T * NS),
        ("2020-09-13T14:26:40+02:00", T * NS),
        ("2020-09-13T07:56:40.5-04:30", T * NS + NS // 2),
        (" 2020-09-13T12:26:40.000001Z ", T * NS + 1000),
        ("2020-09-13", T * NS - (12 * 3600 + 26 * 60 + 40) * NS),
        ("20200913T122640Z", T * NS),
    ],
)
def test_iso8601_with_and_without_zones(text, expected):
    assert times([text, None], "iso8601") == ([expected, 0], [0, 1])


def test_iso8601_that_is_none_and_far_years():
    values = [
        "13.09.2020",
        "2020-13-01",
        "yesterday",
        "",
        " ",
        None,
        "1600000000",
        "9999-12-31",
        "0001-01-01",
    ]
    assert times(values, "iso8601") == ([0] * 9, [2, 2, 2, 1, 1, 1, 2, 3, 3])
    far = pa.array(["9999-12-31T23:59:59.999999-23:00", "0001-01-01T00:00+23:00"])
    assert parse_text(far, Clock("iso8601"))[1].tolist() == [False, False]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
@pytest.mark.parametrize("configured", ["s", "ms", "iso8601"])
def test_a_timestamp_column_knows_its_own_unit(unit, zone, configured):
    kind = pa.timestamp(unit, tz=zone)
    values = pa.array([T * NS, None], pa.int64())
    stored = pa.array([None if v is None else v // {"s": NS, "ms": 10**6, "us": 10**3, "ns": 1}[unit]
                       for v in values.to_pylist()], pa.int64()).cast(kind)  # fmt: skip
    assert times(stored, configured, kind) == ([T * NS, 0], [0, 1])


def test_a_timestamp_in_nanoseconds_is_exact():
    kind = pa.timestamp("ns")
    assert times(pa.array([T * NS + 1], pa.int64()).cast(kind), "s", kind) == ([T * NS + 1], [0])


def test_a_timestamp_of_another_age_is_out_of_range():
    kind = pa.timestamp("s")
    assert times(pa.array([10**15, -(10**15)], pa.int64()).cast(kind), "s", kind) == ([0, 0], [3, 3])
    kind = pa.timestamp("us")
    year = dt.datetime(2999, 1, 1)
    assert times(pa.array([year], kind), "s", kind) == ([0], [3])


def test_times_outside_1980_to_2100_are_another_unit():
    low, high = EARLIEST_NS // NS, LATEST_NS // NS
    values = [low - 1, low, high - 1, high, 0, -1, 2**63 - 1, None]
    assert times(values, "s", pa.int64())[1] == [3, 0, 0, 3, 3, 3, 3, 1]
    assert times([2**64 - 1, None], "ns", pa.uint64())[1] == [3, 1]
    assert times([T], "ms")[1] == [3]
    assert times([T * 1000], "s")[1] == [3]
    assert times([1e300, -1e300], "s")[1] == [3, 3]


def test_times_that_are_no_numbers():
    values = ["", None, "x", "nan", "inf", "1_600", "0x10", "1600000000"]
    assert times(values, "s")[1] == [1, 1, 2, 2, 2, 2, 2, 0]
    assert times([float("nan"), float("inf"), None, 1.6e9], "s", pa.float64())[1] == [2, 2, 1, 0]
    assert times([None, None], "s", pa.null())[1] == [1, 1]
    assert times([None, None], "iso8601", pa.null())[1] == [1, 1]


@pytest.mark.parametrize(
    ("values", "kind", "unit"),
    [
        ([True], pa.bool_(), "s"),
        ([dt.date(2020, 1, 1)], pa.date32(), "s"),
        ([[1]], pa.list_(pa.int64()), "s"),
        ([T], pa.int64(), "iso8601"),
        ([1.5], pa.float64(), "iso8601"),
    ],
)
def test_a_column_that_cannot_be_a_time_is_named_with_its_type(values, kind, unit):
    with pytest.raises(SchemaError, match=r"log\.csv: column 'ts' has type .*, expected"):
        parse_time(column(values, kind), Clock(unit), "log.csv", "ts")
