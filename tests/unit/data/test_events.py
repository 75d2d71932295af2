"""Raw rows to events: every reason for a rejection, what is dropped on purpose."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.events import check_columns, event_schema, file_of, normalise, pack_place, position_of
from raysys.data.formats import Block
from raysys.data.log_config import DataConfig
from raysys.errors import ConfigError, SchemaError

T = 1_600_000_000
NS = 10**9


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def config_of(**changes):
    columns = {"user": "u", "item": "i", "time": "t", **changes.pop("columns", {})}
    return DataConfig(events="log", columns=columns, **changes)


def normalised(raw, config, file="f", number=0, first=0):
    block = Block(raw, np.arange(first, first + raw.num_rows))
    return normalise(block, config, event_schema(config, [raw.schema]), file, number)


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


# --- ids as whole numbers, places


def test_ids_are_whole_numbers_where_every_file_has_them_so():
    config = config_of()

    def kinds(*pairs):
        schemas = [pa.schema([("u", user), ("i", item), ("t", pa.int64())]) for user, item in pairs]
        schema = event_schema(config, schemas)
        return [str(schema.field(name).type) for name in ("user_id", "item_id")]

    short, text = pa.int32(), pa.string()
    assert kinds((short, pa.int64()), (pa.uint8(), pa.dictionary(pa.int8(), short))) == ["int64", "int64"]
    assert kinds((short, text), (text, text)) == ["string", "string"]
    assert kinds((pa.uint64(), pa.null()), (short, short)) == ["string", "int64"]
    assert kinds((pa.null(), short)) == ["string", "int64"]
    assert kinds() == ["string", "string"]


def test_null_ids_as_numbers_are_rejected_and_numbers_become_text_where_the_log_is_text():
    raw = pa.table({"u": pa.array([7, None], pa.int32()), "i": [1, 2], "t": [T, T]})
    out = normalised(raw, config_of())
    assert out.events.column("user_id").to_pylist() == [7]
    assert out.rejected.select(["reason", "user", "item"]).to_pylist() == [
        {"reason": "null_user", "user": None, "item": "2"}
    ]
    block = Block(raw, np.arange(2))
    out = normalise(block, config_of(), event_schema(config_of()), "f", 0)
    assert out.events.column("user_id").to_pylist() == ["7"]


def test_places_order_rows_by_file_then_position():
    positions = np.array([0, 2**40 - 1])
    places = pack_place(2**23 - 1, positions)
    assert places.dtype == np.int64
    assert (places > 0).all()
    assert file_of(places).tolist() == [2**23 - 1] * 2
    assert position_of(places).tolist() == positions.tolist()
    assert pack_place(0, positions).max() < pack_place(1, positions).min()


def test_rows_that_the_reader_could_not_make_out_are_rejected_with_their_reason():
    raw = pa.table({"u": ["a", ""], "i": ["x", "x"], "t": [T, T]})
    block = Block(raw, np.array([0, 3]), {"wrong_width": np.array([2, 1])})
    out = normalise(block, config_of(), event_schema(config_of()), "f", 4)
    assert out.events.column("place").to_pylist() == [4 << 40]
    assert out.rejected.select(["file", "reason", "row"]).to_pylist() == [
        {"file": "f", "reason": "wrong_width", "row": 1},
        {"file": "f", "reason": "wrong_width", "row": 2},
        {"file": "f", "reason": "null_user", "row": 3},
    ]


# --- event types, quantities, weights, split times


def test_event_types_that_are_not_known_are_rejected():
    raw = pa.table({"u": ["a"] * 4, "i": ["x"] * 4, "t": [T] * 4, "e": ["buy", "view", "BUY", None]})
    config = config_of(columns={"event": "e"}, known_events=("buy", "view"), keep_events=("buy",))
    out = normalised(raw, config)
    assert out.events.column("event").to_pylist() == ["buy"]
    assert out.dropped == {"event_not_kept": 1}
    assert out.rejected.select(["reason", "row"]).to_pylist() == [
        {"reason": "unknown_event", "row": 2}, {"reason": "unknown_event", "row": 3}
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["text", "number"])
def test_negative_quantities_are_rejected_where_asked(kind):
    values = (
        ["2", "-1", None, "", "x", "-0.0"] if kind == "text" else [2.0, -1.0, None, 0.0, float("nan"), -0.0]
    )
    raw = pa.table({"u": ["a"] * 6, "i": ["x"] * 6, "t": [T] * 6, "q": values, "p": [1, 1, 1, 1, 1, -5]})
    out = normalised(raw, config_of(reject_negative=("q", "p")))
    assert out.rejected.select(["reason", "row"]).to_pylist() == [
        {"reason": "negative_quantity", "row": 1},
        {"reason": "bad_number", "row": 4},
        {"reason": "negative_quantity", "row": 5},
    ]


def test_event_types_weigh_what_the_config_says_times_the_logs_own_weight():
    raw = pa.table({"u": ["a"] * 4, "i": ["x"] * 4, "t": [T] * 4, "e": ["buy", "view", "cart", None],
                    "w": [1.0, 0.5, 3.0, 2.0]})  # fmt: skip
    weights = {"buy": 4.0, "view": 0.5}
    alone = normalised(raw, config_of(columns={"event": "e"}, event_weights=weights))
    assert alone.events.column("weight").to_pylist() == [4.0, 0.5, 1.0, 1.0]
    both = normalised(raw, config_of(columns={"event": "e", "weight": "w"}, event_weights=weights))
    assert both.events.column("weight").to_pylist() == [4.0, 0.25, 3.0, 2.0]
    assert both.events.schema.field("weight").type == pa.float32()


def test_a_time_may_be_split_over_columns():
    raw = pa.table(
        {
            "u": ["a"] * 4,
            "i": ["x"] * 4,
            "d": pa.array([dt.date(2020, 9, 13)] * 3 + [None]),
            "h": pa.array([12, None, 25, 1], pa.int8()),
        }
    )
    config = config_of(columns={"time": ("d", "h")}, time_format="%Y-%m-%d %H")
    out = normalised(raw, config)
    assert out.events.column("time_ns").to_pylist() == [(T - 26 * 60 - 40) * NS]
    assert out.rejected.select(["reason", "row", "time"]).to_pylist() == [
        {"reason": "null_time", "row": 1, "time": None},
        {"reason": "unparsable_time", "row": 2, "time": "2020-09-13 25"},
        {"reason": "null_time", "row": 3, "time": None},
    ]
    text = pa.table({"u": ["a"], "i": ["x"], "d": ["2020-09-13"], "h": ["12:26:40"]})
    config = config_of(columns={"time": ("d", "h")}, time_unit="iso8601")
    assert normalised(text, config).events.column("time_ns").to_pylist() == [T * NS]


def test_a_missing_nested_column_is_named_with_the_nearest_dotted_name():
    item = pa.struct([("id", pa.string())])
    schema = pa.schema([("u", pa.string()), ("payload", pa.struct([("item", item)])), ("t", pa.int64())])
    check_columns(schema, config_of(columns={"item": "payload.item.id"}), "f")
    for wrong in ("payload.itm.id", "payload.item.idx"):
        with pytest.raises(SchemaError, match=rf"no column '{wrong}', .* did you mean payload\.item\.id\?"):
            check_columns(schema, config_of(columns={"item": wrong}), "f")
    with pytest.raises(SchemaError, match=r"no column 'q', which data\.reject_negative names"):
        check_columns(schema, config_of(columns={"item": "payload"}, reject_negative=("q",)), "f")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"known_events": ("buy",)}, "known_events: needs columns.event, which is not set"),
        ({"event_weights": {"buy": 1.0}}, "event_weights: needs columns.event, which is not set"),
        (
            {"columns": {"event": "e"}, "known_events": ("view",), "keep_events": ("buy",)},
            "known_events: lacks 'buy', which keep_events or event_weights names; add it",
        ),
        (
            {"columns": {"event": "e"}, "event_weights": {"buy": -1.0}},
            "event_weights.buy: found -1.0, expected a finite number >= 0",
        ),
        ({"columns": {"item": ("a", "b")}}, "columns.item: found a list, expected one column"),
        ({"columns": {"time": ("a", "b")}}, "columns.time: several columns need time_format, or"),
        ({"columns": {"time": ()}}, "columns.time: found an empty name"),
        ({"columns": {"place": "p"}}, "columns.place: this name is taken"),
        (
            {"time_zone": "Europe/Berln"},
            "time_zone: unknown zone 'Europe/Berln'; did you mean Europe/Berlin?",
        ),
        ({"time_format": "%m%d"}, "time_year: needed, because time_format = '%m%d' has no year"),
        ({"time_format": "%Y", "time_year": 2014}, "time_year: found 2014, but time_format = '%Y' has its"),
        ({"time_format": "YYYY"}, "time_format: 'YYYY' has no %"),
        ({"time_year": 2014}, "time_year: needs time_format, which is not set"),
        ({"time_format": "%m%d", "time_year": 14}, "time_year: found 14, expected 1980 to 2099"),
        ({"source": "taobo"}, "source: unknown data set 'taobo'; did you mean taobao?"),
        ({"reject_negative": ("",)}, "reject_negative: found an empty name"),
    ],
)
def test_keys_that_do_not_go_together_are_refused(changes, words):
    with pytest.raises(ConfigError) as caught:
        config_of(**changes)
    assert str(caught.value).startswith(words)
