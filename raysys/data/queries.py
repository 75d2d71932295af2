"""Queries: what a model is asked in the validation and test parts, and what is held out."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from raysys.data.history import (
    History,
    Sequences,
    history_of,
    load_item_columns,
    load_sequences,
    user_columns,
    visible_events,
    widen,
)
from raysys.data.samples import NEXT_ITEM, Inputs
from raysys.data.shapes import SampleShape
from raysys.data.splits import TEST, TRAIN, VALID
from raysys.storage import Folder

PART_ROLE = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True)
class Queries:
    """One query per user with something held out in a part.

    Attributes:
        user_id: (Q,) text.
        history: what the user did before the first held-out unit.
        truth_offsets, truth_items: distinct held-out items per query, ascending.
        seen_offsets, seen_items: distinct items of the whole history per query, ascending.
        columns: name -> (Q,) or (Q, L): profile_*, and user_idx, target_at and example_age where asked for.
        shape, items: see `queries_of`.
        target_at: (Q,) int64 UTC seconds of the first held-out event; empty where times were not read.
    """

    user_id: pa.Array
    history: History
    truth_offsets: np.ndarray
    truth_items: np.ndarray
    seen_offsets: np.ndarray
    seen_items: np.ndarray
    columns: dict[str, np.ndarray]
    shape: SampleShape
    items: Mapping[str, np.ndarray]
    target_at: np.ndarray

    def __len__(self) -> int:
        return len(self.history)

    @cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self.history, self.shape, self.items)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return history (B, T) int64, profile_* and what else the shape names, of some queries."""
        columns = {name: values[rows] for name, values in self.columns.items()}
        return {**self._inputs.batch(rows), **columns}


def queries_of(
    sequences: Sequences,
    part: str,
    shape: SampleShape = NEXT_ITEM,
    items: Mapping[str, np.ndarray] | None = None,
) -> Queries:
    """Return the queries of the part "valid" or "test".

    Args:
        sequences: with the columns that the shape's `query_columns` name.
        part: which.
        shape: what batches hold of the histories; `target_at` is the time of the first held-out event, and
            `example_age` is 0.
        items: the shape's `item_columns`, aligned to item_idx.
    """
    held_out = np.flatnonzero(sequences.events["role"] == PART_ROLE[part])
    owner = np.searchsorted(sequences.offsets, held_out, side="right") - 1
    users, first = np.unique(owner, return_index=True)
    history = history_of(sequences, visible_events(sequences, part), held_out[first])
    truth_offsets, truth = _distinct(
        np.searchsorted(users, owner), sequences.events["item_idx"][held_out], len(users)
    )
    sizes = history.stop - history.start
    query = np.repeat(np.arange(len(users)), sizes)
    position = (
        np.repeat(history.start, sizes) + np.arange(len(query)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    )
    seen_offsets, seen = _distinct(query, history.events["item_idx"][position], len(users))
    columns = user_columns(sequences, users, shape.user_idx)
    at = sequences.events.get("at")
    target_at = np.zeros(0, np.int64) if at is None else widen(at[held_out[first]])
    if shape.times:
        columns["target_at"] = target_at
    if shape.example_age:
        columns["example_age"] = np.zeros(len(users), dtype=np.float32)
    user_id = sequences.user_id.take(pa.array(users))
    return Queries(
        user_id, history, truth_offsets, truth, seen_offsets, seen, columns, shape, items or {}, target_at
    )


def read_queries(
    features: Folder, name: str, part: str, shape: SampleShape, more: tuple[str, ...] = ()
) -> Queries:
    """Return the queries of one sequence file, with what their batches need and `more` event columns."""
    columns = tuple(dict.fromkeys([*shape.query_columns, *more]))
    sequences = load_sequences(
        features, [f"sequences/{name}"], columns, shape.profile_features, shape.user_idx
    )
    return queries_of(sequences, part, shape, load_item_columns(features, shape.item_columns))


def _distinct(query: np.ndarray, items: np.ndarray, num_queries: int) -> tuple[np.ndarray, np.ndarray]:
    """Return offsets and ascending distinct items per query."""
    pairs = np.unique(query.astype(np.int64) << 32 | items.astype(np.int64))
    offsets = np.searchsorted(pairs, np.arange(num_queries + 1, dtype=np.int64) << 32)
    return offsets, pairs & 0xFFFFFFFF
