"""One pass over all of `sequences/`: what can be counted of every event."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.parsing import combine
from raysys.evaluation.doctor.timeline import SHOWN, TEST, TRAIN, VALID

COLUMNS = ("item_idx", "at", "role", "cut")


@dataclass
class Census:
    """Totals over the events of all users.

    Attributes:
        train_counts: (V,) training events by item_idx.
        test_counts: (V,) test events by item_idx.
        events: all events.
        held_out: those of valid and test.
        late_cuts: events whose history would hold them, or an event of a later time.
        leaked: held-out events with the user, item and time of a training event.
        reserved: events whose item is padding, unknown or beyond the vocabulary.
        queries: users with test events; `empty_histories` of them have nothing to be shown.
    """

    train_counts: np.ndarray
    test_counts: np.ndarray = field(init=False)
    events: int = 0
    held_out: int = 0
    late_cuts: int = 0
    leaked: int = 0
    reserved: int = 0
    queries: int = 0
    empty_histories: int = 0

    def __post_init__(self) -> None:
        self.test_counts = np.zeros_like(self.train_counts)

    @staticmethod
    def of(num_items: int, tables: Iterable[pa.Table]) -> "Census":
        """Return the census of sequence files with the columns `COLUMNS`, one after the other.

        Args:
            num_items: rows of an item table, the reserved ones included.
            tables: one row per user.
        """
        census = Census(np.zeros(num_items, np.int64))
        for table in tables:
            census.add(table)
        return census

    @property
    def test_targets(self) -> int:
        """Events of the test part."""
        return int(self.test_counts.sum())

    @property
    def cold_targets(self) -> int:
        """Events of the test part whose item has no training event."""
        return int(self.test_counts[self.train_counts == 0].sum())

    def add(self, table: pa.Table) -> None:
        """Take in the users of one sequence file."""
        lists = combine(table.column("item_idx"))
        sizes = np.asarray(pc.list_value_length(lists).to_numpy(zero_copy_only=False)).astype(np.int64)
        flat = {name: np.asarray(pc.list_flatten(combine(table.column(name))).to_numpy()) for name in COLUMNS}
        item, at, role, cut = (flat[name] for name in COLUMNS)
        user = np.repeat(np.arange(len(sizes)), sizes)
        first = np.repeat(np.cumsum(sizes) - sizes, sizes)
        real = (item >= 2) & (item < len(self.train_counts))
        held = (role == VALID) | (role == TEST)
        self.events += len(item)
        self.held_out += int(held.sum())
        self.reserved += int((~real).sum())
        self.train_counts += np.bincount(item[real & (role == TRAIN)], minlength=len(self.train_counts))
        self.test_counts += np.bincount(item[real & (role == TEST)], minlength=len(self.test_counts))
        last = np.clip(first + cut - 1, 0, max(len(at) - 1, 0))
        own_place = np.arange(len(item)) - first
        self.late_cuts += int(((cut > own_place) | ((cut > 0) & (at[last] > at))).sum())
        columns = (user, item, at)
        self.leaked += _in_both([c[held] for c in columns], [c[role == TRAIN] for c in columns])
        self._count_queries(user, role, cut, first)

    def _count_queries(self, user: np.ndarray, role: np.ndarray, cut: np.ndarray, first: np.ndarray) -> None:
        shown = np.concatenate([[0], np.cumsum(np.isin(role, list(SHOWN["test"])))])
        tests = np.flatnonzero(role == TEST)
        _, place = np.unique(user[tests], return_index=True)
        start = first[tests[place]]
        stop = np.minimum(start + cut[tests[place]], len(role))
        self.queries += len(place)
        self.empty_histories += int((shown[stop] == shown[start]).sum())


def _in_both(held_out: list[np.ndarray], trained: list[np.ndarray]) -> int:
    """Return how many held-out (user, item, time) are among the trained ones."""
    if not len(held_out[0]) or not len(trained[0]):
        return 0
    # of a long log only users and times of held-out events matter, and these are few
    near = np.isin(trained[0] << 34 ^ trained[2], held_out[0] << 34 ^ held_out[2])
    few = set(zip(*(column[near].tolist() for column in trained), strict=True))
    return sum(row in few for row in zip(*(column.tolist() for column in held_out), strict=True))
