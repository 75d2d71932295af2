"""Session and long-term sets against a loop over the events of each history."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raysys.data.history import History, Sequences
from raysys.data.samples import training_samples
from raysys.data.sequences import SessionConfig, long_term_start
from raysys.data.short_long import find_repeats, long_term_sets, short_and_long
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
