"""Hashes, the order of events, duplicates and digests: the same on every machine and for every block."""

import numpy as np
import pyarrow as pa

from raysys.data.events import position_of
from raysys.data.hashing import content_digest, hash_rows, hash_text, mix, text_rank
from raysys.data.partitions import sort_events, split_duplicates
from raysys.data.shards import partition_of
from tests.reference import data as slow

TEXTS = ["", "a", "user_1", "é", "日本語", None]


def events(rows, session=True):
    """Rows are (user, item, time_ns, order, session, file, row)."""
    text, number = pa.string(), pa.int64()
    names = [("user_id", text), ("item_id", text), ("time_ns", number), ("order", number)]
    names += [("session", text), ("place", number)]
    rows = [(*row[:5], (row[5] << 40) + row[6]) for row in rows]
    columns = zip(*rows, strict=True) if rows else [[] for _ in names]
    table = pa.table(
        {name: pa.array(list(values), kind) for (name, kind), values in zip(names, columns, strict=True)}
    )
    return table if session else table.drop_columns(["session"])


def test_hashes_are_pinned_because_partitions_and_splits_depend_on_them():
    # FNV-1a 64 of "a" is af63dc4c8601ec8c in its authors' table; mix(0) is the first output of SplitMix64
    assert mix(np.array([0], dtype=np.uint64))[0] == 0xE220A8397B1DCDAF
    assert hash_text(pa.array(["a"]))[0] == mix(np.array([0xAF63DC4C8601EC8C], dtype=np.uint64))[0]
    assert [f"{value:016x}" for value in hash_text(pa.array(TEXTS))] == PINNED
    assert partition_of(pa.array(["a", "b", "c"]), 7).tolist() == [slow.hash_text(text) % 7 for text in "abc"]


def test_hashes_equal_the_slow_reference_for_every_seed():
    for seed in (0, 1, 2**32):
        assert hash_text(pa.array(TEXTS), seed).tolist() == [slow.hash_text(text, seed) for text in TEXTS]


def test_hashes_do_not_depend_on_blocks_chunks_encoding_or_neighbours():
    whole = hash_text(pa.array(TEXTS))
    array = pa.array(TEXTS)
    forms = [
        pa.chunked_array([array[:2], array[2:2], array[2:]]),
        array.dictionary_encode(),
        pa.array(["zzz" * 9, *TEXTS])[1:],
        array.cast(pa.large_string()),
    ]
    for form in forms:
        assert np.array_equal(hash_text(form), whole)
    assert np.array_equal(np.concatenate([hash_text(array[i : i + 1]) for i in range(len(TEXTS))]), whole)
    assert len(hash_text(pa.array([], pa.string()))) == 0
    assert hash_text(pa.chunked_array([], pa.string())).tolist() == []
    assert hash_text(pa.array([None], pa.string()))[0] == whole[-1]
    assert len(set(whole.tolist())) == len(TEXTS)  # null is not the empty text


def test_whole_numbers_hash_as_their_decimal_text_but_are_parted_as_numbers():
    numbers = pa.array([7, -3, None, 2**62, 7, 0])
    assert hash_text(numbers, 5).tolist() == hash_text(numbers.cast(pa.string()), 5).tolist()
    users = [7, -3, 2**62, 7, 0]
    assert partition_of(pa.array(users), 11).tolist() == [slow.mix(user % 2**64) % 11 for user in users]


def test_users_spread_evenly_over_partitions():
    counts = np.bincount(partition_of(pa.array([f"{n}" for n in range(8000)]), 8), minlength=8)
    assert counts.min() > 900
    assert counts.max() < 1100


def test_events_are_ordered_by_time_then_order_then_session_then_place():
    expected = [
        ("a", "x", 1, 9, "z", 9, 9),
        ("a", "x", 2, 0, "z", 9, 9),
        ("a", "x", 2, 1, "s", 9, 9),
        ("a", "x", 2, 1, "t", 0, 0),
        ("a", "x", 2, 1, None, 0, 0),
        ("a", "x", 2, 1, None, 0, 1),
        ("a", "x", 2, 1, None, 1, 0),
        ("b", "x", 0, 0, "a", 0, 0),
        ("é", "x", 0, 0, "a", 0, 0),
    ]
    table = events(expected)
    for seed in range(20):
        places = np.random.default_rng(seed).permutation(len(expected))
        assert sort_events(table.take(pa.array(places))).equals(table)
    assert sort_events(events([], session=False)).num_rows == 0


def test_text_ranks_are_byte_order_with_null_last():
    assert text_rank(pa.array(["b", None, "a", "é", "b", "Z"])).tolist() == [2, 4, 1, 3, 2, 0]


def test_the_first_of_equal_rows_stays_and_the_others_are_named():
    rows = [
        ("a", "x", 10**18, 0, "s", 1, 0),
        ("a", "x", 10**18, 0, "s", 0, 7),
        ("a", "x", 10**18, 0, "s", 0, 5),
        ("a", "x", 10**18, 1, "s", 0, 8),
        ("a", "y", 10**18, 0, "s", 0, 4),
        ("a", "x", 10**18, 0, None, 0, 3),
        ("b", "x", 10**18, 0, "s", 0, 2),
    ]
    kept, rejected = split_duplicates(sort_events(events(rows)), ["f0", "f1"])
    assert sorted(position_of(kept.column("place").to_numpy())) == [2, 3, 4, 5, 8]
    twice = {"reason": "duplicate", "user": "a", "item": "x", "time": "2001-09-09 01:46:40.000000000Z"}
    assert rejected.to_pylist() == [
        {"file": "f0", **twice, "row": 7},
        {"file": "f1", **twice, "row": 0},
    ]
    assert kept.equals(sort_events(kept))


def test_rows_that_differ_in_any_column_are_no_duplicates():
    base = events([("a", "x", 1, 0, "s", 0, 0)])
    rating = base.append_column("rating", pa.array([1.0], pa.float32()))
    other = base.append_column("rating", pa.array([2.0], pa.float32()))
    both = sort_events(pa.concat_tables([rating, other]))
    assert split_duplicates(both, ["f"])[0].num_rows == 2


def test_digests_of_parts_add_up_and_do_not_see_where_a_row_was_logged():
    rows = [("a", "x", 1, 0, "s", 0, 0), ("a", "y", 2, 0, None, 0, 1), ("b", "x", 3, 0, "t", 1, 0)]
    whole = content_digest(events(rows))
    parts = [content_digest(events([row])) for row in reversed(rows)]
    assert tuple(sum(part[i] for part in parts) % 2**64 for i in (0, 1)) == whole
    assert content_digest(events([(*row[:5], 7, 7) for row in rows])) == whole
    for place, value in enumerate(["z", "z", 9, 9, "z"]):
        changed = [(*rows[0][:place], value, *rows[0][place + 1 :]), *rows[1:]]
        assert content_digest(events(changed)) != whole
    swapped = [("x", "a", *rows[0][2:]), *rows[1:]]
    assert content_digest(events(swapped)) != whole  # user and item do not commute


def test_row_hashes_tell_which_value_is_in_which_column_not_the_columns_order():
    one, other = (events([(user, item, 1, 0, "s", 0, 0)]) for user, item in ("ab", "ba"))
    assert hash_rows(one, ["user_id", "item_id"]) != hash_rows(other, ["user_id", "item_id"])
    assert hash_rows(one, ["user_id", "item_id"]) == hash_rows(one, ["item_id", "user_id"])


PINNED = [
    "c3817c016ba4ff30",
    "5f29c2aadd9b8527",
    "6510d81126fc4413",
    "6e2411eb685090ba",
    "0b01fe4afee7b4a7",
    "d003b83ea18ce92c",
]
