"""Splits by hand: who is held out under each of the four kinds, and what never happens."""

import numpy as np
import pyarrow as pa
import pytest

from raysys.data.hashing import hash_text
from raysys.data.splits import (
    CONTEXT,
    HISTORY,
    TEST,
    TRAIN,
    VALID,
    VISIBLE,
    SplitConfig,
    Timeline,
    assign_roles,
)

NAMES = {TRAIN: "t", VALID: "v", TEST: "T", HISTORY: "h", CONTEXT: "c"}


def timeline(sizes, at=None, unit=None):
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    total = int(offsets[-1])
    place = np.concatenate([np.arange(size) for size in sizes]) if sizes else np.zeros(0, np.int64)
    return Timeline(
        offsets=offsets,
        at=np.arange(total) if at is None else np.array(at),
        unit=place if unit is None else np.array(unit),
        user_hash=hash_text(pa.array([f"u{n}" for n in range(len(sizes))], pa.string())),
    )


def words(line, config, target=None):
    roles = "".join(NAMES[role] for role in assign_roles(line, config, target).tolist())
    return [roles[start:stop] for start, stop in zip(line.offsets[:-1], line.offsets[1:], strict=True)]


def test_leave_one_out_by_event():
    # One event: nothing to predict from. Two: no validation target would have a history left to train on.
    assert words(timeline([1, 2, 3, 6]), SplitConfig()) == ["t", "tT", "tvT", "ttttvT"]


def test_leave_one_out_by_session_holds_out_whole_sessions():
    line = timeline([1, 3, 4, 6], unit=[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2])
    assert words(line, SplitConfig(unit="session")) == ["t", "ttT", "tttt", "ttvvTT"]


def test_global_time_cuts_at_the_same_moment_for_everyone():
    config = SplitConfig(kind="time", valid_from="1970-01-01T00:00:10", test_from="1970-01-01T00:00:20Z")
    line = timeline([4, 2, 3], at=[9, 10, 19, 20, 1, 2, 30, 30, 31])
    assert words(line, config) == ["tvvT", "tt", "TTT"]


def test_disjoint_users_are_either_trained_on_or_held_out():
    config = SplitConfig(kind="user", valid_fraction=0.2, test_fraction=0.3, history_fraction=0.8)
    sizes = [1, 2, 5, 10] * 500
    found = words(timeline(sizes), config)
    by_size = {1: {"t", "h"}, 2: {"tt", "hv", "hT"}, 5: {"t" * 5, "hhhhv", "hhhhT"},
               10: {"t" * 10, "hhhhhhhhvv", "hhhhhhhhTT"}}  # fmt: skip
    for size, roles in zip(sizes, found, strict=True):
        assert roles in by_size[size]
    tested = sum(roles.endswith("T") for roles in found) / sum(size > 1 for size in sizes)
    assert tested == pytest.approx(0.3, abs=0.04)  # 1,500 draws: 3 sigma is 0.035
    assert sum(roles.endswith("v") for roles in found) / 1500 == pytest.approx(0.2, abs=0.04)


def test_random_targets_are_never_first_and_have_the_configured_share():
    config = SplitConfig(kind="random_target", valid_fraction=0.05, test_fraction=0.05)
    sizes = [1, 2, 5, 10] * 1000
    found = words(timeline(sizes), config)
    assert {roles[0] for roles in found} == {"t"}
    assert max(roles.count("T") for roles in found) == 1
    assert max(roles.count("v") for roles in found) == 1
    share = sum(roles.count("T") for roles in found) / sum(size for size in sizes if size > 1)
    assert share == pytest.approx(0.05, abs=0.005)
    places = [roles.index("T") for roles in found if len(roles) == 10 and "T" in roles]
    assert set(places) == set(range(1, 10))


@pytest.mark.parametrize("kind", ["user", "random_target"])
def test_a_draw_is_a_function_of_the_user_and_the_seed_not_of_the_neighbours(kind):
    config = SplitConfig(kind=kind, valid_fraction=0.3, test_fraction=0.3, seed=4)
    line = timeline([5] * 40)
    together = words(line, config)
    for user in range(0, 40, 7):
        alone = Timeline(np.array([0, 5]), np.arange(5), np.arange(5), line.user_hash[user : user + 1])
        assert words(alone, config) == [together[user]]
    assert words(line, SplitConfig(kind=kind, valid_fraction=0.3, test_fraction=0.3, seed=5)) != together


@pytest.mark.parametrize("kind", ["leave_one_out", "time", "user", "random_target"])
def test_no_users_and_users_without_events(kind):
    config = SplitConfig(kind=kind, valid_from="2020-01-01", test_from="2020-02-01")
    assert words(timeline([]), config) == []
    assert words(timeline([0, 1, 0]), config) in (["", "t", ""], ["", "h", ""])


def test_what_a_history_may_hold_is_stated_once():
    assert {part: set(roles) for part, roles in VISIBLE.items()} == {
        "train": {TRAIN, CONTEXT},
        "valid": {TRAIN, CONTEXT, HISTORY},
        "test": {TRAIN, CONTEXT, HISTORY, VALID},
    }


def test_a_timeline_of_some_events_numbers_units_anew():
    line = timeline([3, 2, 0, 4], unit=[0, 1, 1, 0, 1, 0, 0, 2, 5])
    some = line.only(np.array([0, 1, 1, 0, 0, 0, 1, 0, 1], dtype=bool))
    assert some.offsets.tolist() == [0, 2, 2, 2, 4]  # the same users, some of them without events
    assert some.unit.tolist() == [0, 0, 0, 1]
    assert some.at.tolist() == [1, 2, 6, 8]
    assert some.user_hash.tolist() == line.user_hash.tolist()
    assert some.user.tolist() == [0, 0, 3, 3]
    whole = line.only(np.ones(9, dtype=bool))
    assert (whole.offsets.tolist(), whole.unit.tolist()) == (
        line.offsets.tolist(),
        [0, 1, 1, 0, 1, 0, 0, 1, 2],
    )
    none = line.only(np.zeros(9, dtype=bool))
    assert (none.offsets.tolist(), none.unit.tolist()) == ([0] * 5, [])


def test_events_that_are_no_targets_are_context_and_the_others_are_split_without_them():
    target = np.array([c == "b" for c in "bvbvbvvvbbvv"])
    line = timeline([5, 2, 5])
    assert words(line, SplitConfig(), target) == ["tcvcT", "cc", "ctTcc"]
    by_session = timeline([5, 2, 5], unit=[0, 0, 1, 2, 3, 0, 0, 0, 1, 2, 2, 2])
    assert words(by_session, SplitConfig(unit="session"), target) == ["tcvcT", "cc", "ctTcc"]
    config = SplitConfig(kind="time", valid_from="1970-01-01T00:00:04", test_from="1970-01-01T00:00:09Z")
    assert words(line, config, target) == ["tctcv", "cc", "cvTcc"]
    assert words(line, SplitConfig(), np.zeros(12, dtype=bool)) == ["ccccc", "cc", "ccccc"]


@pytest.mark.parametrize("kind", ["user", "random_target"])
def test_a_draw_with_context_is_that_of_the_log_without_it(kind):
    config = SplitConfig(kind=kind, valid_fraction=0.3, test_fraction=0.3)
    target = np.random.default_rng(0).random(400) < 0.6
    sizes = [10] * 40
    line = timeline(sizes)
    without = timeline(np.add.reduceat(target, line.offsets[:-1]).tolist())
    found = [roles.replace("c", "") for roles in words(line, config, target)]
    assert found == words(without, config)
    assert {"v", "T"} < set("".join(found))
