"""Session and long-term sets against a loop over the events of each history."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.data.history import History, Sequences
from raysys.data.samples import training_samples
from raysys.data.sequences import SessionConfig, long_term_start
from raysys.data.shapes import SampleShape
from raysys.data.short_long import find_repeats, long_term_sets, short_and_long, within_reach
from raysys.data.splits import TRAIN, VALID


def slow(session, at, values, start, stop, config):
    """Return (short positions, long-term values latest last) of one history."""
    visible = list(range(start, stop))
    if not visible:
        return [], []
    if config.last_n:
        short = visible[-config.last_n :]
    else:
        short = [i for i in visible if session[i] == session[visible[-1]]][-config.max_items :]
    limit = at[short[0]] - config.long_term_s
    kept = []
    for i in reversed([i for i in visible if i < short[0] and at[i] >= limit]):
        if values[i] != 0 and values[i] not in kept:
            kept.append(values[i])
    return short, kept[: config.long_term_max][::-1]


@st.composite
def histories(draw):
    """Users with rising times and sessions, and every history that a target of theirs can have."""
    at, session, start, stop, offsets = [], [], [], [], [0]
    for _ in range(draw(st.integers(1, 4))):
        base, count = len(at), draw(st.integers(0, 12))
        gaps = draw(st.lists(st.integers(0, 40), min_size=count, max_size=count))
        steps = draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))
        at += list(1000 + np.cumsum(gaps)) if count else []
        session += list(np.cumsum(steps)) if count else []
        offsets.append(len(at))
        for cut in range(count + 1):
            start.append(base)
            stop.append(base + cut)
    values = draw(st.lists(st.integers(0, 5), min_size=len(at), max_size=len(at)))
    events = {"session": np.array(session, np.int64), "at": np.array(at, np.int64)}
    history = History(events, np.array(start), np.array(stop), np.zeros(len(start), np.int64))
    return history, np.array(values, np.int64), np.array(offsets)


@given(
    histories(),
    st.integers(0, 3),
    st.integers(1, 5),
    st.sampled_from([1, 30, 10_000]),
    st.integers(1, 4),
)
def test_equals_the_loop_and_never_overlaps(drawn, last_n, max_items, reach, most):
    history, values, offsets = drawn
    history.events["long_start"] = long_term_start(offsets, history.events["at"], reach)
    config = SessionConfig(last_n=last_n, max_items=max_items, long_term_s=reach, long_term_max=most)
    where = short_and_long(history, config)
    sets = long_term_sets(where, np.arange(len(history)), find_repeats(values), most)
    for row in range(len(history)):
        short, long = slow(
            history.events["session"],
            history.events["at"],
            values,
            history.start[row],
            history.stop[row],
            config,
        )
        if short:
            assert list(range(where.short_start[row], where.short_stop[row])) == short
        else:
            assert where.short_start[row] == where.short_stop[row]
        assert [v for v in sets[row] if v] == long
        assert where.long_start[row] <= where.short_start[row] <= where.short_stop[row]


def test_hand_worked_sets_are_latest_last_and_distinct():
    events = {"session": np.array([0, 0, 0, 1, 1]), "long_start": np.array([0, 0, 0, 0, 0])}
    history = History(events, np.array([0]), np.array([5]), np.array([0]))
    where = short_and_long(history, SessionConfig())
    assert (where.short_start[0], where.long_start[0]) == (3, 0)
    assert long_term_sets(where, np.array([0]), find_repeats(np.array([7, 8, 7, 9, 9])), 5).tolist() == [
        [8, 7]
    ]


@pytest.mark.parametrize(
    ("reach", "short", "items", "stores"),
    [
        (0, [13, 14], [12, 11, 10], [3, 2, 4]),
        (7, [13, 14], [12, 11, 10], [3, 2, 4]),
        (6, [13, 14], [12, 11, 10], [3, 2, 4]),
        (5, [13, 14], [12, 11, 10], [3, 2, 4]),
        (4, [13, 14], [11, 10], [2, 4]),
        (3, [13, 14], [10], [4]),
        (2, [13, 14], [], []),
        (1, [14], [], []),
    ],
)
def test_session_and_sets_are_cut_from_the_latest_events(reach, short, items, stores):
    """The user's six events before the target 15; another user's come before and after them."""
    events = {
        "item_idx": np.array([10, 11, 10, 12, 11, 10, 13, 14, 15, 10, 11]),
        "event_store": np.array([9, 9, 2, 3, 2, 4, 5, 6, 7, 9, 9]),
        "cut": np.array([0, 1, 0, 1, 2, 3, 4, 5, 6, 0, 1]),
        "role": np.full(11, TRAIN, np.int8),
        "session": np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0]),
        "long_start": np.zeros(11, np.int64),
    }
    sequences = Sequences(pa.array(["u", "v", "w"]), np.array([0, 2, 9, 11]), events, {})
    shape = SampleShape(
        history_length=0, session=SessionConfig(), reach=reach, long_features=("item", "event_store")
    )
    samples = training_samples(sequences, shape)
    row = samples.target.tolist().index(15)
    batch = samples.batch(np.array([row]))
    found = [[v for v in batch[name][0] if v] for name in ("short", "long_item", "long_event_store")]
    assert found == [short, items, stores]


def test_the_reach_never_lengthens_a_range():
    events = {"session": np.array([0, 0, 1, 1, 2]), "long_start": np.array([0, 0, 1, 1, 2])}
    history = History(events, np.array([0, 0, 0]), np.array([0, 3, 5]), np.zeros(3, np.int64))
    where = short_and_long(history, SessionConfig())
    for reach in (0, 5, 100):
        found = within_reach(where, reach)
        for name in ("short_start", "short_stop", "long_start"):
            assert getattr(found, name).tolist() == getattr(where, name).tolist()
    near = within_reach(where, 1)
    assert near.short_start.tolist() == near.long_start.tolist() == [0, 2, 4]
    assert near.short_stop.tolist() == [0, 3, 5]


@pytest.mark.parametrize("reach", [780, 779])
def test_the_window_includes_its_edge(reach):
    events = {"session": np.array([0, 1])}
    events["long_start"] = long_term_start(np.array([0, 2]), np.array([120, 900]), reach)
    history = History(events, np.array([0]), np.array([2]), np.array([0]))
    where = short_and_long(history, SessionConfig())
    found = long_term_sets(where, np.array([0]), find_repeats(np.array([4, 5])), 5)
    assert found.tolist() == ([[4]] if reach == 780 else [[0]])


def test_stored_positions_are_followed_past_events_that_are_not_visible():
    """A validation event between the history's events is not counted: only training events are visible."""
    role = np.array([TRAIN, VALID, TRAIN, TRAIN, TRAIN], np.int8)
    events = {
        "item_idx": np.array([11, 12, 13, 14, 15]),
        "cut": np.arange(5),
        "role": role,
        "session": np.array([0, 0, 1, 2, 2]),
        "long_start": np.array([0, 0, 1, 1, 1]),
    }
    sequences = Sequences(pa.array(["u"]), np.array([0, 5]), events, {})
    samples = training_samples(sequences)
    where = short_and_long(samples.history, SessionConfig())
    row = len(samples) - 1  # the target is the last event: item 14 is its session, item 13 its long term
    items = find_repeats(samples.history.events["item_idx"])
    sets = long_term_sets(where, np.array([row]), items, 5)
    assert samples.history.events["item_idx"][where.short_start[row] : where.short_stop[row]].tolist() == [14]
    assert sets.tolist() == [[13]]
