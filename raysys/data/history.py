"""Stored sequences as flat arrays, and the histories that lie in them.

Histories are right-aligned: the latest event is in the last column, padding (0) on the left, so "the n-th
event before the target" is the same column in every batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.parsing import combine
from raysys.data.shapes import ALL
from raysys.data.splits import CONTEXT, VISIBLE
from raysys.errors import DataError
from raysys.storage import Folder

PROFILE = "profile_"


@dataclass(frozen=True)
class Sequences:
    """Rows of sequence files as flat arrays.

    Attributes:
        user_id: (U,) text.
        offsets: (U + 1,) int64.
        events: name -> (E,) array: item_idx, cut, role, session, long_start, at, weight, rating,
        event_<feature>.
        profile: name -> (U,) or (U, L) array.
        user_idx: (U,) int32, empty where it was not asked for.
    """

    user_id: pa.Array
    offsets: np.ndarray
    events: dict[str, np.ndarray]
    profile: dict[str, np.ndarray]
    user_idx: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1


def load_sequences(
    folder: Folder,
    names: Sequence[str],
    events: Sequence[str] = ("item_idx", "cut", "role"),
    profile: Sequence[str] = (ALL,),
    user_idx: bool = False,
) -> Sequences:
    """Read sequence files, in the order given.

    Args:
        folder: the features.
        names: the files.
        events: event columns to read.
        profile: user features to read; ["*"] is all of them.
        user_idx: read that column too.
    Raises:
        DataError: a column that the files do not have.
    """
    tables: list[pa.Table] = []
    for name in names:
        with folder.open_input(name) as file:
            parquet = pq.ParquetFile(file)
            stored = parquet.schema_arrow.names
            wanted = [f"{PROFILE}{feature}" for feature in profile if feature != ALL]
            if ALL in profile:
                wanted = [column for column in stored if column.startswith(PROFILE)]
            columns = ["user_id", *(["user_idx"] if user_idx else []), *events, *wanted]
            missing = [column for column in columns if column not in stored]
            if missing:
                raise DataError(
                    f"{folder.uri}/{name}: no column {', '.join(missing)}, which the model's samples need; "
                    "name it in [data] and run jobs/prepare.py again"
                )
            tables.append(parquet.read(columns=columns))
    table = pa.concat_tables(tables).combine_chunks()
    first = combine(table.column(events[0]))
    lengths = np.asarray(pc.list_value_length(first).to_numpy(zero_copy_only=False)).astype(np.int64)
    flat = {name: np.asarray(pc.list_flatten(combine(table.column(name))).to_numpy()) for name in events}
    profiles = {name: dense(table.column(name)) for name in table.schema.names if name.startswith(PROFILE)}
    users = np.asarray(table.column("user_idx").to_numpy()) if user_idx else np.zeros(0, np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(combine(table.column("user_id")), offsets, flat, profiles, users)


def dense(column: pa.ChunkedArray) -> np.ndarray:
    """Return (N,) values, or (N, L) of a column of fixed-size lists."""
    array = combine(column)
    if pa.types.is_fixed_size_list(array.type):
        return np.asarray(array.flatten().to_numpy()).reshape(len(array), array.type.list_size)
    return np.asarray(array.to_numpy())


@dataclass(frozen=True)
class Visible:
    """The events that histories of a part may hold, or those that are targets, flat.

    Attributes:
        events: name -> (F,) array; without `cut` and `role`.
        count: (E + 1,) int64, visible events before each stored one.
        offsets: (U + 1,) int64 among the visible events.
    """

    events: dict[str, np.ndarray]
    count: np.ndarray
    offsets: np.ndarray


def visible_events(sequences: Sequences, part: str) -> Visible:
    """Return the events that histories of the part "train", "valid" or "test" may hold."""
    return _chosen(sequences, np.isin(sequences.events["role"], VISIBLE[part]))


def without_context(sequences: Sequences, part: str) -> Visible:
    """Return the same without context: under "train" the training events, which are its targets.

    What a user viewed may come after what is held out, so only a history, which ends before its target, may
    hold it.
    """
    roles = set(VISIBLE[part]) - {CONTEXT}
    return _chosen(sequences, np.isin(sequences.events["role"], list(roles)))


def _chosen(sequences: Sequences, seen: np.ndarray) -> Visible:
    count = np.concatenate([[0], np.cumsum(seen)])
    events = {name: values[seen] for name, values in sequences.events.items() if name not in ("cut", "role")}
    if "long_start" in events:  # a position within the user's stored events becomes one among the visible
        owner = np.repeat(sequences.offsets[:-1], np.diff(sequences.offsets))[seen]
        events["long_start"] = count[owner + events["long_start"]]
    return Visible(events, count, count[sequences.offsets])


@dataclass(frozen=True)
class History:
    """The events that histories may hold, flat, and where each requested history ends.

    Attributes:
        events: name -> (F,) array of visible events.
        start: (N,) int64 flat position of the user's first visible event.
        stop: (N,) int64 flat position after the last visible event before the target.
        user: (N,) int64 row of the user.
    """

    events: dict[str, np.ndarray]
    start: np.ndarray
    stop: np.ndarray
    user: np.ndarray

    def __len__(self) -> int:
        return len(self.start)


def history_of(sequences: Sequences, visible: Visible, targets: np.ndarray) -> History:
    """Return the histories of the events at the stored flat positions `targets`."""
    user = np.searchsorted(sequences.offsets, targets, side="right") - 1
    base = sequences.offsets[user]
    count = visible.count
    return History(visible.events, count[base], count[base + sequences.events["cut"][targets]], user)


def last_positions(start: np.ndarray, stop: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the right-aligned (B, T) last `length` positions of the ranges [start, stop), and which are
    real."""
    longest = int(np.minimum(stop - start, length).max(initial=1))
    index = stop[:, None] + np.arange(-max(longest, 1), 0)
    return index, index >= start[:, None]


def frequent_positions(
    items: np.ndarray, start: np.ndarray, stop: np.ndarray, among: int, length: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return, right-aligned (B, T), the `length` most frequent items among the last `among` positions of the
    ranges [start, stop), as the last position of each, and which are real.

    The most frequent one is in the last column; of equally frequent ones the one that occurs later.

    Args:
        items: (F,) ids, int32 range.
        start, stop: (B,) int64.
        among: at least one.
        length: at least one.
    """
    start = np.maximum(start, stop - among)
    sizes = stop - start
    row = np.repeat(np.arange(len(start)), sizes)
    position = np.repeat(stop - np.cumsum(sizes), sizes) + np.arange(len(row))
    key = row << 32 | items[position]
    order = np.argsort(key, kind="stable")  # positions ascend within an item of a row
    key = key[order]
    last = np.flatnonzero(np.append(key[1:] != key[:-1], np.ones(min(len(key), 1), bool)))
    count = np.diff(last, prepend=-1)
    latest, row = position[order[last]], key[last] >> 32
    ranked = np.lexsort((latest, count, row))
    stops = np.searchsorted(row, np.arange(len(start)), side="right")
    starts = np.concatenate([[0], stops[:-1]])
    index, real = last_positions(starts, stops, length)
    return take(latest[ranked], index, real), real


def take(values: np.ndarray, index: np.ndarray, real: np.ndarray) -> np.ndarray:
    """Return the values at some positions, ids as int64, 0 where not real."""
    if not len(values):
        return np.zeros(index.shape, dtype=widen(values).dtype)
    found = values.take(index, mode="clip")
    if found.dtype.kind == "i":
        return np.multiply(found, real, dtype=np.int64)  # masks and widens in one pass
    return np.where(real, found, found.dtype.type(0))


def widen(values: np.ndarray) -> np.ndarray:
    """Return ids as int64, which torch indexes with; numbers stay float32."""
    return values.astype(np.int64) if values.dtype.kind == "i" else values


def user_columns(sequences: Sequences, users: np.ndarray, user_idx: bool) -> dict[str, np.ndarray]:
    """Return what a batch says of some users: `profile_*`, and `user_idx` where asked for."""
    columns = {"user_idx": widen(sequences.user_idx[users])} if user_idx else {}
    return {**columns, **{name: widen(values[users]) for name, values in sequences.profile.items()}}


def load_item_columns(folder: Folder, names: Sequence[str]) -> Mapping[str, np.ndarray]:
    """Return columns of `items.parquet`, aligned to item_idx: (V,), or (V, M) of multi-valued features.

    Raises:
        DataError: a feature that the items do not have, or one of numbers.
    """
    if not names:
        return {}
    with folder.open_input("items.parquet") as file:
        parquet = pq.ParquetFile(file)
        missing = [name for name in names if name not in parquet.schema_arrow.names]
        if missing:
            raise DataError(
                f"{folder.uri}/items.parquet: no feature {', '.join(missing)}, which the model's long-term "
                "sets need; name it in [data.items] and run jobs/prepare.py again"
            )
        table = parquet.read(columns=list(names))
    columns = {name: dense(table.column(name)) for name in names}
    numbers = [name for name, values in columns.items() if values.dtype.kind != "i"]
    if numbers:
        raise DataError(f"{', '.join(numbers)}: numbers have no sets of distinct values; leave them out")
    return columns
