"""Raw rows to events: every time unit, every reason for a rejection, what is dropped on purpose."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.events import check_columns, event_schema, normalise
from raysys.data.formats import Block
from raysys.data.log_config import DataConfig
from raysys.data.parsing import parse_number, parse_whole
from raysys.data.times import EARLIEST_NS, LATEST_NS, Clock, parse_text, parse_time
from raysys.errors import SchemaError

T = 1_600_000_000
NS = 10**9


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def config_of(**changes):
    columns = {"user": "u", "item": "i", "time": "t", **changes.pop("columns", {})}
    return DataConfig(events="log", columns=columns, **changes)


def times(values, unit, kind=None):
    time_ns, state = parse_time(column(values, kind), Clock(unit), "f", "t")
    return time_ns.tolist(), [0] * len(time_ns) if state is None else state.tolist()


def normalised(raw, config, file="f", number=0, first=0):
    block = Block(raw, np.arange(first, first + raw.num_rows))
    return normalise(block, config, event_schema(config, [raw.schema]), file, number)


# --- time


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


# --- numbers


def test_numbers_as_text_and_as_numbers():
    numbers, bad = parse_number(column(["1", " 2.5 ", "-.5", "+3e2", "", None, "x", "1,5"]), "f", "n")
    assert bad.tolist() == [False] * 4 + [True] * 4
    assert numbers[:4].tolist() == [1.0, 2.5, -0.5, 300.0]
    numbers, bad = parse_number(column([2**60 + 1, None], pa.int64()), "f", "n")
    assert bad.tolist() == [False, True]
    assert numbers[0] == 2.0**60


def test_whole_numbers_beyond_53_bits_are_exact():
    values = [2**60 + 1, -(2**60) - 1, 0]
    for kind in (pa.int64(), pa.string()):
        texts = [str(value) for value in values] if kind == pa.string() else values
        whole, rest, bad = parse_whole(column([*texts, None], kind), "f", "n")
        assert whole.tolist() == [*values, 0]
        assert rest is None
        assert bad.tolist() == [False, False, False, True]
    whole, _, _ = parse_whole(column(["9" * 30, "-" + "9" * 30], pa.string()), "f", "n")
    assert whole.tolist() == [2**62, -(2**62)]


# --- rows


RAW = {
    "u": ["a", None, "b", "c", "d", "", "e", "f"],
    "i": ["x", "x", None, "x", "x", " ", "x", "x"],
    "t": [str(T), str(T), str(T), "", "noon", str(T), "5", str(T + 1)],
    "r": ["1", "1", "1", "1", "1", "1", "1", "?"],
}


def test_every_reason_comes_with_its_file_and_row():
    out = normalised(pa.table(RAW), config_of(columns={"rating": "r"}), "folder/log.csv", 3, 100)
    assert out.rejected.select(["row", "reason"]).to_pylist() == [
        {"row": 101, "reason": "null_user"},
        {"row": 102, "reason": "null_item"},
        {"row": 103, "reason": "null_time"},
        {"row": 104, "reason": "unparsable_time"},
        {"row": 105, "reason": "null_user"},  # the first reason in this order is the one that counts
        {"row": 106, "reason": "time_out_of_range"},
        {"row": 107, "reason": "bad_number"},
    ]
    assert set(out.rejected.column("file").to_pylist()) == {"folder/log.csv"}
    assert out.rejected.to_pylist()[3]["time"] == "noon"
    assert out.rejected.to_pylist()[1] == {
        "file": "folder/log.csv", "reason": "null_item", "user": "b", "item": None, "time": str(T), "row": 102
    }  # fmt: skip
    assert out.events.to_pylist() == [
        {"user_id": "a", "item_id": "x", "time_ns": T * NS, "rating": 1.0, "place": (3 << 40) + 100}
    ]
    assert out.dropped == {}


def test_events_hold_the_columns_that_the_config_names_in_a_fixed_order():
    names = {name: name for name in ("order", "session", "event", "rating", "weight")}
    config = config_of(columns={**names, "store": "s"})
    raw = pa.table(
        {
            "u": [7], "i": pa.array(["x"]).dictionary_encode(), "t": [T], "order": [5], "session": [3],
            "event": ["buy"], "rating": [4], "weight": pa.array([0.5], pa.float32()), "s": [None],
        }
    )  # fmt: skip
    out = normalised(raw, config)
    assert out.events.schema == event_schema(config, [raw.schema])
    assert out.events.to_pylist() == [
        {"user_id": 7, "item_id": "x", "time_ns": T * NS, "order": 5, "session": "3", "event": "buy",
         "rating": 4.0, "weight": 0.5, "store": None, "place": 0}
    ]  # fmt: skip
    assert out.rejected.num_rows == 0


def test_ids_keep_their_leading_zeros_and_spaces():
    raw = pa.table({"u": ["007", " 7", "7"], "i": ["0", "00", "A"], "t": [T, T, T]})
    out = normalised(raw, config_of())
    assert out.events.column("user_id").to_pylist() == ["007", " 7", "7"]
    assert out.events.column("item_id").to_pylist() == ["0", "00", "A"]


def test_unwanted_events_and_low_ratings_are_dropped_not_rejected():
    raw = pa.table(
        {
            "u": ["a"] * 6,
            "i": ["x"] * 6,
            "t": [T] * 6,
            "e": ["buy", "view", None, "cart", "buy", "Buy"],
            "r": [5.0, 5.0, 5.0, 3.3, 1.0, 5.0],
        }
    )
    config = config_of(columns={"event": "e", "rating": "r"}, keep_events=("buy", "cart"), min_rating=3.3)
    out = normalised(raw, config)
    assert out.events.column("place").to_pylist() == [0, 3]  # 3.3 is not below 3.3, though stored as float32
    assert out.dropped == {"event_not_kept": 3, "below_min_rating": 1}
    assert out.rejected.num_rows == 0


def test_an_order_that_is_no_whole_number_is_rejected_and_a_large_one_is_exact():
    for values in (["1.5", str(2**60 + 1), "x", "2.0"], [1.5, 2.0**60, None, 2.0]):
        raw = pa.table({"u": ["a"] * 4, "i": ["x"] * 4, "t": [T] * 4, "o": values})
        out = normalised(raw, config_of(columns={"order": "o"}))
        assert out.rejected.select(["row", "reason"]).to_pylist() == [
            {"row": 0, "reason": "bad_number"},
            {"row": 2, "reason": "bad_number"},
        ]
        assert out.events.column("order").to_pylist() == [2**60 + (1 if isinstance(values[1], str) else 0), 2]


@pytest.mark.parametrize(
    "kind", [pa.float64(), pa.bool_(), pa.list_(pa.int64()), pa.timestamp("s"), pa.binary()]
)
def test_an_id_column_of_another_type_is_named(kind):
    raw = pa.table({"u": pa.array([None], kind), "i": ["x"], "t": [T]})
    with pytest.raises(
        SchemaError, match=r"f: column 'u' \(data\.columns\.user\) has type .*expected text or int"
    ):
        normalised(raw, config_of())


def test_a_missing_column_is_named_with_the_nearest_and_a_double_one_is_refused():
    schema = pa.schema([("u", pa.string()), ("items", pa.string()), ("t", pa.int64())])
    config = DataConfig(events="log", columns={"user": "u", "item": "item", "time": "t"})
    with pytest.raises(
        SchemaError, match=r"no column 'item', which data\.columns\.item names; did you mean items\?"
    ):
        check_columns(schema, config, "f")
    twice = pa.schema([("u", pa.string()), ("item", pa.string()), ("t", pa.int64()), ("t", pa.int64())])
    with pytest.raises(SchemaError, match=r"f: 2 columns are called 't', which data\.columns\.time names"):
        check_columns(twice, config, "f")


def test_an_empty_block_gives_no_rows():
    raw = pa.table(
        {"u": pa.array([], pa.string()), "i": pa.array([], pa.string()), "t": pa.array([], pa.int64())}
    )
    out = normalised(raw, config_of())
    assert (out.events.num_rows, out.rejected.num_rows, out.dropped) == (0, 0, {})
    assert np.array_equal(out.events.schema.names, event_schema(config_of()).names)


def test_dictionary_encoded_columns_are_read_as_their_values():
    config = DataConfig(
        events="x", columns={"user": "u", "item": "i", "time": "t", "rating": "r"}, min_rating=2.0
    )
    raw = pa.table(
        {
            "u": pa.array(["a", "b"]).dictionary_encode(),
            "i": pa.array([7, 8]).dictionary_encode(),
            "t": pa.array([1_600_000_000, 1_600_000_001]).dictionary_encode(),
            "r": pa.array([1.0, 5.0]).dictionary_encode(),
        }
    )
    block = normalised(raw, config)
    assert block.events.column("user_id").to_pylist() == ["b"]
    assert block.events.column("item_id").to_pylist() == [8]
    assert block.dropped == {"below_min_rating": 1}
