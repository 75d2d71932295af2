"""The matrix by hand."""

import numpy as np
import pyarrow as pa

from raysys.data.history import Sequences
from raysys.data.interactions import Entries, Interactions
from raysys.data.splits import CONTEXT, HISTORY, TEST, TRAIN, VALID


def sequences(role=(TRAIN,) * 5):
    events = {
        "item_idx": np.array([4, 3, 4, 3, 5], np.int32),
        "role": np.array(role, np.int8),
        "at": np.array([10, 20, 30, 5, 50]),
        "weight": np.array([1.0, 2.0, 0.5, 4.0, 8.0], np.float32),
    }
    return Sequences(pa.array(["b", "a"]), np.array([0, 3, 5]), events, {}, np.array([3, 2], np.int32))


def test_repeats_add_up_and_the_latest_time_stays():
    entries = Entries.of(sequences(), "weight")
    assert entries.user_idx.tolist() == [2, 2, 3, 3]
    assert entries.item_idx.tolist() == [3, 5, 3, 4]
    assert entries.weight.tolist() == [4.0, 8.0, 2.0, 1.5]
    assert entries.count.tolist() == [1, 1, 1, 2]
    assert entries.at.tolist() == [5, 50, 20, 30]
    assert Entries.of(sequences()).weight.tolist() == [1.0, 1.0, 1.0, 2.0]


def test_both_orientations_are_aligned():
    matrix = Interactions.build(Entries.of(sequences(), "weight"), 4, 7)
    assert matrix.by_user.offsets.tolist() == [0, 0, 0, 2, 4]
    assert matrix.by_user.columns.tolist() == [3, 5, 3, 4]
    assert matrix.by_item.offsets.tolist() == [0, 0, 0, 0, 2, 3, 4, 4]
    assert matrix.by_item.columns.tolist() == [2, 3, 3, 2]
    assert matrix.by_item.weight.tolist() == [4.0, 2.0, 1.5, 8.0]
    assert matrix.by_item.count.tolist() == [1, 1, 2, 1]
    assert matrix.by_item.at.tolist() == [5, 20, 30, 50]
    kinds = [getattr(matrix.by_item, name).dtype for name in ("offsets", "columns", "weight", "count", "at")]
    assert kinds == [np.int64, np.int32, np.float32, np.int32, np.int64]
    starts, cells = matrix.by_item.positions(np.array([5, 3, 6]))
    assert (starts.tolist(), matrix.by_item.columns[cells].tolist()) == ([0, 1, 3, 3], [2, 2, 3])


def test_held_out_events_are_left_out_and_seeds_may_see_more():
    role = (TRAIN, VALID, TEST, HISTORY, TRAIN)
    cells = {
        part: Entries.of(sequences(role), part=part).item_idx.tolist() for part in ("train", "valid", "test")
    }
    assert cells == {"train": [5, 4], "valid": [3, 5, 4], "test": [3, 5, 3, 4]}


def test_context_is_left_out_because_it_may_come_after_what_is_held_out():
    role = (TRAIN, CONTEXT, TEST, CONTEXT, TRAIN)
    for part in ("train", "valid", "test"):
        assert Entries.of(sequences(role), part=part).item_idx.tolist() == [5, 4]


def test_a_matrix_of_nothing():
    entries = Entries.of(sequences((TEST,) * 5))
    assert len(Entries.merge([entries, entries]).user_idx) == 0
    matrix = Interactions.build(entries, 3, 4)
    assert (matrix.by_user.offsets.tolist(), len(matrix.by_item)) == ([0, 0, 0, 0], 4)
