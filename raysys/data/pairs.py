"""Samples without a history: pairs of items that occur together, ratings, and the graph of transitions.

Only training events take part; held-out and context events are as if they had never been logged, so two
training events with one of them between are neighbours.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from raysys.data.history import Sequences, Visible, take, user_columns, widen, without_context
from raysys.data.shapes import SampleShape


@dataclass(frozen=True)
class PairSamples:
    """Training events that are not alone among their user's (or session's), in stored order.

    Attributes:
        sequences: what they were cut from.
        visible: the training events.
        position: (N,) int64 positions of the centers in `visible`.
        owner: (N,) int64 rows of their users.
        start, stop: (N,) int64: [start, stop) are the events that may be context.
        booked: (N,) int64 position of the context's last booking, before `start` where there is none.
        shape: what batches hold.
    """

    sequences: Sequences
    visible: Visible
    position: np.ndarray
    owner: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    booked: np.ndarray
    shape: SampleShape

    def __len__(self) -> int:
        return len(self.position)

    @property
    def place(self) -> np.ndarray:
        return self.position - self.visible.offsets[self.owner]

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return `center` (B,), `context` (B, 2 * window), `booked`, `weight` (B,) and `profile_*`.

        Context is in the order of events, the center left out, 0 where there is no event.
        """
        events, window = self.visible.events, self.shape.window
        position, start, stop = self.position[rows], self.start[rows], self.stop[rows]
        steps = np.concatenate([np.arange(-window, 0), np.arange(1, window + 1)])
        index = position[:, None] + steps
        real = (index >= start[:, None]) & (index < stop[:, None])
        columns = {
            "center": widen(events["item_idx"][position]),
            "context": take(events["item_idx"], index, real),
        }
        if self.shape.booked_weight:
            booked = self.booked[rows]
            columns["booked"] = take(events["item_idx"], booked, booked >= start)
        if self.shape.weight:
            columns["weight"] = events["weight"][position]
        return {**columns, **user_columns(self.sequences, self.owner[rows], self.shape.user_idx)}


def pair_samples(sequences: Sequences, shape: SampleShape) -> PairSamples:
    """Return the centers of the role `train`, as `shape.window`, `by_session` and `booked_weight` say."""
    visible = without_context(sequences, "train")
    owner, group = _groups(visible, shape.by_session)
    total = len(owner)
    bounds = np.append(np.flatnonzero(group), total)
    number = np.cumsum(group) - 1
    start, stop = (bounds[number], bounds[number + 1]) if total else (owner, owner)
    booked = np.full(total, -1, dtype=np.int64)
    if shape.booked_weight and total:
        bought = visible.events["weight"] >= shape.booked_weight
        booked = np.maximum.accumulate(np.where(bought, np.arange(total), -1))[stop - 1]
    kept = np.flatnonzero(stop - start > 1)
    return PairSamples(sequences, visible, kept, owner[kept], start[kept], stop[kept], booked[kept], shape)


def _groups(visible: Visible, by_session: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return (F,) user rows, and (F,) bool: where a user's, or session's, events begin."""
    owner = np.repeat(np.arange(len(visible.offsets) - 1), np.diff(visible.offsets))
    begins = np.ones(len(owner), dtype=bool)
    begins[1:] = owner[1:] != owner[:-1]
    if by_session:
        session = visible.events["session"]
        begins[1:] |= session[1:] != session[:-1]
    return owner, begins


@dataclass(frozen=True)
class RatingSamples:
    """Every training event with its rating, in stored order; a repeated rating is another sample."""

    sequences: Sequences
    visible: Visible
    owner: np.ndarray
    shape: SampleShape

    def __len__(self) -> int:
        return len(self.owner)

    @property
    def place(self) -> np.ndarray:
        return np.arange(len(self)) - self.visible.offsets[self.owner]

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return `user_idx`, `item_idx` and `rating` (B,), `weight`, `target_at` (B,) and `profile_*`."""
        events = self.visible.events
        columns = {"item_idx": widen(events["item_idx"][rows]), "rating": events["rating"][rows]}
        if self.shape.weight:
            columns["weight"] = events["weight"][rows]
        if self.shape.times:
            columns["target_at"] = events["at"][rows]
        return {**columns, **user_columns(self.sequences, self.owner[rows], user_idx=True)}


def rating_samples(sequences: Sequences, shape: SampleShape) -> RatingSamples:
    """Return the ratings of the role `train`; needs the event column `rating` and `user_idx`."""
    visible = without_context(sequences, "train")
    owner = np.repeat(np.arange(len(visible.offsets) - 1), np.diff(visible.offsets))
    return RatingSamples(sequences, visible, owner, shape)


@dataclass(frozen=True)
class Transitions:
    """Directed edges between items that follow each other, ordered by (source, target), each once.

    Attributes:
        source, target: (M,) int32 item_idx; an item may follow itself.
        count: (M,) int64 how often.
    """

    source: np.ndarray
    target: np.ndarray
    count: np.ndarray

    @staticmethod
    def of(sequences: Sequences) -> "Transitions":
        """Return the transitions between neighbouring training events of a session (EGES, sec. 3.2).

        Needs the event columns `item_idx`, `role` and `session`.
        """
        visible = without_context(sequences, "train")
        _, begins = _groups(visible, by_session=True)
        item = visible.events["item_idx"]
        inner = ~begins[1:]
        return _added_up(item[:-1][inner], item[1:][inner], np.ones(int(inner.sum()), dtype=np.int64))

    @staticmethod
    def merge(parts: Sequence["Transitions"]) -> "Transitions":
        """Return the sum of parts, in whatever order they come."""
        return _added_up(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("source", "target", "count")
            )
        )


def _added_up(source: np.ndarray, target: np.ndarray, count: np.ndarray) -> Transitions:
    keys, place = np.unique(source.astype(np.int64) << 32 | target.astype(np.int64), return_inverse=True)
    total = np.zeros(len(keys), dtype=np.int64)
    np.add.at(total, place, count)
    return Transitions((keys >> 32).astype(np.int32), (keys & 0xFFFFFFFF).astype(np.int32), total)
