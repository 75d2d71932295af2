"""How many samples an epoch has, and which ones where users have a budget of them.

A user's samples of an epoch are those with the smallest hashes of (seed, epoch, user id, place): a draw
without replacement in which all are equally likely, whatever file or order they are read in.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from raysys.data.hashing import mix
from raysys.data.parquet import read_table
from raysys.data.shapes import SampleShape
from raysys.storage import Folder

BLOCK = 1 << 18
"""Samples that are sorted together; a user with more is a block of their own."""


def draw(owner: np.ndarray, place: np.ndarray, user_hash: np.ndarray, budget: int, seed: int) -> np.ndarray:
    """Return the ascending rows of at most `budget` samples per user.

    Args:
        owner: (N,) rows of the samples' users, ascending.
        place: (N,) number of each sample within its user; distinct.
        user_hash: (U,) uint64.
        budget: at least 1.
        seed: of this draw.
    """
    counts = np.bincount(owner, minlength=len(user_hash))
    kept = counts[owner] <= budget
    rich = np.flatnonzero(counts > budget)
    if not len(rich):
        return np.flatnonzero(kept)
    keys = mix(user_hash ^ mix(np.full(1, seed, dtype=np.uint64)))
    ends = np.cumsum(counts)
    block_of = (np.cumsum(counts[rich]) - counts[rich]) // BLOCK
    for users in np.split(rich, np.flatnonzero(np.diff(block_of)) + 1):
        sizes = counts[users]
        if len(users) == 1:
            stop = int(ends[users[0]])
            kept[_smallest(keys[users], place, stop - int(sizes[0]), stop, budget)] = True
            continue
        base = np.cumsum(sizes) - sizes
        rows = np.repeat(ends[users] - sizes - base, sizes) + np.arange(sizes.sum())
        hashes = mix(keys[owner[rows]] ^ place[rows].astype(np.uint64))
        rank = np.arange(len(rows)) - np.repeat(base, sizes)
        kept[rows[np.lexsort((hashes, owner[rows]))][rank < budget]] = True
    return np.flatnonzero(kept)


def _smallest(key: np.ndarray, place: np.ndarray, start: int, stop: int, budget: int) -> np.ndarray:
    """Return the rows of [start, stop) with the smallest hashes, holding one block and the best so far."""
    rows, hashes = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    for begin in range(start, stop, BLOCK):
        more = np.arange(begin, min(begin + BLOCK, stop))
        rows = np.concatenate([rows, more])
        hashes = np.concatenate([hashes, mix(key ^ place[more].astype(np.uint64))])
        if len(rows) > budget:
            best = np.argpartition(hashes, budget - 1)[:budget]
            rows, hashes = rows[best], hashes[best]
    return rows


def count_samples(
    offsets: np.ndarray, session: np.ndarray, train: np.ndarray, has_history: np.ndarray
) -> dict[str, dict[str, int]]:
    """Return, for each thing that can be a sample, how many users have how many of it (count -> users).

    "target": training events with a history. "event": training events. "session_event": training events
    whose session has another one. Users without any are left out.

    Args:
        offsets: (U + 1,) of the users.
        session: (E,) ordinals within the user.
        train, has_history: (E,) bool.
    """
    starts = np.zeros(len(session) + 1, dtype=bool)
    starts[1:-1] = session[1:] != session[:-1]
    starts[offsets[:-1]] = True
    begins = np.flatnonzero(starts[:-1])
    sizes = np.add.reduceat(train, begins, dtype=np.int64) if len(begins) else begins
    run_offsets = np.searchsorted(begins, offsets)
    each = {
        "target": _per_user(train & has_history, offsets),
        "event": _per_user(train, offsets),
        "session_event": _per_user(np.where(sizes > 1, sizes, 0), run_offsets),
    }
    histograms: dict[str, dict[str, int]] = {}
    for name, counts in each.items():
        users = np.bincount(counts)
        found = np.flatnonzero(users)
        histograms[name] = {str(count): int(users[count]) for count in found[found > 0].tolist()}
    return histograms


def _per_user(values: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    total = np.zeros(len(values) + 1, dtype=np.int64)
    np.cumsum(values, out=total[1:])
    return total[offsets[1:]] - total[offsets[:-1]]


def num_samples(counts: Mapping[str, Mapping[str, int]], shape: SampleShape, budget: int) -> int:
    """Return the samples of an epoch of one sequence file.

    Args:
        counts: from `count_samples`.
        shape: what is cut.
        budget: samples per user at most; 0: all.
    """
    name = "target" if shape.kind in ("next_item", "sequence") else "event"
    if shape.by_session:
        name = "session_event"
    histogram = {int(count): users for count, users in counts.get(name, {}).items()}
    if shape.kind == "pairs":
        histogram.pop(1, None)  # nothing to be paired with
    if shape.kind == "sequence":
        return sum(histogram.values())
    return sum(min(count, budget or count) * users for count, users in histogram.items())


SAMPLE_COUNTS = "sample_counts.parquet"


def sample_counts_table(parts: Mapping[str, Mapping[str, Mapping[str, int]]]) -> pa.Table:
    """Return `sample_counts.parquet`: per sequence file, thing and count how many users have that many of it.

    Args:
        parts: sequence file -> result of `count_samples`.
    """
    rows = [
        (part, thing, int(count), users)
        for part, things in parts.items()
        for thing, counts in things.items()
        for count, users in counts.items()
    ]
    columns = list(zip(*rows, strict=True)) or [()] * 4
    kinds = {"part": pa.string(), "thing": pa.string(), "count": pa.int64(), "users": pa.int64()}
    return pa.table(
        {name: pa.array(values, kinds[name]) for name, values in zip(kinds, columns, strict=True)}
    )


def part_samples(
    features: Folder, info: Mapping[str, Any], shape: SampleShape, budget: int
) -> dict[str, int]:
    """Return sequence file -> samples of an epoch.

    Args:
        features: the features folder.
        info: of its manifest.
        shape: what is cut.
        budget: samples per user at most; 0: all.
    """
    if shape.kind == "next_item" and not budget:
        return dict(info["part_samples"])
    table = read_table(features, SAMPLE_COUNTS)
    counts: dict[str, dict[str, dict[str, int]]] = {part: {} for part in info["part_samples"]}
    for part, thing, count, users in zip(
        *(table.column(n).to_pylist() for n in table.schema.names), strict=True
    ):
        counts[part].setdefault(thing, {})[str(count)] = users
    return {part: num_samples(things, shape, budget) for part, things in counts.items()}
