"""User partitions: a total order sorts the events in them, and repeats of a whole row are told."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from raysys.data.events import REJECTED_SCHEMA, file_of, position_of
from raysys.data.files import rows_of
from raysys.data.formats import Source
from raysys.data.hashing import Coded, content_columns, hash_rows
from raysys.data.log_config import DataConfig

SECOND_NS = 10**9
ROWS_PER_PARTITION = 500_000
"""Rows of a partition that keep a task's arrays in the cache of one core."""
MIN_PARTITIONS = 4


def num_partitions_of(data: DataConfig, sources: Sequence[Source]) -> int:
    """Return the configured number of partitions, or one per `ROWS_PER_PARTITION` rows."""
    return data.partitions or max(MIN_PARTITIONS, -(-sum(map(rows_of, sources)) // ROWS_PER_PARTITION))


def sort_events(table: pa.Table) -> pa.Table:
    """Return the events ordered by (user, time, order, session, place): a total order, whatever came first.

    Users are in byte order of their ids. A log that is nearly in the order of time needs stable sorts that
    little is left to do for; else nearly all of the work is one sort of packed 64-bit keys, and only events
    of a user at the same time look at the rest.
    """
    return table.take(pa.array(event_order(table)))


def event_order(table: pa.Table) -> np.ndarray:
    """Return (N,) int64: the rows in the order of `sort_events`."""
    users = Coded.of(table.column("user_id"))
    rank = users.ranks()[users.codes]
    time_ns = np.asarray(table.column("time_ns").to_numpy())
    place = np.asarray(table.column("place").to_numpy())
    settled = "order" not in table.schema.names and "session" not in table.schema.names
    steps_back = np.count_nonzero(time_ns[1:] < time_ns[:-1])
    if settled and steps_back < len(time_ns) // 1000 and (place[1:] > place[:-1]).all():
        order = np.argsort(time_ns, kind="stable") if steps_back else np.arange(len(time_ns))
        return order[_stable_order(rank[order])]
    key = _packed_key(rank, time_ns)
    if key is None:
        return _sort_all(table, users, time_ns)
    order = np.argsort(key)
    key = key[order]
    same = key[1:] == key[:-1]
    if same.any():
        tied = np.zeros(len(key), dtype=bool)
        tied[1:] |= same
        tied[:-1] |= same
        where = np.flatnonzero(tied)
        rows = order[where]
        order[where] = rows[np.lexsort([*_tie_keys(table, rows), key[where]])]
    return order


def _stable_order(rank: np.ndarray) -> np.ndarray:
    """Return (N,) int64: the stable order of ranks below 2**32, by radix sorts of 16 bits."""
    order = np.argsort(rank.astype(np.uint16), kind="stable")
    if rank.max(initial=0) >= 1 << 16:
        order = order[np.argsort((rank >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _packed_key(rank: np.ndarray, time_ns: np.ndarray) -> np.ndarray | None:
    """Return (N,) int64 that sorts by (rank, time), or None where 63 bits do not hold both."""
    if not len(rank):
        return rank.astype(np.int64)
    time = time_ns // SECOND_NS
    if not np.array_equal(time * SECOND_NS, time_ns):
        time = time_ns
    time = time - time.min()
    bits = int(time.max()).bit_length()
    if bits + int(rank.max()).bit_length() > 63:
        return None
    return (rank << bits) | time


def _tie_keys(table: pa.Table, rows: np.ndarray) -> list[np.ndarray]:
    """Return what settles ties of (user, time), the weakest first."""
    keys = [np.asarray(table.column("place").to_numpy())[rows]]
    if "session" in table.schema.names:
        session = Coded.of(table.column("session"))
        keys.append(session.ranks()[session.codes[rows]])
    if "order" in table.schema.names:
        keys.append(np.asarray(table.column("order").to_numpy())[rows])
    return keys


def _sort_all(table: pa.Table, users: Coded, time_ns: np.ndarray) -> np.ndarray:
    rows = np.arange(table.num_rows)
    return np.lexsort([*_tie_keys(table, rows), time_ns, users.ranks()[users.codes]])


def split_duplicates(table: pa.Table, files: Mapping[int, str] | Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Return sorted events without repeats of a whole row, and the repeats as rejected rows.

    The first of equal rows, by place, stays. Events must come from `sort_events`: rows that are equal share
    user and time, so only those that tie with a neighbour are compared.

    Args:
        table: sorted events.
        files: number of a source file -> its name.
    """
    repeated = _repeats(table)
    rows = pa.array(repeated)
    twice = table.take(rows)
    place = np.asarray(twice.column("place").to_numpy())
    rejected = pa.table(
        {
            "file": pa.array([files[number] for number in file_of(place).tolist()], pa.string()),
            "reason": pa.array(["duplicate"] * len(rows), pa.string()),
            "user": twice.column("user_id").cast(pa.string()),
            "item": twice.column("item_id").cast(pa.string()),
            "time": twice.column("time_ns").cast(pa.timestamp("ns", tz="UTC")).cast(pa.string()),
            "row": pa.array(position_of(place)),
        },
        schema=REJECTED_SCHEMA,
    )
    if not len(rows):
        return table, rejected
    kept = np.ones(table.num_rows, dtype=bool)
    kept[repeated] = False
    return table.filter(pa.array(kept)), rejected


def _repeats(table: pa.Table) -> np.ndarray:
    """Return the rows that repeat an earlier one in everything but place."""
    time_ns = np.asarray(table.column("time_ns").to_numpy())
    same = time_ns[1:] == time_ns[:-1]
    if not same.any():
        return np.zeros(0, dtype=np.int64)
    tied = np.zeros(len(time_ns), dtype=bool)
    tied[1:] |= same
    tied[:-1] |= same
    where = np.flatnonzero(tied)
    some = table.take(pa.array(where)) if len(where) < table.num_rows else table
    hashes = hash_rows(some, content_columns(some.schema.names))
    order = np.lexsort((np.asarray(some.column("place").to_numpy()), hashes))
    again = order[1:][hashes[order[1:]] == hashes[order[:-1]]]
    return np.sort(where[again])
