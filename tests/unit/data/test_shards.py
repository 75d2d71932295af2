"""Coded columns, shards and the packed order: what goes in comes out, whatever the ids are written as."""

from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from raysys.data import partitions
from raysys.data.hashing import Coded, content_digest, hash_rows
from raysys.data.partitions import event_order, sort_events, split_duplicates
from raysys.data.sequences import SessionConfig, sequence_table, windows_of
from raysys.data.shards import SHARDS, from_shards, partition_of, to_shards
from raysys.data.splits import SplitConfig
from tests.reference import data as slow

T = 1_600_000_000


def table_of(rows, ids=None, session=True):
    """Return events of (user, item, time_ns, order, session, place)."""
    ids = ids or pa.string()
    names = [("user_id", ids), ("item_id", ids), ("time_ns", pa.int64()), ("order", pa.int64())]
    names += [("session", pa.string()), ("place", pa.int64())]
    columns = list(zip(*rows, strict=True)) if rows else [[] for _ in names]
    table = pa.table(
        {name: pa.array(list(values), kind) for (name, kind), values in zip(names, columns, strict=True)}
    )
    return table if session else table.drop_columns(["session"])


def drawn(seed, number=300, users=9):
    """Return random events with many ties and repeats; ids are whole numbers."""
    draw = np.random.default_rng(seed)
    return [
        (
            int(draw.integers(-users, users)),
            int(draw.integers(5)),
            (T + int(draw.integers(20))) * 10**9 + int(draw.choice([0, 0, 1])),
            int(draw.integers(2)),
            [None, "s", "t"][draw.integers(3)],
            (int(draw.integers(2)) << 40) + place,
        )
        for place in range(number)
    ]


# --- coded columns


@pytest.mark.parametrize(
    ("column", "values", "codes"),
    [
        (pa.array(["b", "a", "b"]), ["b", "a"], [0, 1, 0]),
        (pa.array(["b", None, "a", None]), ["b", "a"], [0, 2, 1, 2]),
        (pa.array([7, -3, 7, None]), ["7", "-3"], [0, 1, 0, 2]),
        (pa.array([None, None], pa.string()), [], [0, 0]),
        (pa.array([], pa.string()), [], []),
        (pa.chunked_array([["b"], [], ["a", "b"]], pa.string()), ["b", "a"], [0, 1, 0]),
        (pa.chunked_array([], pa.int64()), [], []),
        (pa.array(["x", "b", "a", "b"])[1:], ["b", "a"], [0, 1, 0]),
        (pa.array(["b", None, "b"]).dictionary_encode(), ["b"], [0, 1, 0]),
        (pa.array(["b", "a"], pa.large_string()), ["b", "a"], [0, 1]),
        (
            pa.DictionaryArray.from_arrays(pa.array([1, None, 0], pa.int8()), ["b", "a"]),
            ["b", "a"],
            [1, 2, 0],
        ),
    ],
    ids=lambda value: None,
)
def test_a_column_is_its_distinct_values_and_codes_with_null_last(column, values, codes):
    coded = Coded.of(column)
    assert coded.values.to_pylist() == values
    assert coded.values.type == pa.large_string()
    assert coded.codes.tolist() == codes
    assert coded.codes.dtype == np.int32
    assert coded.hashes(3).tolist() == [slow.hash_text(value, 3) for value in [*values, None]]
    ordered = sorted(values, key=lambda text: text.encode())
    assert coded.ranks().tolist() == [*(ordered.index(value) for value in values), len(values)]


def test_null_has_a_code_beyond_a_small_dictionary_too():
    words = [str(n) for n in range(128)]  # int8 codes end at 127
    column = pa.DictionaryArray.from_arrays(pa.array([127, None], pa.int8()), words)
    assert Coded.of(column).codes.tolist() == [127, 128]


def test_whole_numbers_and_their_text_are_the_same_log():
    rows = drawn(0)
    whole = table_of(rows, pa.int64())
    text = table_of([(str(user), str(item), *rest) for user, item, *rest in rows])
    columns = ["user_id", "item_id", "time_ns", "session"]
    assert hash_rows(whole, columns).tolist() == hash_rows(text, columns).tolist()
    assert content_digest(whole) == content_digest(text)
    whole, text = sort_events(whole), sort_events(text)
    assert whole.column("user_id").cast(pa.string()).equals(text.column("user_id"))
    (whole, twice), (text, twice_in_text) = (split_duplicates(one, "ab") for one in (whole, text))
    assert twice.equals(twice_in_text)
    assert twice.num_rows > 0
    stored = []
    for table in (whole, text):
        coded = {name: Coded.of(table.column(name)) for name in ("user_id", "item_id")}
        windows = windows_of(
            table, coded["user_id"], SessionConfig(gap_s=2), SplitConfig(kind="random_target")
        )
        assert content_digest(table, coded) == content_digest(table)
        stored.append(sequence_table(table, windows, coded, {}))
    assert stored[0].equals(stored[1])


# --- partitions and shards


def test_partitions_beyond_16_bits_have_numbers_beyond_16_bits():
    users = pa.array([f"u{n}" for n in range(200)])
    for number, kind in ((1 << 16, np.uint16), ((1 << 16) + 1, np.uint32), (1 << 20, np.uint32)):
        found = partition_of(users, number)
        assert found.dtype == kind
        assert found.tolist() == [slow.hash_text(f"u{n}") % number for n in range(200)]
    table = table_of([(f"u{n}", "x", T * 10**9, 0, "s", n) for n in range(50)])
    found = {number: events.num_rows for number, events in from_shards(to_shards(table, 1 << 20))}
    assert found == {slow.hash_text(f"u{n}") % (1 << 20): 1 for n in range(50)}
    assert max(found) > 1 << 16


@pytest.mark.parametrize("num_partitions", [1, 3, 64])
@pytest.mark.parametrize("ids", [pa.string(), pa.int64()])
def test_shards_of_blocks_hold_every_event_once_in_the_partition_of_its_user(num_partitions, ids):
    rows = [(str(user), str(item), *rest) for user, item, *rest in drawn(1)]
    whole = (table_of(rows) if ids == pa.string() else table_of(drawn(1), ids)).sort_by("place")
    blocks = [whole.slice(101), whole.slice(0, 100), whole.slice(0, 0), whole.slice(100, 1)]
    shards = pa.concat_tables([to_shards(block, num_partitions) for block in blocks])
    assert shards.schema == SHARDS
    numbers, found = [], []
    for number, events in from_shards(shards):
        assert events.schema.equals(whole.schema)
        users = events.column("user_id").to_pylist()
        hashes = [slow.hash_text(user) if isinstance(user, str) else slow.mix(user % 2**64) for user in users]
        assert {one % num_partitions for one in hashes} == {number}
        places = events.column("place").to_pylist()
        wanted = [row for row in whole.to_pylist() if row["place"] in places]
        assert events.to_pylist() == wanted  # in the order of the log, whichever block came first
        numbers.append(number)
        found += places
    assert numbers == sorted(set(numbers))
    assert sorted(found) == sorted(whole.column("place").to_pylist())


def test_no_events_are_no_shards():
    assert to_shards(table_of([]), 5).equals(SHARDS.empty_table())
    assert list(from_shards(SHARDS.empty_table())) == []


SMALL, LARGE = -(2**63), 2**63 - 1


@pytest.mark.parametrize(
    ("times", "numbers"),
    [
        ([T * 10**9, (T + 2**32 - 1) * 10**9], [0, 2**32 - 1]),  # the widest that 32 bits hold
        ([T * 10**9, (T + 2**32) * 10**9], [0, 2**32]),  # one too wide
        ([T * 10**9 + 1, (T + 9) * 10**9 + 1], [-5, -(2**40)]),  # whole seconds apart
        ([T * 10**9, T * 10**9 + 999], [-(2**31), 2**31 - 1]),  # below a second, close together
        ([T * 10**9, (T + 9) * 10**9 + 1], [7, 7]),  # below a second, far apart
        ([T * 10**9, T * 10**9], [-(2**62), 2**62]),  # a difference that int64 does not hold
        ([T * 10**9, T * 10**9], [SMALL, LARGE]),
        ([T * 10**9, T * 10**9], [LARGE, SMALL]),
    ],
)
def test_whole_numbers_of_any_range_come_back(times, numbers):
    table = pa.table(
        {
            "user_id": pa.array(numbers, pa.int64()),
            "item_id": pa.array(numbers[::-1], pa.int64()),
            "time_ns": pa.array(times, pa.int64()),
            "order": pa.array(numbers, pa.int64()),
            "shop": pa.array([None, "é"], pa.string()),
            "rating": pa.array([-1.5, 2.0], pa.float32()),
            "place": pa.array([3 << 40, 5], pa.int64()),
        }
    )
    (number, events), *rest = from_shards(to_shards(table, 1))
    assert (number, rest) == (0, [])
    assert events.equals(table)


def test_what_fits_32_bits_travels_in_32_bits():
    table = table_of([("a", "x", (T + n) * 10**9, n - 3, None, n) for n in range(4)])
    batch = pa.ipc.open_stream(to_shards(table, 1).column("shard")[0].as_buffer()).read_all()
    assert [str(batch.schema.field(name).type) for name in ("time_ns", "order", "place")] == ["uint32"] * 3
    assert batch.column("time_ns").to_pylist() == [0, 1, 2, 3]


# --- the order of events


def in_order(rows):
    """Python's sort of what the order of events is: (user, time, order, session with none last, place)."""

    def key(n):
        user, _, time_ns, order, session, place = rows[n]
        return (str(user).encode(), time_ns, order, session is None, session or "", place)

    return sorted(range(len(rows)), key=key)


@pytest.mark.parametrize("seed", range(5))
def test_the_packed_order_equals_a_plain_sort(seed):
    rows = drawn(seed)
    assert event_order(table_of(rows, pa.int64())).tolist() == in_order(rows)
    text = [(str(user), str(item), *rest) for user, item, *rest in rows]
    assert event_order(table_of(text)).tolist() == in_order(text)


def test_where_63_bits_do_not_suffice_every_key_is_sorted():
    # 120 years in nanoseconds take 62 bits, which leaves one for users
    rows = [
        (user, 1, 315_532_800 * 10**9 + time_ns, order, session, place)
        for place, (user, time_ns, order, session) in enumerate(
            [
                (3, 3_786_912_000 * 10**9 - 1, 0, "s"),
                (1, 5, 1, None),
                (1, 5, 1, "t"),
                (1, 5, 0, "z"),
                (2, 1, 0, "s"),
            ]
            * 2
        )
    ]
    table = table_of(rows, pa.int64())
    coded = Coded.of(table.column("user_id"))
    assert partitions._packed_key(coded.ranks()[coded.codes], table.column("time_ns").to_numpy()) is None
    assert event_order(table).tolist() == in_order(rows)
    with mock.patch.object(partitions, "_packed_key", return_value=None):
        for seed in range(3):
            some = drawn(seed)
            assert event_order(table_of(some, pa.int64())).tolist() == in_order(some)


def test_times_below_a_second_are_told_apart_and_tables_without_order_or_session_are_sorted():
    rows = [("a", "x", T * 10**9 + ns, 0, None, place) for place, ns in enumerate([5, 3, 5, 3, 0])]
    plain = table_of(rows).select(["user_id", "item_id", "time_ns", "place"])
    assert event_order(plain).tolist() == [4, 1, 3, 0, 2]
    assert event_order(plain.slice(0, 0)).tolist() == []


# --- duplicates


@pytest.mark.parametrize("seed", range(4))
def test_repeats_are_all_but_the_first_of_equal_rows(seed):
    rows = drawn(seed, users=3)
    table = sort_events(table_of(rows, pa.int64()))
    seen, repeated = set(), set()
    for user, item, time_ns, order, session, place in sorted(rows, key=lambda row: row[-1]):
        content = (user, item, time_ns, order, session)
        (repeated if content in seen else seen).add(place if content in seen else content)
    found = partitions._repeats(table)
    assert found.tolist() == sorted(found.tolist())
    assert set(np.array(table.column("place"))[found].tolist()) == repeated
    assert len(found) == len(repeated) > 0


def test_without_a_tie_nothing_repeats():
    rows = [("a", "x", (T + n) * 10**9, 0, None, n) for n in range(3)]
    assert partitions._repeats(table_of(rows)).tolist() == []
    assert partitions._repeats(table_of([])).tolist() == []
