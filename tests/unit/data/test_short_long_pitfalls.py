"""Mistakes found in how public SDM code cuts session and long-term sets, one test each, on a log by
hand. Every check holds for the package and fails for the same code with the mistake.

    row  mistake                                              test_...
      4  short window holds the oldest items                  the_session_holds_the_newest_items
      5  long-term set overlaps the session                   the_long_term_ends_where_the_session_begins
      6  long-term set is a list with repeats                 a_set_holds_each_value_once_the_latest_ones
      7  another session rule than the paper's                the_default_session_rule_is_that_of_the_paper;
                                                              test_sequences.py: a_long_session_is_cut_...

    the other rows: tests/unit/models/test_sdm_pitfalls.py
"""

from dataclasses import replace
from functools import partial
from unittest import mock

import numpy as np
import pyarrow as pa
import pytest

from raysys.data import short_long
from raysys.data.history import Sequences
from raysys.data.samples import training_samples
from raysys.data.sequences import SessionConfig, build_windows
from raysys.data.shapes import SampleShape
from raysys.data.short_long import ShortLong, Values
from raysys.data.splits import SplitConfig

SHORT_AND_LONG, LONG_TERM_SETS, FIND_REPEATS = (
    short_long.short_and_long,
    short_long.long_term_sets,
    short_long.find_repeats,
)


def short_and_long_again(mistake, history, config):
    where = SHORT_AND_LONG(history, config)
    if mistake == "the oldest items":
        stop = np.minimum(where.short_stop, history.start + where.short_stop - where.short_start)
        return ShortLong(history.start, stop, history.start)
    return where


def long_term_sets_again(mistake, where, *others):
    if mistake == "the long term is the whole history":
        where = replace(where, short_start=where.short_stop)
    return LONG_TERM_SETS(where, *others)


def find_repeats_again(mistake, values):
    found = FIND_REPEATS(values)
    if mistake == "a list with repeats":
        never = np.where(found.following < 0, found.following, len(found.flat))
        return Values(found.flat, never, found.slots, len(found.flat))
    return found


def fails_with(check, mistake):
    """Assert that `check` holds, but not with the mistake in the functions of the package."""
    again = {
        "short_and_long": partial(short_and_long_again, mistake),
        "long_term_sets": partial(long_term_sets_again, mistake),
        "find_repeats": partial(find_repeats_again, mistake),
    }
    check()
    with mock.patch.multiple(short_long, **again), pytest.raises(AssertionError):
        check()


# (item, second); categories of items 0 to 9 below
EVENTS = [(2, 0), (3, 10), (2, 20), (4, 9_000), (3, 9_010), (3, 9_020),
          (5, 20_000), (6, 20_100), (8, 20_200), (7, 20_300)]  # fmt: skip
CATEGORY = np.array([0, 0, 2, 3, 2, 4, 5, 2, 3, 6])


def last_sample(events=EVENTS, **session):
    """Session and long-term sets of a user's last event, padding left out."""
    items, at = (np.array(values) for values in zip(*events, strict=True))
    offsets, config = np.array([0, len(items)]), SessionConfig(**session)
    windows = build_windows(offsets, at, None, np.zeros(1, np.uint64), config, SplitConfig(unit="event"))
    stored = {name: getattr(windows, name) for name in ("cut", "session", "long_start")}
    stored |= {"item_idx": items, "role": np.zeros(len(items), np.int8)}
    shape = SampleShape(history_length=0, session=config, long_features=("item", "cate"))
    samples = training_samples(Sequences(pa.array(["u"]), offsets, stored, {}), shape, {"cate": CATEGORY})
    batch = samples.batch(np.array([len(samples) - 1]))
    assert batch["target"].tolist() == [items[-1]]
    found = {
        name: [value for value in batch[name][0].tolist() if value] for name in batch if name != "target"
    }
    return found["short"], found["long_item"], found["long_cate"]


def test_the_session_holds_the_newest_items():
    """Row 4."""

    def check():
        assert last_sample()[0] == [5, 6, 8]
        assert last_sample(last_n=2)[0] == [6, 8]
        assert last_sample(last_n=5)[0] == [3, 3, 5, 6, 8]

    fails_with(check, "the oldest items")


def test_the_long_term_ends_where_the_session_begins():
    """Row 5."""

    def check():
        short, items, categories = last_sample()
        assert not set(short) & set(items)
        assert categories == [2, 3]  # 4 and 5 are of the session alone
        assert last_sample(last_n=1)[:2] == ([8], [2, 4, 3, 5, 6])

    fails_with(check, "the long term is the whole history")


def test_a_set_holds_each_value_once_the_latest_ones():
    """Row 6: the limit counts values, not events."""

    def check():
        assert last_sample()[1:] == ([2, 4, 3], [2, 3])
        assert last_sample(long_term_max=2)[1] == [4, 3]
        assert last_sample(last_n=1, long_term_max=3)[2] == [3, 4, 5]

    fails_with(check, "a list with repeats")


def test_the_default_session_rule_is_that_of_the_paper():
    """Row 7: a gap above 10 minutes ends a session, the long term is the 7 days before it."""
    week = 7 * 86_400
    edges = [(2, 0), (3, 1), (4, week), (5, week + 1), (6, week + 601), (8, week + 602)]
    beyond = [(2, 0), (3, 1), (4, week + 1), (5, week + 2), (6, week + 603), (8, week + 604)]

    def check(**session):
        assert last_sample(edges, **session)[:2] == ([4, 5, 6], [2, 3])
        assert last_sample(beyond[:4], **session)[:2] == ([4], [3])
        assert last_sample(beyond, **session)[:2] == ([6], [4, 5])

    check()
    assert SessionConfig().max_items == 50
    for other in ({"gap_s": 599}, {"gap_s": 1800}, {"long_term_s": week - 1}, {"long_term_s": week + 1}):
        with pytest.raises(AssertionError):
            check(**other)
