"""User partitions: a stable hash of the user decides the partition, a total order sorts the events in it.

Rows travel between tasks as shards: the events of one block that belong to one partition, packed into one
Arrow IPC message. Whatever moves them (Ray Data's shuffle) handles a few fat rows instead of every event.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.events import REJECTED_SCHEMA, file_of, position_of
from raysys.data.parsing import combine

MASK = np.uint64(0xFFFFFFFFFFFFFFFF)
SECOND_NS = 10**9
LARGEST = 2**63 - 1
WHOLE_NUMBERS = ("time_ns", "order", "place")


def mix(values: np.ndarray) -> np.ndarray:
    """Return (N,) uint64 well-mixed hashes of (N,) uint64 values.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, "Fast splittable pseudorandom number
    generators").
    """
    z = values + np.uint64(0x9E3779B97F4A7C15)
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


@dataclass(frozen=True)
class Coded:
    """A column as its distinct values, as text, and (N,) int32 codes into them; null is the last code."""

    values: pa.Array
    codes: np.ndarray

    @staticmethod
    def of(column: pa.Array | pa.ChunkedArray) -> "Coded":
        """Return a column of text or integers; distinct values in the order in which they come."""
        coded = combine(column)
        if not pa.types.is_dictionary(coded.type):
            coded = coded.dictionary_encode()
        indices, values = coded.indices.cast(pa.int32()), coded.dictionary.cast(pa.large_string())
        if indices.null_count:
            indices = pc.fill_null(indices, len(values))
        return Coded(values, np.asarray(indices.to_numpy(zero_copy_only=False)))

    def hashes(self, seed: int = 0) -> np.ndarray:
        """Return (V + 1,) uint64: the hash of each distinct value and, last, of null."""
        return _hash_distinct(self.values, seed)

    def ranks(self) -> np.ndarray:
        """Return (V + 1,) int64: each value's rank in byte order; null ranks last."""
        rank = np.empty(len(self.values) + 1, dtype=np.int64)
        rank[np.asarray(pc.sort_indices(self.values).to_numpy())] = np.arange(len(self.values))
        rank[-1] = len(self.values)
        return rank


def _hash_distinct(text: pa.Array, seed: int) -> np.ndarray:
    """FNV-1a over the bytes, one byte position of all values at a time, then `mix`; null is the last."""
    lengths = np.asarray(pc.binary_length(text).to_numpy(zero_copy_only=False)).astype(np.int64)
    buffers = text.buffers()
    offsets = np.frombuffer(buffers[1], dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    payload = np.frombuffer(buffers[2], dtype=np.uint8) if buffers[2] is not None else np.zeros(0, np.uint8)
    start = (0xCBF29CE484222325 ^ (seed * 0x9E3779B97F4A7C15)) & int(MASK)
    state = np.full(len(text) + 1, start, dtype=np.uint64)
    prime = np.uint64(0x100000001B3)
    for position in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > position)
        state[rows] = (state[rows] ^ payload[offsets[rows] + position]) * prime
    state[-1] ^= np.uint64(0xFF51AFD7ED558CCD)
    return mix(state)


def hash_text(text: pa.Array | pa.ChunkedArray, seed: int = 0) -> np.ndarray:
    """Return (N,) uint64 hashes of the UTF-8 bytes of each value; null hashes as a value of its own.

    The same on every machine, library version and block size; an integer hashes as its decimal text.
    """
    coded = Coded.of(text)
    return coded.hashes(seed)[coded.codes]


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


SHARDS = pa.schema([("partition", pa.int32()), ("shard", pa.large_binary())])


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
        tables.sort(
            key=lambda table: table.column("place")[0].as_py()
        )  # sorting is quicker in the log's order
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


def hash_rows(
    table: pa.Table, columns: Sequence[str], coded: Mapping[str, Coded] | None = None
) -> np.ndarray:
    """Return (N,) uint64 hashes over the named columns; which value is in which column counts.

    Args:
        table: the rows.
        columns: names; times, orders and places are whole numbers, floats numbers, anything else ids.
        coded: columns that are coded already.
    """
    state = np.zeros(table.num_rows, dtype=np.uint64)
    for name in columns:
        # An odd factor per column keeps columns from commuting; `mix` at the end spreads the sum.
        factor = _hash_distinct(pa.array([name], pa.large_string()), 0)[0] | np.uint64(1)
        column = table.column(name)
        if name in WHOLE_NUMBERS:
            value = np.asarray(column.to_numpy()).view(np.uint64) * factor
        elif pa.types.is_floating(column.type):
            value = (
                np.asarray(column.to_numpy()).astype(np.float32).view(np.uint32).astype(np.uint64) * factor
            )
        else:
            ids = (coded or {}).get(name) or Coded.of(column)
            value = (ids.hashes() * factor)[ids.codes]
        state += value
    return mix(state)


def content_columns(names: Sequence[str]) -> list[str]:
    """Return the columns that say what happened, without where it was logged."""
    return [name for name in names if name != "place"]


def content_digest(table: pa.Table, coded: Mapping[str, Coded] | None = None) -> tuple[int, int]:
    """Return two 64-bit sums over the events; `coded` as in `hash_rows`.

    Sums of parts add up (mod 2**64), in any order and partitioning.
    """
    hashes = hash_rows(table, content_columns(table.schema.names), coded)
    return int(hashes.sum(dtype=np.uint64)), int((hashes * hashes).sum(dtype=np.uint64))


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


def text_rank(text: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Return (N,) int64 ranks of values in byte order of their text; null ranks last."""
    coded = Coded.of(text)
    return coded.ranks()[coded.codes]


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
