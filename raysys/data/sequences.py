"""Sequences: per user the events in order, cut into sessions, with what each event may see of the past.

One row per user, every list in the user's order of events:

    user_id string, user_idx int32
    item_idx    list<int32>
    at          list<int64>   UTC seconds
    session     list<int32>   ordinal of the session
    cut         list<int32>   the number of leading events that lie strictly before this event's unit
    long_start  list<int32>   first event within the long term's reach before this one
    role        list<int8>    train, valid, test, history, context (see splits)
    weight      list<float32> where the log has it, likewise rating
    event_<f>   list<int32>   one per event-level feature; `event_type` where the log has event types
    profile_<f> int32, list<int32> or float32, one per user feature

The long-term set of a session that starts at event s is therefore the distinct values in [long_start[s], s):
disjoint from the session, within the window, and cut while streaming.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import require
from raysys.data.hashing import Coded
from raysys.data.parsing import combine
from raysys.data.splits import VISIBLE, SplitConfig, Timeline, assign_roles
from raysys.schema import UNKNOWN_IDX


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """`[session]`: what belongs together, and how far back the long term reaches."""

    gap_s: int = 600
    """Events further apart than this many seconds belong to different sessions (SDM paper: 10 minutes)."""
    max_items: int = 50
    """Longest session; older events form a session before it (SDM paper: 50)."""
    by_column: bool = False
    """Use the log's own session id (`data.columns.session`) instead of the gap."""
    last_n: int = 0
    """Short term = the last n events, for logs without sessions; 0: the latest session."""
    long_term_s: int = 604_800
    """Reach of the long term before the session, in seconds (SDM paper: 7 days)."""
    long_term_events: int = 0
    """Reach of the long term in events before the session instead; 0: `long_term_s` counts."""
    long_term_max: int = 20
    """Distinct values kept per long-term feature, the latest ones."""

    def __post_init__(self) -> None:
        for name in ("gap_s", "max_items", "long_term_s", "long_term_max"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        for name in ("last_n", "long_term_events"):
            require(getattr(self, name) >= 0, f"{name}: found {getattr(self, name)}, expected >= 0")


SEARCH_BLOCK = 2048


def user_offsets(users: Coded) -> np.ndarray:
    """Return (U + 1,) int64 offsets of the users of events sorted by user."""
    starts = np.flatnonzero(np.diff(users.codes, prepend=-1) != 0)
    return np.append(starts, len(users.codes)).astype(np.int64)


def run_starts(flags: np.ndarray) -> np.ndarray:
    """Return (E,) int64: for each position the latest position at or before it where the flag is set.

    The first flag must be set.
    """
    position = np.where(flags, np.arange(len(flags)), 0)
    return np.maximum.accumulate(position)


def session_flags(
    offsets: np.ndarray, at: np.ndarray, column: np.ndarray | None, config: SessionConfig
) -> np.ndarray:
    """Return (E,) bool: where a session starts, before long ones are cut.

    Args:
        offsets: (U + 1,) of the users.
        at: (E,) UTC seconds, ordered within a user.
        column: (E,) codes of the log's own session id where `config.by_column`, else None.
    """
    flags = np.zeros(len(at), dtype=bool)
    flags[offsets[:-1][np.diff(offsets) > 0]] = True
    if column is not None:
        flags[1:] |= column[1:] != column[:-1]
    else:
        flags[1:] |= np.diff(at) > config.gap_s
    return flags


def cut_long_sessions(flags: np.ndarray, max_items: int) -> np.ndarray:
    """Return flags with every session cut, from its end, into sessions of at most `max_items`."""
    starts = np.flatnonzero(flags)
    sizes = np.diff(np.append(starts, len(flags)))
    if sizes.max(initial=0) <= max_items:
        return flags
    from_end = np.repeat(starts + sizes, sizes) - np.arange(len(flags))
    return flags | (from_end % max_items == 0)


def ordinals(flags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return (E,) int64: the running number, from 0 within each user, of the group that each event is in."""
    count = np.cumsum(flags)
    sizes = np.diff(offsets)
    first = np.zeros(len(sizes), dtype=np.int64)
    first[sizes > 0] = count[offsets[:-1][sizes > 0]]
    return count - np.repeat(first, sizes)


def long_term_start(offsets: np.ndarray, at: np.ndarray, reach_s: int) -> np.ndarray:
    """Return (E,) int64 flat positions: the user's first event at most `reach_s` s before each event."""
    if not len(at):
        return np.zeros(0, dtype=np.int64)
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    relative = at - at.min()
    reach_s = min(reach_s, int(relative.max()) + 1)  # a reach beyond the log must not overflow the key
    span = int(relative.max()) + reach_s + 1
    key = user * span + relative
    return np.maximum(_search_sorted(key, key - reach_s), offsets[:-1][user])


def _search_sorted(key: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Return `np.searchsorted(key, wanted)` for rising `wanted`; a block of it needs a stretch of `key`."""
    result = np.empty(len(wanted), dtype=np.int64)
    for begin in range(0, len(wanted), SEARCH_BLOCK):
        block = wanted[begin : begin + SEARCH_BLOCK]
        low, high = np.searchsorted(key, block[[0, -1]])
        result[begin : begin + SEARCH_BLOCK] = low + np.searchsorted(key[low : high + 1], block)
    return result


@dataclass(frozen=True)
class Windows:
    """What a partition's events may see: flat arrays over the events, positions within the user."""

    timeline: Timeline
    session: np.ndarray
    cut: np.ndarray
    long_start: np.ndarray
    role: np.ndarray

    def visible(self, part: str) -> np.ndarray:
        """Return (E,) bool: events that a history of this part may hold."""
        roles = np.zeros(max(map(max, VISIBLE.values())) + 1, dtype=bool)
        roles[list(VISIBLE[part])] = True
        return roles[self.role]

    def has_history(self, part: str) -> np.ndarray:
        """Return (E,) bool: whether a history of this part that ends before the event would hold anything."""
        offsets = self.timeline.offsets
        seen = np.flatnonzero(np.append(self.visible(part), True))
        first = seen[np.searchsorted(seen, offsets[:-1])] - offsets[:-1]
        return self.cut > np.repeat(first, np.diff(offsets))


def build_windows(
    offsets: np.ndarray,
    at: np.ndarray,
    column: np.ndarray | None,
    user_hash: np.ndarray,
    session: SessionConfig,
    split: SplitConfig,
    target: np.ndarray | None = None,
) -> Windows:
    """Return sessions, cuts, long-term starts and roles of one partition.

    Under `split.unit = "session"` an event sees nothing of its own session, nor of another one that starts at
    the same second: the lines of a basket share one time, so neither is before the other.
    """
    flags = session_flags(offsets, at, column, session)
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    base = offsets[:-1][user]
    position = np.arange(len(at)) - base
    if split.unit == "session":
        unit = ordinals(flags, offsets)
        moment = np.zeros(len(at), dtype=bool)
        moment[1:] = np.diff(at) != 0
        moment[offsets[:-1][np.diff(offsets) > 0]] = True
        cut = run_starts(moment)[run_starts(flags)] - base if len(at) else position
    else:
        unit, cut = position, position
    timeline = Timeline(offsets, at, unit, user_hash)
    if session.long_term_events:
        long_start = np.maximum(position - session.long_term_events, 0)
    else:
        long_start = long_term_start(offsets, at, session.long_term_s) - base
    return Windows(
        timeline=timeline,
        session=ordinals(cut_long_sessions(flags, session.max_items), offsets),
        cut=cut,
        long_start=long_start,
        role=assign_roles(timeline, split, target),
    )


def windows_of(table: pa.Table, users: Coded, session: SessionConfig, split: SplitConfig) -> Windows:
    """Return the windows of a sorted event table; `users` is its coded `user_id`."""
    column = Coded.of(table.column("session")).codes if session.by_column else None
    target = None
    if split.target_events:
        wanted = pc.is_in(table.column("event"), value_set=pa.array(split.target_events, pa.string()))
        target = np.asarray(combine(wanted).to_numpy(zero_copy_only=False))
    at = np.asarray(table.column("time_ns").to_numpy()) // 10**9
    return build_windows(user_offsets(users), at, column, users.hashes()[:-1], session, split, target)


def sequence_table(
    table: pa.Table, windows: Windows, coded: Mapping[str, Coded], features: Mapping[str, str]
) -> pa.Table:
    """Return one row per user with every list that the module's docstring names, ids as local codes.

    Args:
        table: the partition's sorted events.
        windows: made from the same table.
        coded: "user_id", "item_id" and the features' columns.
        features: event-level feature -> its column.
    """
    offsets = pa.array(windows.timeline.offsets.astype(np.int32))

    def lists(values: np.ndarray, kind: type) -> pa.Array:
        flat = pa.array(values.astype(kind, copy=False))
        return pa.ListArray.from_arrays(offsets, flat, type=pa.list_(_present("element", flat.type)))

    columns: dict[str, pa.Array] = {
        "user_id": coded["user_id"].values.cast(pa.string()),
        "item_idx": lists(coded["item_id"].codes, np.int32),
        "at": lists(windows.timeline.at, np.int64),
        "session": lists(windows.session, np.int32),
        "cut": lists(windows.cut, np.int32),
        "long_start": lists(windows.long_start, np.int32),
        "role": lists(windows.role, np.int8),
    }
    for name in ("rating", "weight"):
        if name in table.schema.names:
            columns[name] = lists(np.asarray(table.column(name).to_numpy()), np.float32)
    for name, column in features.items():
        columns[f"event_{name}"] = lists(coded[column].codes, np.int32)
    schema = pa.schema([_present(name, values.type) for name, values in columns.items()])
    return pa.table(list(columns.values()), schema=schema)


def _present(name: str, kind: pa.DataType) -> pa.Field:
    """Return a field without nulls, which is quicker to write and read."""
    return pa.field(name, kind, nullable=False)


def numbered(draft: pa.Table, idx: Mapping[str, np.ndarray], profile: Mapping[str, pa.Array]) -> pa.Table:
    """Return a table of `sequence_table` with idx in place of local codes, and what is known of users.

    Args:
        draft: the table.
        idx: "user", "item" and `event_<feature>` -> (V,) int32 idx of the local codes; "user" of the rows.
        profile: column name -> values aligned to `user_idx`, with the reserved rows.
    """
    for name, values in idx.items():
        column = "item_idx" if name == "item" else name
        if name != "user":
            codes = combine(draft.column(column))
            flat = np.append(values, np.int32(UNKNOWN_IDX))[np.asarray(codes.values.to_numpy())]
            lists = pa.ListArray.from_arrays(codes.offsets, pa.array(flat), type=codes.type)
            place = draft.schema.get_field_index(column)
            draft = draft.set_column(place, draft.schema.field(place), lists)
    draft = draft.add_column(1, _present("user_idx", pa.int32()), pa.array(idx["user"]))
    for name, values in profile.items():
        draft = draft.append_column(name, values.take(pa.array(idx["user"])))
    return draft
