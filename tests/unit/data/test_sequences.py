"""Sessions, cuts and long-term windows by hand."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.data import sequences
from raysys.data.hashing import Coded, hash_text
from raysys.data.sequences import (
    SessionConfig,
    Windows,
    build_windows,
    cut_long_sessions,
    long_term_start,
    ordinals,
    run_starts,
    session_flags,
    user_offsets,
    windows_of,
)
from raysys.data.splits import CONTEXT, HISTORY, TEST, TRAIN, VALID, VISIBLE, SplitConfig, Timeline

SESSION_UNIT = SplitConfig(unit="session")


def windows(users, column=None, split=SESSION_UNIT, **session):
    """Return the windows of users given as lists of times."""
    offsets = np.concatenate([[0], np.cumsum([len(at) for at in users])]).astype(np.int64)
    at = np.array([second for at in users for second in at], dtype=np.int64)
    codes = None if column is None else np.array(column)
    hashes = np.arange(len(users), dtype=np.uint64)
    return build_windows(offsets, at, codes, hashes, SessionConfig(**session), split)


def test_a_gap_of_exactly_the_limit_does_not_end_a_session():
    out = windows([[0, 10, 20, 31, 31]], gap_s=10)
    assert out.session.tolist() == [0, 0, 0, 1, 1]


def test_users_start_their_own_sessions_even_at_the_same_second():
    out = windows([[5, 5], [5], [6, 600]], gap_s=10)
    assert out.session.tolist() == [0, 0, 0, 0, 1]


def test_the_logs_own_session_ids_win_over_gaps():
    out = windows([[0, 1, 999, 1000]], column=[7, 8, 8, 7], gap_s=10, by_column=True)
    assert out.session.tolist() == [0, 1, 1, 2]


def test_a_session_id_shared_by_two_users_is_two_sessions():
    out = windows([[0, 1], [2, 3]], column=[7, 7, 7, 7], by_column=True)
    assert out.session.tolist() == [0, 0, 0, 0]
    assert out.cut.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("size", "cap", "expected"),
    [
        (5, 2, [0, 1, 1, 2, 2]),  # the newest ones fill the last session, the oldest are alone
        (4, 2, [0, 0, 1, 1]),
        (3, 1, [0, 1, 2]),
        (3, 3, [0, 0, 0]),
        (3, 50, [0, 0, 0]),
    ],
)
def test_a_long_session_is_cut_from_its_end(size, cap, expected):
    assert windows([[1] * size], max_items=cap).session.tolist() == expected


def test_the_cap_cuts_sessions_but_not_the_unit_that_is_held_out():
    out = windows([[0, 100, 100, 100]], gap_s=10, max_items=2)
    assert out.session.tolist() == [0, 1, 2, 2]
    assert out.cut.tolist() == [0, 1, 1, 1]  # the whole basket sees only what was before the basket
    assert out.role.tolist() == [0, 2, 2, 2]


def test_under_unit_session_nothing_of_the_start_second_is_seen():
    # two baskets in one second: neither is before the other
    out = windows([[0, 50, 50, 50, 90]], column=[1, 2, 2, 3, 4], by_column=True)
    assert out.cut.tolist() == [0, 1, 1, 1, 4]


def test_under_unit_event_the_order_of_events_decides():
    out = windows([[0, 50, 50, 50]], split=SplitConfig())
    assert out.cut.tolist() == [0, 1, 2, 3]


def test_the_long_term_reaches_back_as_configured_and_never_to_another_user():
    out = windows([[0, 10, 11, 20], [21, 22]], long_term_s=10)
    assert out.long_start.tolist() == [0, 0, 1, 1, 0, 0]
    far = windows([[0, 10**9], [5]], long_term_s=2**62)
    assert far.long_start.tolist() == [0, 0, 0]


def test_no_events_and_users_without_any():
    empty = windows([])
    assert [len(values) for values in (empty.session, empty.cut, empty.long_start, empty.role)] == [0] * 4
    assert windows([[], [3], []]).session.tolist() == [0]
    assert long_term_start(np.array([0]), np.array([], dtype=np.int64), 5).tolist() == []


def test_pieces_of_the_session_rule():
    offsets, at = np.array([0, 2, 4]), np.array([0, 5, 6, 100])
    flags = session_flags(offsets, at, None, SessionConfig(gap_s=10))
    assert flags.tolist() == [True, False, True, True]
    assert cut_long_sessions(np.array([True, False, False]), 2).tolist() == [True, True, False]
    assert ordinals(flags, offsets).tolist() == [0, 0, 0, 1]
    assert run_starts(flags).tolist() == [0, 0, 2, 3]


def test_seconds_are_what_counts_and_missing_session_ids_are_one_session():
    table = pa.table(
        {
            "user_id": ["a", "a", "a", "b"],
            "time_ns": pa.array([10**9, 10**9 + 999, 20 * 10**9, 5], pa.int64()),
            "session": pa.array(["s", None, None, None], pa.string()),
        }
    )
    users = Coded.of(table.column("user_id"))
    out = windows_of(table, users, SessionConfig(by_column=True), SESSION_UNIT)
    assert out.timeline.user_hash.tolist() == hash_text(pa.array(["a", "b"])).tolist()
    assert out.timeline.offsets.tolist() == [0, 3, 4]
    assert out.timeline.at.tolist() == [1, 1, 20, 0]
    assert out.session.tolist() == [0, 1, 1, 0]
    assert out.cut.tolist() == [0, 0, 0, 0]


def test_user_offsets_of_a_sorted_column_in_chunks():
    users = Coded.of(pa.chunked_array([["a", "a"], ["a", "b"], []], pa.string()))
    assert user_offsets(users).tolist() == [0, 3, 4]
    assert users.values.to_pylist() == ["a", "b"]
    assert user_offsets(Coded.of(pa.array([7, 7, -1]))).tolist() == [0, 2, 3]
    assert user_offsets(Coded.of(pa.array([], pa.string()))).tolist() == [0]


def test_the_long_term_may_reach_back_a_number_of_events():
    out = windows([[0, 10, 11, 20], [21, 22]], long_term_s=1, long_term_events=2)
    assert out.long_start.tolist() == [0, 0, 0, 1, 0, 0]
    assert windows([[0, 1, 2]], long_term_events=99).long_start.tolist() == [0, 0, 0]


@pytest.mark.parametrize("block", [1, 2, 7, 2048])
@pytest.mark.parametrize("seed", range(4))
def test_the_long_term_start_equals_a_search_within_each_user(seed, block, monkeypatch):
    monkeypatch.setattr(sequences, "SEARCH_BLOCK", block)
    draw = np.random.default_rng(seed)
    sizes = draw.integers(0, 60, 30)
    users = [np.sort(draw.integers(0, draw.choice([10, 10**4, 10**9]), size)) for size in sizes]
    offsets, at = np.concatenate([[0], np.cumsum(sizes)]), np.concatenate(users)
    for reach in (1, 50, 10**5, 2**62):
        wanted = [
            start + np.searchsorted(own, own - reach) for start, own in zip(offsets[:-1], users, strict=True)
        ]
        assert long_term_start(offsets, at, reach).tolist() == np.concatenate(wanted).tolist()


def test_whether_a_history_holds_anything_depends_on_what_its_part_may_see():
    roles = (
        [TRAIN, TRAIN, VALID, TEST],
        [HISTORY, VALID],
        [CONTEXT, TRAIN, TEST],
        [TEST],
        [],
        [VALID, CONTEXT, TRAIN],
    )
    offsets = np.concatenate([[0], np.cumsum([len(own) for own in roles])])
    flat = np.array([role for own in roles for role in own], np.int8)
    cut = np.concatenate([np.arange(len(own)) for own in roles])
    line = Timeline(offsets, np.arange(len(flat)), cut, np.zeros(len(roles), np.uint64))
    out = Windows(timeline=line, session=cut, cut=cut, long_start=cut, role=flat)
    found = {part: "".join(".x"[has] for has in out.has_history(part).tolist()) for part in VISIBLE}
    assert found == {"train": ".xxx" ".." ".xx" "." "..x", "valid": ".xxx" ".x" ".xx" "." "..x",
                     "test": ".xxx" ".x" ".xx" "." ".xx"}  # fmt: skip
    late = Windows(timeline=line, session=cut, cut=np.zeros(len(flat), np.int64), long_start=cut, role=flat)
    assert not late.has_history("test").any()  # one unit: nothing is before it
    for part in VISIBLE:  # a loop over the events
        slow = [
            any(own[p] in VISIBLE[part] for p in range(cut[start + place]))
            for start, own in zip(offsets[:-1], roles, strict=True)
            for place in range(len(own))
        ]
        assert out.has_history(part).tolist() == slow
    empty = Windows(
        timeline=Timeline(np.array([0]), cut[:0], cut[:0], line.user_hash[:0]),
        session=cut[:0], cut=cut[:0], long_start=cut[:0], role=flat[:0],
    )  # fmt: skip
    assert empty.has_history("train").tolist() == []


def test_event_types_decide_targets_and_a_null_type_is_none():
    table = pa.table(
        {
            "user_id": ["a"] * 5,
            "time_ns": pa.array([n * 10**9 for n in range(5)], pa.int64()),
            "event": pa.array(["buy", None, "buy", "view", "buy"], pa.string()),
        }
    )
    users = Coded.of(table.column("user_id"))
    out = windows_of(table, users, SessionConfig(), SplitConfig(target_events=("buy",)))
    assert out.role.tolist() == [TRAIN, CONTEXT, VALID, CONTEXT, TEST]
    assert windows_of(table, users, SessionConfig(), SplitConfig()).role.tolist() == [0, 0, 0, 1, 2]
