"""Splits: the role of every event of a user.

    TRAIN, VALID, TEST  a target of that part
    HISTORY             what a held-out user did first; seen by that user's validation or test history only
    CONTEXT             an event of a type that is no target; seen by every later history of its user

A closed set of four kinds. Under each, a history holds only events strictly before its target's unit (event
or session).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa

from raysys.config import require
from raysys.data.hashing import uniform
from raysys.data.times import Clock, parse_text
from raysys.seeds import derive_seed

TRAIN, VALID, TEST, HISTORY, CONTEXT = 0, 1, 2, 3, 4
VISIBLE = {
    "train": (TRAIN, CONTEXT),
    "valid": (TRAIN, CONTEXT, HISTORY),
    "test": (TRAIN, CONTEXT, HISTORY, VALID),
}
"""Roles that a history of each part may hold."""


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """`[split]`: what is held out, and what a list may contain."""

    kind: Literal["leave_one_out", "time", "user", "random_target"] = "leave_one_out"
    """leave_one_out: each user's last unit is test, the one before it valid. time: global cut-offs. user:
    disjoint users. random_target: one random earlier event per drawn user (MIND paper, 19:1)."""
    unit: Literal["event", "session"] = "event"
    """Hold out the last event, or the whole last session with all its items as targets (baskets)."""
    target_events: tuple[str, ...] = ()
    """Event types that are targets, the others are history only; empty: all. Needs `data.columns.event`."""
    filter_seen: bool = True
    """Remove items of the user's history from the lists; false where people buy again."""
    valid_from: str = ""
    """time: ISO 8601 start of validation (UTC without a zone)."""
    test_from: str = ""
    """time: ISO 8601 start of test."""
    valid_fraction: float = 0.1
    """user: share of users for validation. random_target: share of events drawn as validation targets."""
    test_fraction: float = 0.1
    """user: share of users for test. random_target: share of events drawn as test targets (0.05 is 19:1)."""
    history_fraction: float = 0.8
    """user: the first part of a held-out user's events that is history; the rest are the targets."""
    seed: int = 0
    """Seed of the draws of `user` and `random_target`."""

    def __post_init__(self) -> None:
        for name in ("valid_fraction", "test_fraction"):
            value = getattr(self, name)
            require(0 < value < 1, f"{name}: found {value}, expected a number between 0 and 1")
        total = self.valid_fraction + self.test_fraction
        require(total < 1, f"test_fraction: valid and test together are {total}, expected below 1")
        require(
            0 < self.history_fraction < 1, f"history_fraction: found {self.history_fraction}, expected 0 to 1"
        )
        if self.kind == "time":
            for name in ("valid_from", "test_from"):
                require(bool(getattr(self, name)), f'{name}: missing; kind = "time" needs both cut-offs')
                require(_seconds(getattr(self, name)) is not None, f"{name}: not an ISO 8601 time")
            require(self.cutoffs[0] < self.cutoffs[1], "valid_from: not before test_from")
        if self.kind in ("user", "random_target"):
            require(
                self.unit == "event", f'unit: "session" is not defined for kind = "{self.kind}"; use "event"'
            )

    @property
    def cutoffs(self) -> tuple[int, int]:
        """(valid_from, test_from) in UTC seconds."""
        return _seconds(self.valid_from) or 0, _seconds(self.test_from) or 0


def _seconds(text: str) -> int | None:
    value, bad = parse_text(pa.array([text], pa.string()), Clock(unit="iso8601"))
    return None if bad is not None and bad[0] else int(value[0] // 10**9)


@dataclass(frozen=True)
class Timeline:
    """The events of a partition's users, flat, in order.

    Attributes:
        offsets: (U + 1,) int64, events of user u are [offsets[u], offsets[u + 1]).
        at: (E,) int64 UTC seconds, not falling within a user.
        unit: (E,) int64 ordinal, within the user, of the unit that is held out together.
        user_hash: (U,) uint64.
    """

    offsets: np.ndarray
    at: np.ndarray
    unit: np.ndarray
    user_hash: np.ndarray

    @property
    def user(self) -> np.ndarray:
        """(E,) int64: the row of each event's user."""
        return np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))

    def only(self, kept: np.ndarray) -> "Timeline":
        """Return the timeline of the kept events of the same users; (E,) bool. Units are numbered anew."""
        user, unit = self.user[kept], self.unit[kept]
        offsets = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=len(self.offsets) - 1))])
        starts = np.ones(len(user), dtype=bool)
        starts[1:] = (np.diff(user) != 0) | (np.diff(unit) != 0)
        count = np.append(np.cumsum(starts), 0)
        return Timeline(offsets, self.at[kept], count[:-1] - count[offsets[:-1]][user], self.user_hash)


def assign_roles(timeline: Timeline, config: SplitConfig, target: np.ndarray | None = None) -> np.ndarray:
    """Return (E,) int8 roles.

    Args:
        timeline: the events.
        config: which are held out.
        target: (E,) bool, events that may be targets; None: all. The others are CONTEXT, and the split is
            that of the log without them.
    """
    if target is not None:
        roles = np.full(len(target), CONTEXT, dtype=np.int8)
        roles[target] = assign_roles(timeline.only(target), config)
        return roles
    assigners = {
        "leave_one_out": _leave_one_out,
        "time": _time,
        "user": _user,
        "random_target": _random_target,
    }
    return assigners[config.kind](timeline, config)


def _leave_one_out(timeline: Timeline, config: SplitConfig) -> np.ndarray:
    """The last unit is test where another is before it, the one before it valid where a third is before
    that."""
    offsets, user = timeline.offsets, timeline.user
    last = np.zeros(len(offsets) - 1, dtype=np.int64)
    filled = np.diff(offsets) > 0
    last[filled] = timeline.unit[offsets[1:][filled] - 1]
    last_of_event = last[user]
    roles = np.full(len(timeline.at), TRAIN, dtype=np.int8)
    roles[(timeline.unit == last_of_event - 1) & (last_of_event >= 2)] = VALID
    roles[(timeline.unit == last_of_event) & (last_of_event >= 1)] = TEST
    return roles


def _time(timeline: Timeline, config: SplitConfig) -> np.ndarray:
    valid_from, test_from = config.cutoffs
    roles = np.full(len(timeline.at), TRAIN, dtype=np.int8)
    roles[timeline.at >= valid_from] = VALID
    roles[timeline.at >= test_from] = TEST
    return roles


def _user(timeline: Timeline, config: SplitConfig) -> np.ndarray:
    draw = uniform(timeline.user_hash, derive_seed(config.seed, "split", "user"))
    part = np.where(draw < config.test_fraction, TEST, HISTORY)
    part = np.where(
        (draw >= config.test_fraction) & (draw < config.test_fraction + config.valid_fraction), VALID, part
    )
    sizes = np.diff(timeline.offsets)
    num_history = np.maximum(1, np.floor(sizes * config.history_fraction).astype(np.int64))
    user = timeline.user
    position = np.arange(len(timeline.at)) - timeline.offsets[:-1][user]
    roles = np.where(position < num_history[user], HISTORY, part[user])
    return np.where(part[user] == HISTORY, TRAIN, roles).astype(np.int8)


def _random_target(timeline: Timeline, config: SplitConfig) -> np.ndarray:
    """Draw at most one test and one validation target per user, so that their share of events is as
    configured."""
    sizes = np.diff(timeline.offsets)
    roles = np.full(len(timeline.at), TRAIN, dtype=np.int8)
    for role, fraction, label in (
        (VALID, config.valid_fraction, "valid"),
        (TEST, config.test_fraction, "test"),
    ):
        chosen = (
            uniform(timeline.user_hash, derive_seed(config.seed, "split", label, "user")) < sizes * fraction
        )
        where = uniform(timeline.user_hash, derive_seed(config.seed, "split", label, "position"))
        position = 1 + np.floor(where * np.maximum(sizes - 1, 0)).astype(
            np.int64
        )  # never the first: no history
        users = np.flatnonzero(chosen & (sizes >= 2))
        roles[timeline.offsets[:-1][users] + np.minimum(position[users], sizes[users] - 1)] = role
    return roles
