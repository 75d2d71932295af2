"""Samples by hand: what a batch shows, what a query asks, and what neither may see."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.history import load_sequences, widen
from raysys.data.pairs import pair_samples
from raysys.data.queries import Queries, queries_of
from raysys.data.samples import NextItemSamples, sequence_samples, training_samples
from raysys.data.shapes import SampleShape
from raysys.data.splits import CONTEXT, HISTORY, TEST, TRAIN, VALID
from raysys.storage import Folder


def write(folder, users, name="part-0", profile=None):
    """Users are lists of (item_idx, cut, role)."""
    columns = {
        "user_id": pa.array([f"u{n}" for n in range(len(users))], pa.string()),
        "item_idx": pa.array([[e[0] for e in own] for own in users], pa.list_(pa.int32())),
        "cut": pa.array([[e[1] for e in own] for own in users], pa.list_(pa.int32())),
        "role": pa.array([[e[2] for e in own] for own in users], pa.list_(pa.int8())),
        **(profile or {}),
    }
    pq.write_table(pa.table(columns), f"{folder}/{name}")
    return load_sequences(Folder(folder), [name])


def samples_of(sequences, length=9) -> tuple[NextItemSamples, list]:
    samples = training_samples(sequences, SampleShape(history_length=length))
    batch = samples.batch(np.arange(len(samples)))
    return samples, [
        (row.tolist(), target) for row, target in zip(batch["history"], batch["target"], strict=True)
    ]


def query_rows(queries: Queries):
    windows = queries.batch(np.arange(len(queries)))["history"].tolist()
    truth = np.split(queries.truth_items, queries.truth_offsets[1:-1])
    seen = np.split(queries.seen_items, queries.seen_offsets[1:-1])
    columns = zip(queries.user_id.to_pylist(), windows, truth, seen, strict=True)
    return {user: (window, list(wanted), list(known)) for user, window, wanted, known in columns}


LEAVE_ONE_OUT = [(5, 0, TRAIN), (6, 1, TRAIN), (7, 2, TRAIN), (8, 3, VALID), (9, 4, TEST)]


def test_training_samples_are_the_events_with_a_history(tmp_path):
    samples, pairs = samples_of(write(tmp_path, [LEAVE_ONE_OUT, [(4, 0, TRAIN)]]))
    assert len(samples) == 2
    assert pairs == [([0, 5], 6), ([5, 6], 7)]


def test_the_newest_items_are_kept_and_the_latest_is_last(tmp_path):
    users = [[(10 + place, place, TRAIN) for place in range(60)]]
    samples = training_samples(write(tmp_path, users))
    batch = samples.batch(np.array([58]))
    assert batch["history"][0].tolist() == list(range(19, 69))
    assert batch["target"].tolist() == [69]


def test_a_target_is_never_in_its_history_through_a_tie(tmp_path):
    basket = [(5, 0, TRAIN), (6, 1, TRAIN), (7, 1, TRAIN), (8, 1, TRAIN)]  # three lines of one basket
    _, pairs = samples_of(write(tmp_path, [basket]))
    assert pairs == [([5], 6), ([5], 7), ([5], 8)]


BUYS_AND_VIEWS = [
    (5, 0, CONTEXT), (6, 1, TRAIN), (7, 2, CONTEXT), (8, 3, CONTEXT), (9, 4, TRAIN), (10, 5, VALID),
    (11, 6, CONTEXT), (12, 7, TEST), (13, 8, CONTEXT),
]  # fmt: skip


def test_context_is_in_histories_and_never_a_target(tmp_path):
    only_views = [(4, 0, CONTEXT), (4, 1, CONTEXT)]
    users = [only_views, BUYS_AND_VIEWS, [(4, 0, TRAIN), (3, 1, TRAIN)], only_views]
    sequences = write(tmp_path, users)
    samples, pairs = samples_of(sequences)
    assert pairs == [([0, 0, 0, 5], 6), ([5, 6, 7, 8], 9), ([0, 0, 0, 4], 3)]
    assert samples.target.tolist() == [6, 9, 3]
    assert samples.owner.tolist() == [1, 1, 2]
    assert samples.place.tolist() == [0, 1, 1]  # among the user's training events
    two = training_samples(sequences, SampleShape(next_items=2))
    assert two.batch(np.arange(3))["target"].tolist() == [[6, 9], [9, 0], [3, 0]]
    valid, test = (query_rows(queries_of(sequences, part)) for part in ("valid", "test"))
    assert valid == {"u1": ([5, 6, 7, 8, 9], [10], [5, 6, 7, 8, 9])}
    assert test == {"u1": ([5, 6, 7, 8, 9, 10, 11], [12], [5, 6, 7, 8, 9, 10, 11])}


def test_context_is_an_input_of_sequences(tmp_path):
    users = [
        [(4, 0, TRAIN), (3, 1, TRAIN)],
        BUYS_AND_VIEWS,
        [(4, 0, CONTEXT)],
        [(2, 0, CONTEXT), (6, 1, TRAIN)],
    ]
    found = sequence_samples(write(tmp_path, users), SampleShape(kind="sequence"))
    batch = found.batch(np.arange(len(found)))
    assert batch["history"].tolist() == [[0, 0, 0, 4], [5, 6, 7, 8], [0, 0, 0, 2]]
    assert batch["target"].tolist() == [[0, 0, 0, 3], [6, 9, 9, 9], [0, 0, 0, 6]]
    views = write(tmp_path, [[(4, 0, CONTEXT)]], "b")
    assert len(sequence_samples(views, SampleShape(kind="sequence"))) == 0


def test_a_basket_ahead_is_shared_by_the_context_before_it(tmp_path):
    basket = [(4, 0, CONTEXT), (5, 0, CONTEXT), (6, 0, CONTEXT), (7, 3, TRAIN), (8, 3, TRAIN), (9, 5, TRAIN)]
    found = sequence_samples(write(tmp_path, [LEAVE_ONE_OUT, basket]), SampleShape(kind="sequence"))
    batch = found.batch(np.array([1]))
    assert batch["history"].tolist() == [[4, 5, 6, 7, 8]]
    assert batch["target"].tolist() == [[7, 8, 7, 9, 9]]


def test_pairs_are_of_training_events_only(tmp_path):
    found = pair_samples(write(tmp_path, [BUYS_AND_VIEWS]), SampleShape(kind="pairs", window=1))
    batch = found.batch(np.arange(len(found)))
    assert batch["center"].tolist() == [6, 9]
    assert batch["context"].tolist() == [[0, 9], [6, 0]]


def test_validation_and_test_see_only_what_was_before(tmp_path):
    sequences = write(tmp_path, [LEAVE_ONE_OUT, [(4, 0, TRAIN)], [(3, 0, TRAIN), (3, 1, TEST)]])
    assert query_rows(queries_of(sequences, "valid")) == {"u0": ([5, 6, 7], [8], [5, 6, 7])}
    assert query_rows(queries_of(sequences, "test")) == {
        "u0": ([5, 6, 7, 8], [9], [5, 6, 7, 8]),
        "u2": (
            [0, 0, 0, 3],
            [3],
            [3],
        ),  # a repeat is a fair question; whether it may be answered is filter_seen
    }


def test_truth_is_the_whole_unit_once_each_and_seen_is_the_whole_history(tmp_path):
    events = [(5, 0, TRAIN), (5, 1, TRAIN), (9, 2, TEST), (7, 2, TEST), (9, 2, TEST), (5, 2, TEST)]
    rows = query_rows(queries_of(write(tmp_path, [events]), "test", SampleShape(history_length=1)))
    assert rows == {"u0": ([5], [5, 7, 9], [5])}


def test_held_out_users_teach_nothing(tmp_path):
    users = [[(5, 0, HISTORY), (6, 1, HISTORY), (7, 2, TEST)], [(5, 0, HISTORY), (6, 1, VALID)]]
    sequences = write(tmp_path, users)
    assert len(training_samples(sequences)) == 0
    assert query_rows(queries_of(sequences, "test")) == {"u0": ([5, 6], [7], [5, 6])}
    assert query_rows(queries_of(sequences, "valid")) == {"u1": ([5], [6], [5])}


def test_a_random_target_is_left_out_of_every_later_history(tmp_path):
    events = [(5, 0, TRAIN), (6, 1, TEST), (7, 2, VALID), (8, 3, TRAIN)]
    sequences = write(tmp_path, [events])
    assert samples_of(sequences)[1] == [([5], 8)]
    assert query_rows(queries_of(sequences, "test"))["u0"] == ([5], [6], [5])
    assert query_rows(queries_of(sequences, "valid"))["u0"] == ([5], [7], [5])


def test_a_query_without_a_history_is_asked_all_the_same(tmp_path):
    rows = query_rows(queries_of(write(tmp_path, [[(5, 0, TEST), (6, 1, TEST)]]), "test"))
    assert rows == {"u0": ([0], [5, 6], [])}


def test_a_part_without_queries_is_empty(tmp_path):
    queries = queries_of(write(tmp_path, [[(5, 0, TRAIN)]]), "test")
    assert len(queries) == 0
    assert queries.batch(np.zeros(0, np.int64))["history"].shape == (0, 1)
    assert queries.truth_offsets.tolist() == queries.seen_offsets.tolist() == [0]


def test_profiles_come_with_their_users_in_every_batch(tmp_path):
    profile = {
        "profile_age": pa.array([2, 3], pa.int32()),
        "profile_tags": pa.FixedSizeListArray.from_arrays(pa.array([1, 0, 4, 5], pa.int32()), 2),
        "profile_income": pa.array([0.5, -1.0], pa.float32()),
    }
    users = [[(5, 0, TRAIN), (6, 1, TRAIN), (8, 2, TEST)], [(7, 0, TRAIN), (6, 1, TRAIN), (9, 2, TEST)]]
    sequences = write(tmp_path, users, profile=profile)
    batch = training_samples(sequences).batch(np.array([1, 0, 1]))
    assert batch["profile_age"].tolist() == [3, 2, 3]
    assert batch["profile_tags"].tolist() == [[4, 5], [1, 0], [4, 5]]
    assert batch["profile_income"].tolist() == [-1.0, 0.5, -1.0]
    dtypes = {name: str(values.dtype) for name, values in batch.items()}
    assert dtypes == {
        "history": "int64", "target": "int64", "profile_age": "int64", "profile_tags": "int64",
        "profile_income": "float32",
    }  # fmt: skip
    assert queries_of(sequences, "test").batch(np.array([1]))["profile_age"].tolist() == [3]
    assert widen(np.array([1.5], np.float32)).dtype == np.float32


def test_files_are_joined_in_the_order_given(tmp_path):
    write(tmp_path, [LEAVE_ONE_OUT], "a")
    write(tmp_path, [[(4, 0, TRAIN)], [(6, 0, TRAIN), (7, 1, TRAIN)]], "b")
    joined = load_sequences(Folder(tmp_path), ["b", "a"])
    assert joined.num_users == 3
    assert joined.offsets.tolist() == [0, 1, 3, 8]
    assert samples_of(joined)[1] == [([0, 6], 7), ([0, 5], 6), ([5, 6], 7)]
