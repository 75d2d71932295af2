"""What a log looks like: exact totals of every user partition, which add up.

A partition's totals come from plain arrays in a handful of passes; they merge in any order, so the profile
depends neither on partitions nor on files nor on the order of rows.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.parsing import combine
from raysys.data.sequences import SessionConfig
from raysys.data.splits import CONTEXT, TEST, TRAIN, VALID
from raysys.data.tally import Tally

HOUR = 3600
GAP_BINS = 64
BLOCK = 2**17
BUSIEST = 100
"""Users kept by name, the busiest ones: whoever has more than 1 % of the events is among them."""


@dataclass(frozen=True)
class PartitionProfile:
    """Totals of some users; those of two sets of users merge to those of both.

    Attributes:
        events: number of events.
        hours: hour since 1970 UTC -> events in it.
        span: first and last `at`; (0, 0) without events.
        midnight, full_hour: events at 00:00:00 UTC, and at minute and second 0 of any hour.
        tied: events with the very time of the user's event before.
        gaps: (64,) int64; entry 0 counts gaps of 0 s between a user's neighbouring events, entry k those of
            2**(k-1) to 2**k - 1 s.
        within_gap: gaps of at most `session.gap_s`.
        cut: events that `session.max_items` puts into an older session; None where it cannot be told.
        user_events, user_items, user_sessions, session_events: events, distinct items and sessions of a user,
            events of a session -> how many users or sessions have that many.
        held_out: item -> events outside training.
        targets, cold_targets, queries, cold_queries: by part; cold: an item, or a user, without training
            events.
        busiest: (events, user id) of the busiest users, busiest first.
        event_types: event type -> events.
        nulls: event-level feature -> events without a value.
    """

    events: int
    hours: Tally
    span: tuple[int, int]
    midnight: int
    full_hour: int
    tied: int
    gaps: np.ndarray
    within_gap: int
    cut: int | None
    user_events: Tally
    user_items: Tally
    user_sessions: Tally
    session_events: Tally
    held_out: Tally
    targets: dict[str, int]
    cold_targets: dict[str, int]
    queries: dict[str, int]
    cold_queries: dict[str, int]
    busiest: list[tuple[int, str]]
    event_types: dict[str, int]
    nulls: dict[str, int]


def profile_partition(
    *,
    offsets: np.ndarray,
    users: pa.Array,
    at: np.ndarray,
    time_ns: np.ndarray,
    item: np.ndarray,
    num_items: int,
    session: np.ndarray,
    role: np.ndarray,
    config: SessionConfig,
    whole: np.ndarray | None = None,
    event: pa.Array | pa.ChunkedArray | None = None,
    nulls: Mapping[str, int] | None = None,
) -> PartitionProfile:
    """Return the totals of one partition, whose events are sorted by (user, time), but for `held_out`.

    Args:
        offsets: (U + 1,) of the users.
        users: (U,) their ids, text or integers.
        at: (E,) UTC seconds.
        time_ns: (E,) the exact times, which alone decide what ties.
        item: (E,) numbers below `num_items`, which may be the partition's own.
        num_items: how many there are.
        session: (E,) ordinal of the session within the user, long sessions cut.
        role: (E,) as in `splits`.
        config: where sessions end.
        whole: (E,) the same before long ones are cut; None: sessions end at gaps above `config.gap_s`.
        event: (E,) event types, where the log has them.
        nulls: event-level feature -> events without a value.
    """
    events = {"at": at, "time_ns": time_ns, "item": item, "session": session, "role": role}
    blocks = [
        _profile_block(
            offsets[low : high + 1] - offsets[low],
            users[low:high],
            num_items,
            config,
            whole=None if whole is None else whole[offsets[low] : offsets[high]],
            **{name: values[offsets[low] : offsets[high]] for name, values in events.items()},
        )
        for low, high in _blocks_of_users(offsets)
    ]
    types = {} if event is None else _count_text(event)
    return replace(merge(blocks), event_types=types, nulls=dict(nulls or {}))


def _blocks_of_users(offsets: np.ndarray) -> list[tuple[int, int]]:
    """Return ranges of users with about `BLOCK` events, so that the arrays of a range stay in the cache."""
    wanted = np.arange(BLOCK, offsets[-1], BLOCK)
    bounds = np.unique([0, *np.searchsorted(offsets, wanted).tolist(), len(offsets) - 1])
    return [(int(low), int(high)) for low, high in pairwise(bounds)] or [(0, 0)]


def _profile_block(
    offsets: np.ndarray,
    users: pa.Array,
    num_items: int,
    config: SessionConfig,
    *,
    at: np.ndarray,
    time_ns: np.ndarray,
    item: np.ndarray,
    session: np.ndarray,
    role: np.ndarray,
    whole: np.ndarray | None,
) -> PartitionProfile:
    sizes = np.diff(offsets)
    starts = offsets[:-1][sizes > 0]
    gap = np.diff(at)
    gap[starts[1:] - 1] = 0
    apart = max(len(starts) - 1, 0)  # neighbours of two users: counted as gaps of 0 s, then taken away
    same = time_ns[1:] == time_ns[:-1]
    hour = at // HOUR
    full = hour[hour * HOUR == at]
    begins = _begins(session, starts)
    lengths = np.diff(np.append(begins, len(at)))
    return PartitionProfile(
        events=len(at),
        hours=Tally.of(hour),
        span=(int(at.min()), int(at.max())) if len(at) else (0, 0),
        midnight=int(np.count_nonzero(full % 24 == 0)),
        full_hour=len(full),
        tied=int(np.count_nonzero(same) - np.count_nonzero(same[starts[1:] - 1])),
        gaps=_gap_bins(gap, apart),
        within_gap=int(np.count_nonzero(gap <= config.gap_s)) - apart,
        cut=_cut_events(begins, lengths, session, gap, whole, config),
        user_events=Tally.of(sizes[sizes > 0]),
        user_items=Tally.of(_distinct_per_user(sizes, starts, item, num_items)),
        user_sessions=Tally.of(session[offsets[1:][sizes > 0] - 1] + 1),
        session_events=Tally.of(lengths),
        held_out=Tally.of(item[:0]),
        busiest=_busiest(sizes, users),
        event_types={},
        nulls={},
        cold_targets={},
        **_parts(starts, role),
    )


def _gap_bins(gap: np.ndarray, apart: int) -> np.ndarray:
    """Return (64,) how many gaps have how many binary digits, which is a double's exponent."""
    exponents = gap.astype(np.float64).view(np.int64) >> 52
    dense = np.bincount(exponents, minlength=1022 + GAP_BINS)
    bins = dense[1022 : 1022 + GAP_BINS].astype(np.int64)
    bins[0] = dense[0] - apart
    return bins


def _begins(session: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the positions where a session begins."""
    flags = np.zeros(len(session), dtype=bool)
    flags[1:] = session[1:] != session[:-1]
    flags[starts] = True
    return np.flatnonzero(flags)


def _cut_events(
    begins: np.ndarray,
    lengths: np.ndarray,
    session: np.ndarray,
    gap: np.ndarray,
    whole: np.ndarray | None,
    config: SessionConfig,
) -> int | None:
    """Return how many events are before the last `max_items` of their whole session, None where nobody knows.

    They are the sessions after which the whole session goes on, with exactly `max_items` events.
    """
    if whole is None and config.by_column:
        return None
    after = 1 + np.flatnonzero(lengths[1:] == config.max_items)
    after = after[session[begins[after]] > 0]  # the user is the one before
    before = begins[after] - 1
    goes_on = gap[before] <= config.gap_s if whole is None else whole[before] == whole[before + 1]
    return int(lengths[after - 1][goes_on].sum())


def _distinct_per_user(sizes: np.ndarray, starts: np.ndarray, item: np.ndarray, width: int) -> np.ndarray:
    if not len(starts):
        return np.zeros(0, np.int64)
    kind = np.uint32 if len(sizes) * width < 2**32 else np.uint64  # half the width sorts twice as fast
    keys = np.repeat(np.arange(len(sizes), dtype=kind) * kind(width), sizes)
    keys += item.astype(kind)
    keys.sort()  # users stay where they are
    first = np.ones(len(keys), dtype=bool)
    first[1:] = keys[1:] != keys[:-1]
    return np.add.reduceat(first, starts, dtype=np.int64)


def _parts(starts: np.ndarray, role: np.ndarray) -> dict[str, dict[str, int]]:
    """Return held-out events, users who have some, and those of them without a past, of both parts.

    Args:
        starts: where each user begins.
        role: (E,) of all events.
    """
    bits = np.left_shift(1, role.view(np.uint8), dtype=np.uint8)
    seen = np.bitwise_or.reduceat(bits, starts) if len(starts) else bits
    users = np.bincount(seen, minlength=32)
    roles = np.bincount(role, minlength=5)
    past = (1 << TRAIN) | (1 << CONTEXT)
    counts: dict[str, dict[str, int]] = {"targets": {}, "queries": {}, "cold_queries": {}}
    for name, number in (("valid", VALID), ("test", TEST)):
        asked = [kinds for kinds in range(32) if kinds & (1 << number)]
        counts["targets"][name] = int(roles[number])
        counts["queries"][name] = int(users[asked].sum())
        counts["cold_queries"][name] = int(users[[kinds for kinds in asked if not kinds & past]].sum())
    return counts


def held_out(item: np.ndarray, role: np.ndarray, item_counts: np.ndarray) -> tuple[Tally, dict[str, int]]:
    """Return item -> its events outside training, and by part the targets whose item has no training event.

    Args:
        item: (E,) numbers below V, the same for an item in every partition.
        role: (E,) as in `splits`.
        item_counts: (V,) training events of each item in the whole log.
    """
    rest = np.flatnonzero(role != TRAIN)
    cold = np.bincount(role[rest][item_counts[item[rest]] == 0], minlength=5)
    return Tally.of(item[rest]), {"valid": int(cold[VALID]), "test": int(cold[TEST])}


def with_held_out(
    total: PartitionProfile, parts: Sequence[tuple[Tally, Mapping[str, int]]]
) -> PartitionProfile:
    """Return totals with what `held_out` says of all partitions."""
    cold = {name: sum(counts[name] for _, counts in parts) for name in ("valid", "test")}
    return replace(total, held_out=Tally.merge([tally for tally, _ in parts]), cold_targets=cold)


def _busiest(sizes: np.ndarray, users: pa.Array) -> list[tuple[int, str]]:
    """Return the busiest users; of those with as many events as the last one, any."""
    chosen = np.argpartition(sizes, -BUSIEST)[-BUSIEST:] if len(sizes) > BUSIEST else np.arange(len(sizes))
    names = combine(users).take(pa.array(chosen)).cast(pa.string()).to_pylist()
    return _first(list(zip(sizes[chosen].tolist(), names, strict=True)))


def _first(busiest: list[tuple[int, str]]) -> list[tuple[int, str]]:
    return sorted(busiest, key=lambda entry: (-entry[0], entry[1]))[:BUSIEST]


def _count_text(column: pa.Array | pa.ChunkedArray) -> dict[str, int]:
    counted = pc.value_counts(column).to_pylist()
    return {str(entry["values"] or ""): int(entry["counts"]) for entry in counted}


def merge(parts: Sequence[PartitionProfile]) -> PartitionProfile:
    """Return the totals of all parts together; at least one."""
    if len(parts) == 1:
        return parts[0]
    spans = [part.span for part in parts if part.events]
    cuts = [part.cut for part in parts if part.cut is not None]

    def added(name: str) -> dict[str, int]:
        total = Counter[str]()
        for part in parts:
            total.update(getattr(part, name))
        return dict(total)

    fields: dict[str, Any] = {name: sum(getattr(part, name) for part in parts) for name in _SUMS}
    fields |= {name: Tally.merge([getattr(part, name) for part in parts]) for name in _TALLIES}
    fields |= {name: added(name) for name in _COUNTERS}
    return PartitionProfile(
        **fields,
        span=(min((s[0] for s in spans), default=0), max((s[1] for s in spans), default=0)),
        cut=sum(cuts) if len(cuts) == len(parts) else None,
        busiest=_first([entry for part in parts for entry in part.busiest]),
    )


_SUMS = ("events", "midnight", "full_hour", "tied", "gaps", "within_gap")
_TALLIES = ("hours", "user_events", "user_items", "user_sessions", "session_events", "held_out")
_COUNTERS = ("targets", "cold_targets", "queries", "cold_queries", "event_types", "nulls")
