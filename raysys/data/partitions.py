"""User partitions: a stable hash of the user decides the partition, one stable sort orders the events in
it."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.events import REJECTED_SCHEMA, file_of, position_of
from raysys.data.parsing import combine

MASK = np.uint64(0xFFFFFFFFFFFFFFFF)


def mix(values: np.ndarray) -> np.ndarray:
    """Return (N,) uint64 well-mixed hashes of (N,) uint64 values (the finaliser of SplitMix64, Steele et al.
    2014)."""
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def hash_text(text: pa.Array | pa.ChunkedArray, seed: int = 0) -> np.ndarray:
    """Return (N,) uint64 hashes of each value's UTF-8 bytes, of integers in decimal; null is a value too.

    The same on every machine, library version and block size: FNV-1a over the bytes of the distinct values,
    one byte
    position of all values at a time, then `mix`.
    """
    codes = combine(text)
    codes = codes if pa.types.is_dictionary(codes.type) else codes.dictionary_encode()
    unique = codes.dictionary.cast(pa.large_string())
    lengths = np.asarray(pc.binary_length(unique).to_numpy(zero_copy_only=False)).astype(np.int64)
    buffers = unique.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int64)[unique.offset : unique.offset + len(unique) + 1]
    payload = np.frombuffer(buffers[2], dtype=np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    start = (0xCBF29CE484222325 ^ (seed * 0x9E3779B97F4A7C15)) & int(MASK)
    state = np.full(len(unique) + 1, start, dtype=np.uint64)
    prime = np.uint64(0x100000001B3)
    for position in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > position)
        state[rows] = (state[rows] ^ payload[offsets[rows] + position]) * prime
    state[-1] ^= np.uint64(0xFF51AFD7ED558CCD)  # null
    index = np.asarray(pc.fill_null(codes.indices, len(unique)).to_numpy(zero_copy_only=False))
    return mix(state)[index]


def partition_of(user_id: pa.Array | pa.ChunkedArray, num_partitions: int) -> np.ndarray:
    """Return (N,) int32: the partition of each row's user."""
    return (hash_text(user_id) % np.uint64(num_partitions)).astype(np.int32)


def hash_rows(table: pa.Table, columns: Sequence[str], seed: int = 0) -> np.ndarray:
    """Return (N,) uint64 hashes over the named columns, in the order given."""
    state = np.full(table.num_rows, seed, dtype=np.uint64)
    for name in columns:
        column = table.column(name)
        if pa.types.is_string(column.type):
            value = hash_text(column, seed)
        elif pa.types.is_floating(column.type):
            value = np.asarray(column.to_numpy()).astype(np.float32).view(np.uint32).astype(np.uint64)
        else:
            value = np.asarray(column.to_numpy()).astype(np.int64).view(np.uint64)
        state = mix(state ^ value)
    return state


def content_columns(table: pa.Table) -> list[str]:
    """Return the columns that say what happened, without where it was logged."""
    return [name for name in table.schema.names if name not in ("place", "partition")]


def content_digest(table: pa.Table) -> tuple[int, int]:
    """Return two 64-bit sums over the events; sums of parts add up (mod 2**64), in any order and
    partitioning."""
    columns = content_columns(table)
    sums = [hash_rows(table, columns, seed).sum(dtype=np.uint64) for seed in (1, 2)]
    return int(sums[0]), int(sums[1])


def sort_events(table: pa.Table) -> pa.Table:
    """Return the events ordered by (user, time, order, session, place): a total order, whatever came
    first."""
    keys = [np.asarray(table.column("place").to_numpy())]
    if "session" in table.schema.names:
        keys.append(text_rank(table.column("session")))
    names = [name for name in ("order", "time_ns") if name in table.schema.names]
    keys += [np.asarray(table.column(name).to_numpy()) for name in names]
    keys.append(text_rank(table.column("user_id")))
    return table.take(pa.array(np.lexsort(keys)))


def text_rank(text: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return (N,) int64 ranks of text values in byte order; null ranks last."""
    codes = combine(text).dictionary_encode()
    rank = np.empty(len(codes.dictionary) + 1, dtype=np.int64)
    order = np.asarray(pc.sort_indices(codes.dictionary).to_numpy())
    rank[order] = np.arange(len(order))
    rank[-1] = len(order)
    return rank[np.asarray(pc.fill_null(codes.indices, len(order)).to_numpy(zero_copy_only=False))]


def split_duplicates(table: pa.Table, files: Sequence[str]) -> tuple[pa.Table, pa.Table]:
    """Return sorted events without repeats of a whole row, and the repeats as rejected rows.

    The first of equal rows (by place) stays. Events must come from `sort_events`, so that only rows of
    the
    same user and time need comparing.
    """
    hashes = hash_rows(table, content_columns(table))
    order = np.lexsort((np.arange(table.num_rows), hashes))
    repeated = np.zeros(table.num_rows, dtype=bool)
    repeated[order[1:]] = hashes[order[1:]] == hashes[order[:-1]]
    rows = pa.array(np.flatnonzero(repeated))
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
    return table.filter(pa.array(~repeated)), rejected
