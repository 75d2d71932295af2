"""Sample shapes by hand: what each kind holds of a few events, and what the shape refuses."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.history import Sequences
from raysys.data.pairs import Transitions, pair_samples, rating_samples
from raysys.data.samples import sequence_samples, training_samples
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.data.splits import TEST, TRAIN, VALID
from raysys.errors import ConfigError

DAY = 86_400


def sequences_of(*users, **columns):
    """Users are lists of item_idx; cut, role and session default to one event per unit, all training."""
    sizes = [len(own) for own in users]
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    position = np.concatenate([np.arange(size) for size in sizes])
    events = {
        "item_idx": np.concatenate([np.array(own, np.int32) for own in users]),
        "cut": position,
        "role": np.full(len(position), TRAIN, np.int8),
        "session": np.zeros(len(position), np.int32),
        **{name: np.array(values) for name, values in columns.items()},
    }
    user_id = pa.array([f"u{row}" for row in range(len(users))])
    return Sequences(user_id, offsets, events, {}, np.arange(2, 2 + len(users), dtype=np.int32))


def batch_of(samples):
    batch = samples.batch(np.arange(len(samples)))
    return {name: values.tolist() for name, values in batch.items()}


def test_next_items_stay_with_the_user_and_out_of_the_held_out_events():
    sequences = sequences_of([5, 6, 7, 8, 9], [11, 12], role=[TRAIN, TRAIN, TRAIN, VALID, TEST, TRAIN, TRAIN])
    batch = batch_of(training_samples(sequences, SampleShape(next_items=3)))
    assert batch["history"] == [[0, 5], [5, 6], [0, 11]]
    assert batch["target"] == [[6, 7, 0], [7, 0, 0], [12, 0, 0]]


def test_next_items_of_a_basket_go_on_from_the_target():
    sequences = sequences_of([5, 6, 7, 8, 9], cut=[0, 1, 1, 1, 4])
    batch = batch_of(training_samples(sequences, SampleShape(next_items=2)))
    assert list(zip(batch["history"], batch["target"], strict=True)) == [
        ([0, 0, 0, 5], [6, 7]), ([0, 0, 0, 5], [7, 8]), ([0, 0, 0, 5], [8, 9]), ([5, 6, 7, 8], [9, 0]),
    ]  # fmt: skip


def test_ages_weights_times_and_users_come_with_the_target():
    sequences = sequences_of(
        [5, 6, 7], at=[0, DAY, 2 * DAY], weight=np.array([1, 2, 3], np.float32), event_act=[2, 3, 4]
    )
    shape = SampleShape(example_age=True, weight=True, times=True, user_idx=True, event_features=("act",))
    batch = batch_of(training_samples(sequences, shape, newest_at=4 * DAY))
    assert batch["example_age"] == [3.0, 2.0]
    assert batch["weight"] == [2.0, 3.0]
    assert batch["target_at"] == [DAY, 2 * DAY]
    assert batch["user_idx"] == [2, 2]
    assert batch["history_act"] == [[0, 2], [2, 3]]
    assert batch["history_at"] == [[0, 0], [0, DAY]]


def test_a_sequence_has_its_next_event_at_every_position():
    sequences = sequences_of([5, 6, 7, 8], [4], [2, 3], role=[TRAIN, TRAIN, TRAIN, TEST, *[TRAIN] * 3])
    batch = batch_of(sequence_samples(sequences, SampleShape(kind="sequence", history_length=9)))
    assert batch["history"] == [[5, 6], [0, 2]]
    assert batch["target"] == [[6, 7], [0, 3]]
    batch = batch_of(sequence_samples(sequences, SampleShape(kind="sequence", history_length=1)))
    assert (batch["history"], batch["target"]) == ([[6], [2]], [[7], [3]])


def test_the_lines_of_a_basket_take_those_of_the_next_one_in_turn():
    sequences = sequences_of([5, 6, 7, 8, 9, 10], cut=[0, 0, 0, 3, 3, 5])
    batch = batch_of(sequence_samples(sequences, SampleShape(kind="sequence")))
    assert batch["history"] == [[5, 6, 7, 8, 9]]
    assert batch["target"] == [[8, 9, 8, 10, 10]]


def test_windows_of_long_users_move_between_epochs_and_repeat_within_one():
    sequences = sequences_of(list(range(2, 102)))
    shape = SampleShape(kind="sequence", history_length=10, windows="random")
    ends = [batch_of(sequence_samples(sequences, shape, seed))["target"][0][-1] for seed in range(200)]
    assert min(ends) >= 12
    assert max(ends) == 101
    assert len(set(ends)) > 50
    assert ends[3] == batch_of(sequence_samples(sequences, shape, 3))["target"][0][-1]


def test_pairs_of_a_user_and_of_a_session():
    sequences = sequences_of([5, 6, 7], [4], [8, 9, 10], session=[0, 0, 0, 0, 0, 0, 1])
    batch = batch_of(pair_samples(sequences, SampleShape(kind="pairs", window=1)))
    assert batch["center"] == [5, 6, 7, 8, 9, 10]
    assert batch["context"] == [[0, 6], [5, 7], [6, 0], [0, 9], [8, 10], [9, 0]]
    batch = batch_of(pair_samples(sequences, SampleShape(kind="pairs", window=1, by_session=True)))
    assert batch["center"] == [5, 6, 7, 8, 9]
    assert batch["context"] == [[0, 6], [5, 7], [6, 0], [0, 9], [8, 0]]


def test_the_booked_item_is_the_last_one_of_the_session():
    weight = np.array([1, 5, 1, 5, 1, 1], np.float32)
    sequences = sequences_of([5, 6, 7, 8], [9, 10], weight=weight, session=[0, 0, 0, 0, 0, 0])
    shape = SampleShape(kind="pairs", by_session=True, booked_weight=5.0)
    assert batch_of(pair_samples(sequences, shape))["booked"] == [8, 8, 8, 8, 0, 0]


def test_ratings_are_the_training_events():
    sequences = sequences_of(
        [5, 6, 5], [7], role=[TRAIN, TRAIN, TEST, TRAIN], rating=np.array([1, 2, 3, 4], np.float32)
    )
    assert batch_of(rating_samples(sequences, SampleShape(kind="ratings"))) == {
        "item_idx": [5, 6, 7],
        "rating": [1.0, 2.0, 4.0],
        "user_idx": [2, 2, 3],
    }


def test_transitions_are_counted_within_sessions_and_merge():
    sequences = sequences_of([5, 6, 5, 6, 6], [5, 6], session=[0, 0, 0, 1, 1, 0, 0])
    found = Transitions.of(sequences)
    table = list(zip(found.source.tolist(), found.target.tolist(), found.count.tolist(), strict=True))
    assert table == [(5, 6, 2), (6, 5, 1), (6, 6, 1)]
    twice = Transitions.merge([found, found])
    assert twice.count.tolist() == [4, 2, 2]
    nothing = Transitions.of(sequences_of([], [4]))
    assert len(nothing.count) == 0
    assert Transitions.merge([nothing, found]).count.tolist() == found.count.tolist()


@pytest.mark.parametrize("kind", ["sequence", "pairs", "ratings"])
def test_no_event_at_all(kind):
    sequences = sequences_of([], [], rating=np.zeros(0, np.float32))
    cut = {"sequence": sequence_samples, "pairs": pair_samples, "ratings": rating_samples}[kind]
    samples = cut(sequences, SampleShape(kind=kind))
    assert len(samples) == 0
    assert all(len(values) == 0 for values in samples.batch(np.zeros(0, np.int64)).values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"history_length": -1}, "history_length: found -1, expected >= 0"),
        ({"next_items": 0}, "next_items: found 0, expected >= 1"),
        ({"kind": "pairs", "next_items": 2}, "kind: pairs samples have no next_item options"),
        ({"windows": "random"}, "kind: next_item samples have no sequence options"),
        ({"by_session": True}, "kind: next_item samples have no pairs options"),
        ({"kind": "ratings", "event_features": ("act",)}, "event_features: ratings samples have no history"),
        ({"kind": "sequence", "history_length": 0}, "a sequence needs at least 1"),
        ({"long_features": ("item",)}, "long_features: need the session's config"),
        ({"reach": 5}, "reach: needs the session's config"),
        ({"reach": -1}, "reach: found -1, expected >= 0"),
        ({"event_features": ("at",)}, "event_features: the name at is taken"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        SampleShape(**options)


def test_only_the_columns_that_are_needed_are_named():
    assert SampleShape().columns == ("item_idx", "role", "cut")
    assert SampleShape(kind="pairs").columns == ("item_idx", "role")
    assert SampleShape(kind="ratings").columns == ("item_idx", "role", "rating")
    shape = SampleShape(
        session=SessionConfig(),
        event_features=("act",),
        long_features=("item", "brand", "event_act"),
        times=True,
    )
    assert shape.columns == ("item_idx", "role", "cut", "event_act", "session", "long_start", "at")
    assert shape.query_columns == ("item_idx", "role", "cut", "event_act", "session", "long_start", "at")
    assert shape.item_columns == ("brand",)
