"""Shards: how events travel to the partition of their user.

A stable hash of the user decides the partition. The events of one block that belong to one partition are
packed into one Arrow IPC message; whatever moves them (Ray Data's shuffle) handles a few fat rows instead of
every event.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from raysys.data.hashing import Coded, mix
from raysys.data.parsing import combine
from raysys.data.partitions import SECOND_NS

LARGEST = 2**63 - 1
SHARDS = pa.schema([("partition", pa.int32()), ("shard", pa.large_binary())])


def partition_of(user_id: pa.Array | pa.ChunkedArray, num_partitions: int) -> np.ndarray:
    """Return (N,) uint16 (uint32 from 65,536 partitions on): the partition of each row's user.

    Integers are hashed as numbers, which is many times quicker; a log with the same ids as text therefore has
    other partitions, and the same users, sequences and digest.
    """
    kind = np.uint16 if num_partitions <= 1 << 16 else np.uint32
    if pa.types.is_int64(user_id.type):
        numbers = np.asarray(combine(user_id).to_numpy()).view(np.uint64)
        return (mix(numbers) % np.uint64(num_partitions)).astype(kind)
    coded = Coded.of(user_id)
    return (coded.hashes() % np.uint64(num_partitions)).astype(kind)[coded.codes]


def split_users(events: pa.Table, partition: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number and the events, in their order, of every partition that has any.

    Args:
        events: of any users.
        partition: (N,) unsigned, from `partition_of`.
    """
    order = np.argsort(partition, kind="stable")  # a radix sort for 16 bits
    counts = np.bincount(partition)
    moved, stops = events.take(pa.array(order)).combine_chunks(), np.cumsum(counts)
    for number in np.flatnonzero(counts):
        yield int(number), moved.slice(stops[number] - counts[number], counts[number])


def to_shards(events: pa.Table, num_partitions: int) -> pa.Table:
    """Return one row per partition that has events: its number, and its events as one Arrow IPC message."""
    if not events.num_rows:
        return SHARDS.empty_table()
    partition = partition_of(events.column("user_id"), num_partitions)
    sink, numbers, offsets = pa.BufferOutputStream(), list[int](), [0]
    for number, part in split_users(_narrow(events), partition):
        with pa.ipc.new_stream(sink, part.schema) as writer:
            writer.write_table(part)
        numbers.append(number)
        offsets.append(sink.tell())
    buffers = [None, pa.py_buffer(np.array(offsets, dtype=np.int64)), sink.getvalue()]
    shards = pa.Array.from_buffers(pa.large_binary(), len(numbers), buffers)
    return pa.table([pa.array(numbers, pa.int32()), shards], schema=SHARDS)


def from_shards(shards: pa.Table) -> Iterator[tuple[int, pa.Table]]:
    """Yield the number and the events of every partition that has a shard here, in order of the number."""
    numbers = np.asarray(shards.column("partition").to_numpy())
    packed = shards.column("shard")
    for number in np.unique(numbers):
        tables = [
            _widen(pa.ipc.open_stream(packed[int(row)].as_buffer()).read_all())
            for row in np.flatnonzero(numbers == number)
        ]
        # Sorting is quicker in the log's order.
        tables.sort(key=lambda table: table.column("place")[0].as_py())
        yield int(number), pa.concat_tables(tables).combine_chunks()


def _narrow(events: pa.Table) -> pa.Table:
    """Return events with whole numbers as 32-bit steps above their least value, where 32 bits hold them.

    Times that are whole seconds count in seconds. A shuffle copies every byte several times.
    """
    for number, field in enumerate(events.schema):
        if not pa.types.is_int64(field.type):
            continue
        values = np.asarray(events.column(number).to_numpy())
        low, unit = int(values.min()), 1
        if int(values.max()) - low > LARGEST:  # int64 does not hold the difference
            continue
        above = values - low
        if field.name == "time_ns":
            seconds = above // SECOND_NS
            if np.array_equal(seconds * SECOND_NS, above):
                above, unit = seconds, SECOND_NS
        if above.max() < 1 << 32:
            told = {b"low": str(low).encode(), b"unit": str(unit).encode()}
            narrow = pa.field(field.name, pa.uint32(), metadata=told)
            events = events.set_column(number, narrow, pa.array(above.astype(np.uint32)))
    return events


def _widen(events: pa.Table) -> pa.Table:
    """Return the events that `_narrow` was given."""
    for number, field in enumerate(events.schema):
        if field.metadata and b"low" in field.metadata:
            low, unit = int(field.metadata[b"low"]), int(field.metadata[b"unit"])
            values = np.asarray(events.column(number).to_numpy()).astype(np.int64)
            if unit != 1:
                values *= unit
            values += low
            events = events.set_column(number, pa.field(field.name, pa.int64()), pa.array(values))
    return events
