"""Sort, sessions, lists and windows of a log in memory, ours and in polars.

    python -m benchmarks.kernels lists|windows ours|polars LOG

Prints the CPU seconds of the better of two runs, and what identifies the result.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.logs import FEATURES
from raysys.data.hashing import Coded
from raysys.data.history import last_positions, take
from raysys.data.partitions import sort_events
from raysys.data.sequences import (
    SessionConfig,
    long_term_start,
    ordinals,
    run_starts,
    session_flags,
    user_offsets,
)
from raysys.data.shards import partition_of, split_users

BLOCK = 1 << 19
PARTITIONS = 20
GAP_S, REACH_S, IN_SESSION, LONG_TERM = 1800, 604_800, 10, 20
NAMES = ("item_id", "time_ns", *FEATURES)


def read_log(log: Path) -> pa.Table:
    """Return a log in memory, in the order of its files, with the item features as columns."""
    table = pq.read_table(log / "events").combine_chunks()
    item = table.column("item_id").to_numpy()
    side = pq.read_table(log / "items.parquet")
    row = np.searchsorted(side.column("item_id").to_numpy(), item)
    columns = {
        "user_id": table.column("user_id"),
        "item_id": table.column("item_id"),
        "time_ns": pa.array(table.column("timestamp").to_numpy() * 10**9),
        **{name: pa.array(side.column(name).to_numpy()[row]) for name in FEATURES},
        "place": pa.array(np.arange(table.num_rows)),
    }
    return pa.table(columns).combine_chunks()


def by_partition(events: pa.Table) -> list[pa.Table]:
    """Return the events cut by user, block by block as the stage does, so that arrays stay in the cache."""
    parts: dict[int, list[pa.Table]] = {}
    for start in range(0, events.num_rows, BLOCK):
        block = events.slice(start, BLOCK)
        for number, part in split_users(block, partition_of(block.column("user_id"), PARTITIONS)):
            parts.setdefault(number, []).append(part)
    return [pa.concat_tables(tables).combine_chunks() for tables in parts.values()]


def our_lists(events: pa.Table) -> tuple[int, int, int]:
    """Return users, sessions and the longest list, having made every list."""
    users = sessions = longest = 0
    for part in by_partition(events):
        table = sort_events(part)
        offsets = user_offsets(Coded.of(table.column("user_id")))
        at = np.asarray(table.column("time_ns").to_numpy()) // 10**9
        flags = session_flags(offsets, at, None, SessionConfig(gap_s=GAP_S))
        columns = [table.column(name).combine_chunks() for name in NAMES]
        columns.append(pa.array(ordinals(flags, offsets)))
        bounds = pa.array(offsets.astype(np.int32))
        lists = [pa.ListArray.from_arrays(bounds, column) for column in columns]
        users, sessions = users + len(lists[0]), sessions + int(flags.sum())
        longest = max(longest, int(np.diff(offsets).max()))
    return users, sessions, longest


def polars_lists(events: pa.Table) -> tuple[int, int, int]:
    """Do the same in polars."""
    import polars as pl

    frame = pl.from_arrow(events).sort("user_id", "time_ns", "place")
    new = (pl.col("user_id") != pl.col("user_id").shift(1)).fill_null(True)
    far = pl.col("time_ns") // 10**9 - pl.col("time_ns").shift(1) // 10**9 > GAP_S
    frame = frame.with_columns(new=new, count=(new | far.fill_null(True)).cast(pl.Int64).cum_sum())
    first = pl.when("new").then(pl.col("count")).forward_fill()
    frame = frame.with_columns(session=pl.col("count") - first)
    lists = frame.group_by("user_id", maintain_order=True).agg(*NAMES, "session")
    sessions = lists.select((pl.col("session").list.last() + 1).sum()).item()
    return len(lists), sessions, lists.select(pl.col("session").list.len().max()).item()


def our_windows(events: pa.Table) -> tuple[int, int]:
    """Return the sums over all windows: 10 events before in the session, 20 of the week before it."""
    short_sum = long_sum = 0
    for part in by_partition(events):
        table = sort_events(part)
        offsets = user_offsets(Coded.of(table.column("user_id")))
        at = np.asarray(table.column("time_ns").to_numpy()) // 10**9
        item = np.asarray(table.column("item_id").to_numpy())
        begin = run_starts(session_flags(offsets, at, None, SessionConfig(gap_s=GAP_S)))
        reach = long_term_start(offsets, at, REACH_S)[begin]
        place = np.arange(len(at))
        short_sum += _windows(item, np.maximum(begin, place - IN_SESSION), place, IN_SESSION)
        long_sum += _windows(item, np.maximum(reach, begin - LONG_TERM), begin, LONG_TERM)
    return short_sum, long_sum


def polars_windows(events: pa.Table) -> tuple[int, int]:
    """Do the same in polars."""
    import polars as pl

    frame = pl.from_arrow(events).sort("user_id", "time_ns", "place")
    new = (pl.col("user_id") != pl.col("user_id").shift(1)).fill_null(True)
    at = pl.col("time_ns") // 10**9
    starts = (new | (at - at.shift(1) > GAP_S)).fill_null(True)
    frame = frame.with_columns(row=pl.int_range(pl.len()), user=new.cast(pl.Int64).cum_sum(), at=at)
    frame = frame.with_columns(
        begin=pl.when(starts).then(pl.col("row")).forward_fill(),
        first=pl.when(new).then(pl.col("row")).forward_fill(),
    )
    low = frame["at"].min()
    span = frame["at"].max() - low + REACH_S + 1
    key = frame.select(key=pl.col("user") * span + (pl.col("at") - low))["key"]
    frame = frame.with_columns(reach=key.search_sorted(key - REACH_S))
    frame = frame.with_columns(reach=pl.max_horizontal("reach", "first").gather(pl.col("begin")))
    # The k-th event before: a column that is shifted, and for the long term one that is gathered.
    short = [
        pl.when(pl.col("row") - k >= pl.col("begin")).then(pl.col("item_id").shift(k)).sum()
        for k in range(1, IN_SESSION + 1)
    ]
    place = [pl.col("begin") - k for k in range(1, LONG_TERM + 1)]
    long = [
        pl.when(one >= pl.col("reach")).then(pl.col("item_id").gather(one.clip(0))).sum() for one in place
    ]
    sums = frame.select(each.alias(str(number)) for number, each in enumerate([*short, *long]))
    row = [value or 0 for value in sums.row(0)]
    return sum(row[:IN_SESSION]), sum(row[IN_SESSION:])


def _windows(item: np.ndarray, start: np.ndarray, stop: np.ndarray, width: int) -> int:
    """Return the sum over the windows [start, stop) of every event, cut as right-aligned rows."""
    total = 0
    for begin in range(0, len(start), BLOCK // 16):
        rows = slice(begin, begin + BLOCK // 16)
        total += int(take(item, *last_positions(start[rows], stop[rows], width)).sum())
    return total


KERNELS = {
    ("lists", "ours"): our_lists,
    ("lists", "polars"): polars_lists,
    ("windows", "ours"): our_windows,
    ("windows", "polars"): polars_windows,
}


def main(name: str, side: str, log: str) -> None:
    events = read_log(Path(log))
    if name == "windows":
        events = events.select(["user_id", "item_id", "time_ns", "place"])
    spent: list[float] = []
    result: tuple[int, ...] = ()
    for _ in range(2):
        begin = time.process_time()
        result = KERNELS[name, side](events)
        spent.append(time.process_time() - begin)
    print(json.dumps([min(spent), list(result)]))


if __name__ == "__main__":
    main(*sys.argv[1:])
