"""The profile of a log; the oracles are tests/reference/profile.py and small logs worked by hand."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.data import profile as module
from raysys.data.description import describe
from raysys.data.profile import held_out, merge, profile_partition, with_held_out
from raysys.data.sequences import SessionConfig, build_windows
from raysys.data.splits import SplitConfig
from raysys.data.tally import Tally, distribution
from raysys.storage import Folder
from tests.reference import profile as slow
from tests.reference.line import prepare_here, run_of

T = 1_600_000_000
DAY = 86_400
NUM_ITEMS = 12


def write_csv(path, lines, header):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(map(str, line)) for line in lines)]) + "\n")


def sorted_log(drawn):
    """Return user -> sorted events of drawn (user, item, second, nanoseconds)."""
    users = {}
    for user, item, second, ns in sorted(drawn, key=lambda row: (row[0], row[2], row[3])):
        users.setdefault(f"u{user}", []).append({"item": item, "time_ns": second * 10**9 + ns})
    return users


def arrays(users, session, split, by_session, num_targets=NUM_ITEMS):
    """Return what `profile_partition` takes of some users; items from `num_targets` on are no targets."""
    sizes = [len(own) for own in users.values()]
    events = [event for own in users.values() for event in own]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    time_ns = np.array([event["time_ns"] for event in events], np.int64)
    hashes = np.array([sum(map(ord, user)) * 0x9E3779B97F4A7C15 % 2**64 for user in users], np.uint64)
    item = np.array([event["item"] for event in events], np.int32)
    windows = build_windows(offsets, time_ns // 10**9, None, hashes, session, split, item < num_targets)
    whole = windows.timeline.unit if by_session else None
    return {
        "offsets": offsets,
        "users": pa.array(list(users), pa.string()),
        "at": time_ns // 10**9,
        "time_ns": time_ns,
        "item": item,
        "num_items": NUM_ITEMS,
        "session": windows.session,
        "role": windows.role,
        "whole": whole,
    }


def profiled(found, counts, config, **more):
    """Return the profile of some users alone; `counts` of the training events of the whole log."""
    total = profile_partition(**found, config=config, **more)
    return with_held_out(total, [held_out(found["item"], found["role"], counts)])


def reference(users, found, session):
    """Return the slow profile of the log whose arrays are given."""
    whole, own = 0, {}
    for user, low, high in zip(users, found["offsets"], found["offsets"][1:], strict=False):
        own[user] = []
        for n in range(low, high):
            whole += n > low and found["at"][n] - found["at"][n - 1] > session.gap_s
            own[user].append(
                {
                    **{name: int(found[name][n]) for name in ("item", "time_ns", "session", "role")},
                    "whole": whole,
                }
            )
    return slow.describe(own, session.gap_s, session.max_items)


rows = st.lists(
    st.tuples(
        st.integers(0, 8),
        st.integers(0, NUM_ITEMS - 1),
        st.one_of(st.integers(T, T + 40), st.integers(T, T + 900 * DAY), st.integers(18_500, 18_900).map(
            lambda day: day * DAY
        )),
        st.sampled_from([0, 0, 500_000_000]),
    ),
    min_size=1,
    max_size=60,
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    drawn=rows,
    gap_s=st.sampled_from([1, 10, DAY]),
    max_items=st.sampled_from([1, 2, 3, 50]),
    unit=st.sampled_from(["event", "session"]),
    kind=st.sampled_from(["leave_one_out", "time"]),
    parts=st.lists(st.integers(0, 3), min_size=9, max_size=9),
    block=st.sampled_from([1, 5, 2**17]),
    num_targets=st.sampled_from([NUM_ITEMS, 7]),
)
def test_any_parts_add_up_to_the_slow_reference(
    drawn, gap_s, max_items, unit, kind, parts, block, num_targets
):
    session = SessionConfig(gap_s=gap_s, max_items=max_items)
    cutoffs = {"valid_from": "2020-09-13T12:26:50", "test_from": "2020-12-01"} if kind == "time" else {}
    split = SplitConfig(kind=kind, unit=unit, **cutoffs)
    users = sorted_log(drawn)
    whole_log = arrays(users, session, split, unit == "session", num_targets)
    counts = np.bincount(whole_log["item"][whole_log["role"] == 0], minlength=NUM_ITEMS)
    kept = module.BLOCK
    module.BLOCK = block
    try:
        totals, rest = [], []
        for number in range(4):
            some = {user: own for user, own in users.items() if parts[int(user[1:])] == number}
            found = arrays(some, session, split, unit == "session", num_targets)
            totals.append(profile_partition(**found, config=session))
            rest.append(held_out(found["item"], found["role"], counts))
    finally:
        module.BLOCK = kept
    expected = reference(users, whole_log, session)
    assert describe(with_held_out(merge(totals), rest), counts, session, {}) == expected
    turned = merge([merge(totals[2:]), *totals[:2]])
    assert describe(with_held_out(turned, rest[::-1]), counts, session, {}) == expected


@given(st.lists(st.lists(st.integers(0, 10**9), max_size=20), min_size=1, max_size=5))
def test_tallies_are_exact_and_merge(parts):
    values = sorted(value for part in parts for value in part)
    merged = Tally.merge([Tally.of(np.array(part, np.int64)) for part in parts])
    assert np.repeat(merged.values, merged.counts).tolist() == values
    if values:
        assert distribution(merged) == slow.distribution(values)


def test_times_are_shown_by_day_week_or_month():
    config, units = SessionConfig(), {}
    for days in (400, 401, 2800, 2801):
        users = {"u0": [{"item": 0, "time_ns": at * 10**9} for at in (T, T + (days - 1) * DAY)]}
        found = arrays(users, config, SplitConfig(), False)
        total = profiled(found, np.array([1]), config)
        told = describe(total, np.array([1]), config, {})["time"]
        assert told == slow.times([T, T + (days - 1) * DAY])
        units[days] = (told["unit"], told["begin"], len(told["events"]))
    assert units == {
        400: ("day", "2020-09-13", 400),
        401: ("week", "2020-09-07", 59),
        2800: ("week", "2020-09-07", 401),
        2801: ("month", "2020-09", 93),
    }


def test_numbers_of_a_log_worked_by_hand():
    users = {"a": [(0, T), (1, T), (0, T + 5)], "b": [(2, T), (3, T + 1000)]}
    log = {u: [{"item": item, "time_ns": at * 10**9} for item, at in own] for u, own in users.items()}
    config = SessionConfig(max_items=2)
    counts = np.array([1, 0, 1, 0])  # a: item 0 train, 1 valid, 0 test; b: item 2 train, 3 test
    total = profiled(
        arrays(log, config, SplitConfig(), False),
        counts,
        config,
        event=pa.chunked_array([["buy", None, "buy"], ["view", "buy"]]),
        nulls={"store": 2},
    )
    told = describe(total, counts, config, {"store": 7})
    assert (told["tied_share"], told["repeat_share"], told["cut_share"]) == (0.2, 0.2, 0.2)
    assert told["gaps"]["histogram"] == {
        "from": [0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512],
        "count": [1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1],
    }
    assert told["gaps"]["within_gap_share"] == 0.666667
    assert told["events_per_session"]["histogram"] == {"from": [1, 2], "count": [3, 1]}
    assert told["cold"]["valid"]["cold_target_share"] == 1.0
    assert told["cold"]["test"]["cold_target_share"] == 0.5
    assert told["event_types"] == {"buy": 0.6, "": 0.2, "view": 0.2}
    assert told["features"] == {"store": {"values": 7, "null_share": 0.4}}
    assert told["concentration"]["busiest_user_share"] == 0.6


def test_sessions_of_a_column_have_no_gap_and_no_known_cut_without_their_whole():
    config = SessionConfig(by_column=True)
    log = {"a": [{"item": 0, "time_ns": T * 10**9}]}
    found, counts = arrays(log, SessionConfig(), SplitConfig(), False), np.ones(1, np.int64)
    total = profile_partition(**found, config=config)
    rest = [held_out(found["item"], found["role"], counts)] * 2
    told = describe(with_held_out(merge([total, total]), rest), counts, config, {})
    assert told["cut_share"] is None
    assert (told["gaps"]["session_gap_s"], told["gaps"]["within_gap_share"]) == (None, None)


def test_the_busiest_users_of_all_parts_are_kept():
    config, parts = SessionConfig(), []
    for part in range(3):
        log = {
            f"{part}-{n:03d}": [
                {"item": 0, "time_ns": (T + k) * 10**9} for k in range(1 + 2 * (n == 7 * part))
            ]
            for n in range(300)
        }
        found = arrays(log, config, SplitConfig(), False)
        parts.append(profile_partition(**found, config=config))
    found = merge(parts).busiest
    assert found[:4] == [(3, "0-000"), (3, "1-007"), (3, "2-014"), found[3]]
    assert len(found) == module.BUSIEST
    assert found[3][0] == 1


@pytest.mark.parametrize("sections", [{}, {"session": {"by_column": True}, "split": {"unit": "session"}}])
def test_the_file_does_not_depend_on_files_partitions_and_row_order(tmp_path, sections):
    random = np.random.default_rng(3)
    lines = [
        (f"u{random.integers(9)}", f"i{random.zipf(1.5) % 30}", T + int(random.integers(0, 40 * DAY)), n,
         f"s{random.integers(5)}", "north" if n % 3 else "")
        for n in range(400)
    ]  # fmt: skip
    header = "user,item,time,order,session,shop"
    columns = {"order": "order", "session": "session", "store": "shop"}
    contents = []
    for number, partitions in enumerate((1, 5)):
        folder = tmp_path / f"log-{number}"
        shuffled = [lines[n] for n in random.permutation(len(lines))] if number else lines
        step = 90 if number else len(lines)
        for start in range(0, len(lines), step):
            write_csv(folder / f"{start}.csv", shuffled[start : start + step], header)
        run = run_of(f"{folder}/*.csv", columns, data={"partitions": partitions}, **sections)
        features, info = prepare_here(run, tmp_path / f"out-{number}")
        contents.append(features.read_bytes("profile.json"))
    assert contents[0] == contents[1]
    found = json.loads(contents[0])
    assert found["counts"]["events"] == sum(found["time"]["events"]) == 400
    assert found["counts"]["sessions"] == found["events_per_session"]["count"]
    assert {part: found["cold"][part]["queries"] for part in ("valid", "test")} == info["queries"]
    assert found["features"]["store"]["values"] == 1
    assert "profile.json" in Folder(features.uri).read_json("manifest.json")["files"]
