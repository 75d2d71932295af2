"""The matrix of users and items: what counting models learn from, as compressed rows by user and by item."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from raysys.data.history import Sequences, load_sequences, without_context
from raysys.storage import Folder

Value = Literal["weight", "rating"]


@dataclass(frozen=True)
class Entries:
    """Cells of the matrix, ordered by (user, item), each once; those of parts add up.

    Attributes:
        user_idx, item_idx: (M,) int32.
        weight: (M,) float64, the sum over the cell's events (float64, so that sums of parts round alike).
        count: (M,) int32, the events of the cell.
        at: (M,) int64, UTC seconds of the latest one.
    """

    user_idx: np.ndarray
    item_idx: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    at: np.ndarray

    @staticmethod
    def of(sequences: Sequences, value: Value | None = None, part: str = "train") -> "Entries":
        """Return the cells of some users' events that histories of a part may hold, context left out.

        Args:
            sequences: with `user_idx` and the event columns `item_idx`, `role`, `at` and the value's.
            value: the column that is summed; None: each event weighs 1. A mean is sum / count.
            part: "train": training events; "valid" and "test": what a query's history may hold, for seeds.
        """
        visible = without_context(sequences, part)
        user_idx = np.repeat(sequences.user_idx, np.diff(visible.offsets))
        total = len(user_idx)
        weight = visible.events[value].astype(np.float64) if value else np.ones(total)
        count = np.ones(total, dtype=np.int32)
        return _added_up(user_idx, visible.events["item_idx"], weight, count, visible.events["at"])

    @staticmethod
    def merge(parts: Sequence["Entries"]) -> "Entries":
        """Return the sum of parts."""
        names = ("user_idx", "item_idx", "weight", "count", "at")
        return _added_up(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def _added_up(
    user_idx: np.ndarray, item_idx: np.ndarray, weight: np.ndarray, count: np.ndarray, at: np.ndarray
) -> Entries:
    key = user_idx.astype(np.int64) << 32 | item_idx.astype(np.int64)
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    if not len(first):
        return Entries(*(np.zeros(0, kind) for kind in (np.int32, np.int32, np.float64, np.int32, np.int64)))
    return Entries(
        (key[first] >> 32).astype(np.int32),
        (key[first] & 0xFFFFFFFF).astype(np.int32),
        np.add.reduceat(weight[order], first),
        np.add.reduceat(count[order], first).astype(np.int32),
        np.maximum.reduceat(at[order], first),
    )


@dataclass(frozen=True)
class Rows:
    """Compressed rows: those of row r are at [offsets[r], offsets[r + 1]), ordered by column.

    Attributes:
        offsets: (R + 1,) int64.
        columns: (M,) int32 idx of the other side.
        weight: (M,) float32.
        count: (M,) int32.
        at: (M,) int64 UTC seconds of the cell's latest event.
    """

    offsets: np.ndarray
    columns: np.ndarray
    weight: np.ndarray
    count: np.ndarray
    at: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def positions(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (len(rows) + 1,) offsets and the flat positions of the cells of some rows, row after row."""
        first = self.offsets[rows]
        sizes = self.offsets[rows + 1] - first
        starts = np.concatenate([[0], np.cumsum(sizes)])
        return starts, np.repeat(first - starts[:-1], sizes) + np.arange(starts[-1])


@dataclass(frozen=True)
class Interactions:
    """The matrix in both orientations, with aligned weights, counts and times."""

    by_user: Rows
    by_item: Rows

    @staticmethod
    def build(entries: Entries, num_users: int, num_items: int) -> "Interactions":
        """Return the matrix of merged entries.

        Args:
            entries: distinct cells, as `Entries.of` and `Entries.merge` return them.
            num_users, num_items: rows with the reserved ones, as in the catalog.
        """
        assert not len(entries.user_idx) or entries.user_idx.max() < num_users
        assert not len(entries.item_idx) or entries.item_idx.max() < num_items
        turned = np.argsort(entries.item_idx, kind="stable")  # within an item by user, as entries are
        return Interactions(
            _rows(entries.user_idx, entries.item_idx, entries, slice(None), num_users),
            _rows(entries.item_idx, entries.user_idx, entries, turned, num_items),
        )


def _rows(
    row: np.ndarray, column: np.ndarray, entries: Entries, order: np.ndarray | slice, num_rows: int
) -> Rows:
    offsets = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=num_rows))]).astype(np.int64)
    weight = entries.weight.astype(np.float32)
    return Rows(offsets, column[order], weight[order], entries.count[order], entries.at[order])


def read_entries(features: Folder, part: str, value: Value | None = None, role: str = "train") -> Entries:
    """Return the cells of one sequence file, such as a task adds to the matrix; see `Entries.of`."""
    columns = ("item_idx", "role", "at", *([value] if value else []))
    sequences = load_sequences(features, [f"sequences/{part}"], columns, profile=(), user_idx=True)
    return Entries.of(sequences, value, role)
