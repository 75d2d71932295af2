"""Samples cut from stored sequences while streaming: next-item batches for training, queries for evaluation.

Histories are right-aligned: the latest event is in the last column, padding (0) on the left, so "the n-th
event
before the target" is the same column in every batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.parsing import combine
from raysys.data.splits import TEST, TRAIN, VALID, VISIBLE
from raysys.storage import Folder

PART_ROLE = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True)
class Sequences:
    """Rows of sequence files as flat arrays.

    Attributes:
        user_id: (U,) text.
        offsets: (U + 1,) int64.
        events: name -> (E,) array: item_idx, cut, role, session, long_start, at, event_<feature>.
        profile: name -> (U,) or (U, L) array.
    """

    user_id: pa.Array
    offsets: np.ndarray
    events: dict[str, np.ndarray]
    profile: dict[str, np.ndarray]

    @property
    def num_users(self) -> int:
        return len(self.offsets) - 1


def load_sequences(
    folder: Folder, names: Sequence[str], events: Sequence[str] = ("item_idx", "cut", "role")
) -> Sequences:
    """Read sequence files, in the order given, with the named event columns and every profile column."""
    tables: list[pa.Table] = []
    for name in names:
        with folder.open_input(name) as file:
            parquet = pq.ParquetFile(file)
            profile = [column for column in parquet.schema_arrow.names if column.startswith("profile_")]
            tables.append(parquet.read(columns=["user_id", *events, *profile]))
    table = pa.concat_tables(tables).combine_chunks()
    first = combine(table.column(events[0]))
    lengths = np.asarray(pc.list_value_length(first).to_numpy(zero_copy_only=False)).astype(np.int64)
    columns = {name: np.asarray(pc.list_flatten(combine(table.column(name))).to_numpy()) for name in events}
    profiles: dict[str, np.ndarray] = {}
    for name in table.schema.names:
        if name.startswith("profile_"):
            column = combine(table.column(name))
            if pa.types.is_fixed_size_list(column.type):
                flat = np.asarray(column.flatten().to_numpy())
                profiles[name] = flat.reshape(len(column), column.type.list_size)
            else:
                profiles[name] = np.asarray(column.to_numpy())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return Sequences(combine(table.column("user_id")), offsets, columns, profiles)


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

    def window(self, rows: np.ndarray, length: int, name: str = "item_idx") -> np.ndarray:
        """Return (len(rows), T) int64, the last events of each history; T <= length is the longest one
        needed."""
        stop, start = self.stop[rows], self.start[rows]
        longest = int(np.minimum(stop - start, length).max(initial=1))
        index = stop[:, None] + np.arange(-max(longest, 1), 0)
        values = self.events[name]
        if not len(values):
            return np.zeros(index.shape, dtype=np.int64)
        return np.where(index >= start[:, None], values[np.maximum(index, 0)], 0).astype(np.int64)


def _visible(sequences: Sequences, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask of events that histories of `part` may hold, and the (E + 1,) running count of them."""
    visible = np.isin(sequences.events["role"], VISIBLE[part])
    return visible, np.concatenate([[0], np.cumsum(visible)])


def _history(sequences: Sequences, part: str, targets: np.ndarray) -> History:
    """Return the histories of the events at flat positions `targets`."""
    visible, count = _visible(sequences, part)
    user = np.searchsorted(sequences.offsets, targets, side="right") - 1
    base = sequences.offsets[user]
    events = {name: values[visible] for name, values in sequences.events.items()}
    if "long_start" in events:  # a position within the user's stored events becomes one among the visible
        owner = np.repeat(sequences.offsets[:-1], np.diff(sequences.offsets))[visible]
        events["long_start"] = count[owner + events["long_start"]]
    return History(events, count[base], count[base + sequences.events["cut"][targets]], user)


@dataclass(frozen=True)
class TrainingSamples:
    """Every training target of some sequence files that has a history, in stored order."""

    history: History
    target: np.ndarray
    profile: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.target)

    def batch(self, rows: np.ndarray, history_length: int) -> dict[str, np.ndarray]:
        """Return a next-item batch: history (B, T) int64, target (B,) int64, profile_* as stored."""
        users = self.history.user[rows]
        return {
            "history": self.history.window(rows, history_length),
            "target": self.target[rows].astype(np.int64),
            **{name: widen(values[users]) for name, values in self.profile.items()},
        }


def training_samples(sequences: Sequences) -> TrainingSamples:
    """Return the samples of the role `train`: each event whose history holds at least one event."""
    targets = np.flatnonzero(sequences.events["role"] == TRAIN)
    history = _history(sequences, "train", targets)
    usable = history.stop > history.start
    kept = History(history.events, history.start[usable], history.stop[usable], history.user[usable])
    return TrainingSamples(kept, sequences.events["item_idx"][targets[usable]], sequences.profile)


@dataclass(frozen=True)
class Queries:
    """One query per user with something held out in a part.

    Attributes:
        user_id: (Q,) text.
        history: what the user did before the first held-out unit.
        truth_offsets, truth_items: distinct held-out items per query, ascending.
        seen_offsets, seen_items: distinct items of the whole history per query, ascending.
        profile: name -> (Q,) or (Q, L).
    """

    user_id: pa.Array
    history: History
    truth_offsets: np.ndarray
    truth_items: np.ndarray
    seen_offsets: np.ndarray
    seen_items: np.ndarray
    profile: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.history)

    def batch(self, rows: np.ndarray, history_length: int) -> dict[str, np.ndarray]:
        """Return history (B, T) int64 and profile_* of some queries."""
        window = self.history.window(rows, history_length)
        return {"history": window, **{name: widen(values[rows]) for name, values in self.profile.items()}}


def queries_of(sequences: Sequences, part: str) -> Queries:
    """Return the queries of the part "valid" or "test"."""
    held_out = np.flatnonzero(sequences.events["role"] == PART_ROLE[part])
    owner = np.searchsorted(sequences.offsets, held_out, side="right") - 1
    users, first = np.unique(owner, return_index=True)
    history = _history(sequences, part, held_out[first])
    truth_offsets, truth = _distinct(
        np.searchsorted(users, owner), sequences.events["item_idx"][held_out], len(users)
    )
    sizes = history.stop - history.start
    query = np.repeat(np.arange(len(users)), sizes)
    position = (
        np.repeat(history.start, sizes) + np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    )
    seen_offsets, seen = _distinct(query, history.events["item_idx"][position], len(users))
    rows = pa.array(users)
    profile = {name: values[users] for name, values in sequences.profile.items()}
    return Queries(sequences.user_id.take(rows), history, truth_offsets, truth, seen_offsets, seen, profile)


def _distinct(query: np.ndarray, items: np.ndarray, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and ascending distinct items per query."""
    pairs = np.unique(query.astype(np.int64) << 32 | items.astype(np.int64))
    offsets = np.searchsorted(pairs, np.arange(num_queries + 1, dtype=np.int64) << 32)
    return offsets, pairs & 0xFFFFFFFF


def widen(values: np.ndarray) -> np.ndarray:
    """Return ids as int64, which torch indexes with; numbers stay float32."""
    return values.astype(np.int64) if values.dtype.kind == "i" else values
