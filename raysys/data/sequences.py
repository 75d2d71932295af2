"""Sequences: per user the events in order, cut into sessions, with what each event may see of the past.

One row per user, every list in the user's order of events:

    user_id string, user_idx int32
    item_idx    list<int32>
    at          list<int64>   UTC seconds
    session     list<int32>   ordinal of the session
    cut         list<int32>   the number of leading events that lie strictly before this event's unit
    long_start  list<int32>   first event within `session.long_term_s` before this one
    role        list<int8>    train, valid, test, history (see splits)
    weight      list<float32> where the log has it, likewise rating
    event_<f>   list<int32>   one per event-level feature
    profile_<f> int32, list<int32> or float32, one per user feature

The long-term set of a session that starts at event s is therefore the distinct values in [long_start[s], s):
disjoint
from the session, within the window, and cut while streaming.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raysys.config import require
from raysys.data.parsing import combine
from raysys.data.partitions import hash_text
from raysys.data.splits import SplitConfig, Timeline, assign_roles
from raysys.data.vocabulary import Vocabulary


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
    long_term_max: int = 20
    """Distinct values kept per long-term feature, the latest ones."""

    def __post_init__(self) -> None:
        for name in ("gap_s", "max_items", "long_term_s", "long_term_max"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        require(self.last_n >= 0, f"last_n: found {self.last_n}, expected >= 0")


def user_offsets(user_id: pa.ChunkedArray) -> tuple[np.ndarray, pa.Array]:
    """Return (U + 1,) int64 offsets of the users of a table sorted by user, and their ids in order."""
    codes = combine(user_id).dictionary_encode()
    index = np.asarray(codes.indices.to_numpy(zero_copy_only=False))
    starts = np.flatnonzero(np.diff(index, prepend=-1) != 0)
    return np.append(starts, len(index)).astype(np.int64), codes.dictionary


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
    """Return (E,) int64 flat positions: the user's first event at most `reach_s` seconds before each
    event."""
    if not len(at):
        return np.zeros(0, dtype=np.int64)
    user = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    relative = at - at.min()
    reach_s = min(reach_s, int(relative.max()) + 1)  # a reach beyond the log must not overflow the key
    span = int(relative.max()) + reach_s + 1
    key = user * span + relative
    return np.maximum(np.searchsorted(key, key - reach_s), offsets[:-1][user])


@dataclass(frozen=True)
class Windows:
    """What a partition's events may see: flat arrays over the events, positions within the user."""

    timeline: Timeline
    session: np.ndarray
    cut: np.ndarray
    long_start: np.ndarray
    role: np.ndarray


def build_windows(
    offsets: np.ndarray,
    at: np.ndarray,
    column: np.ndarray | None,
    user_hash: np.ndarray,
    session: SessionConfig,
    split: SplitConfig,
) -> Windows:
    """Return sessions, cuts, long-term starts and roles of one partition.

    Under `split.unit = "session"` an event sees nothing of its own session, nor of another one that starts at
    the
    same second: the lines of a basket share one time, so neither is before the other.
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
    return Windows(
        timeline=timeline,
        session=ordinals(cut_long_sessions(flags, session.max_items), offsets),
        cut=cut,
        long_start=long_term_start(offsets, at, session.long_term_s) - base,
        role=assign_roles(timeline, split),
    )


def windows_of(table: pa.Table, session: SessionConfig, split: SplitConfig) -> tuple[Windows, pa.Array]:
    """Return the windows of a sorted event table, and its users' ids in order."""
    offsets, users = user_offsets(table.column("user_id"))
    column = None
    if session.by_column:
        codes = combine(table.column("session")).dictionary_encode().indices
        column = np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False))
    at = np.floor_divide(np.asarray(table.column("time_ns").to_numpy()), 10**9)
    return build_windows(offsets, at, column, hash_text(users), session, split), users


def sequence_table(
    table: pa.Table,
    windows: Windows,
    users: pa.Array,
    vocabularies: Mapping[str, Vocabulary],
    profile: Mapping[str, pa.Array],
) -> pa.Table:
    """Return one row per user, as the module's docstring lists.

    Args:
        table: the partition's sorted events.
        windows: made from the same table.
        users: the users' ids in order.
        vocabularies: "user", "item" and `event_<feature>`.
        profile: column name -> values aligned to `user_idx`, with the reserved rows.
    """
    offsets = pa.array(windows.timeline.offsets.astype(np.int32))

    def lists(values: np.ndarray, kind: pa.DataType) -> pa.Array:
        return pa.ListArray.from_arrays(offsets, pa.array(values).cast(kind))

    user_idx = vocabularies["user"].encode(users)
    columns: dict[str, pa.Array] = {
        "user_id": users.cast(pa.string()),
        "user_idx": pa.array(user_idx),
        "item_idx": lists(vocabularies["item"].encode(table.column("item_id")), pa.int32()),
        "at": lists(windows.timeline.at, pa.int64()),
        "session": lists(windows.session, pa.int32()),
        "cut": lists(windows.cut, pa.int32()),
        "long_start": lists(windows.long_start, pa.int32()),
        "role": lists(windows.role, pa.int8()),
    }
    for name in ("rating", "weight"):
        if name in table.schema.names:
            columns[name] = lists(np.asarray(table.column(name).to_numpy()), pa.float32())
    for name, vocabulary in vocabularies.items():
        if name.startswith("event_"):
            encoded = vocabulary.encode(table.column(name.removeprefix("event_")))
            columns[name] = lists(encoded, pa.int32())
    for name, values in profile.items():
        columns[name] = values.take(pa.array(user_idx))
    return pa.table(columns)
