"""Training samples with a history, cut while streaming: next item, next n, whole sequences.

Under every shape a history holds only training and context events that lie strictly before its target's unit.
With `split.unit = "event"` the events of a user are in a total order and each is its own unit; with "session"
a unit is a session, and nothing of it, nor of another one that starts at the same second, is shown to its
events.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from raysys.data.hashing import hash_text, uniform
from raysys.data.history import (
    History,
    Sequences,
    Visible,
    frequent_positions,
    history_of,
    last_positions,
    take,
    user_columns,
    visible_events,
    without_context,
)
from raysys.data.shapes import EVENT, SampleShape
from raysys.data.short_long import ShortLongCutter
from raysys.data.splits import CONTEXT, TRAIN

DAY_S = 86_400
NEXT_ITEM = SampleShape()


class Samples(Protocol):
    """Training samples of some sequence files, in stored order.

    `owner` (N,) is the row of each sample's user, `place` (N,) its number among the user's training events.
    """

    @property
    def sequences(self) -> Sequences: ...

    @property
    def owner(self) -> np.ndarray: ...

    @property
    def place(self) -> np.ndarray: ...

    def __len__(self) -> int: ...

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return the arrays of some samples, by name; the first axis is that of the rows."""
        ...


class Inputs:
    """What a batch shows of histories, for training and queries alike."""

    def __init__(self, history: History, shape: SampleShape, items: Mapping[str, np.ndarray]) -> None:
        self.history, self.shape = history, shape
        self.short_long = ShortLongCutter(history, shape, items) if shape.session is not None else None

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return `history` (B, T) and what the shape names beside it."""
        columns: dict[str, np.ndarray] = {}
        history, events = self.history, self.history.events
        if self.shape.history_length:
            ranges, length = (history.start[rows], history.stop[rows]), self.shape.history_length
            if self.shape.most_frequent_of:
                index, real = frequent_positions(
                    events["item_idx"], *ranges, self.shape.most_frequent_of, length
                )
            else:
                index, real = last_positions(*ranges, length)
            columns["history"] = take(events["item_idx"], index, real)
            for name in self.shape.event_features:
                columns[f"history_{name}"] = take(events[f"{EVENT}{name}"], index, real)
            if self.shape.times:
                columns["history_at"] = take(events["at"], index, real)
        if self.short_long:
            columns.update(self.short_long.batch(rows))
        return columns


def target_columns(
    events: Mapping[str, np.ndarray], index: np.ndarray, real: np.ndarray, shape: SampleShape, newest_at: int
) -> dict[str, np.ndarray]:
    """Return `target` and what the shape names beside it, of the events at some positions."""
    columns = {"target": take(events["item_idx"], index, real)}
    if shape.weight:
        columns["weight"] = take(events["weight"], index, real)
    if shape.times:
        columns["target_at"] = take(events["at"], index, real)
    if shape.example_age:
        first = index if index.ndim == 1 else index[:, 0]
        columns["example_age"] = (np.maximum(newest_at - events["at"][first], 0) / DAY_S).astype(np.float32)
    return columns


@dataclass(frozen=True)
class NextItemSamples:
    """Every training target of some sequence files that has a history, in stored order.

    Attributes:
        sequences: what they were cut from.
        trained: the training events.
        history: N histories.
        position: (N,) int64 positions of the targets in `trained`.
        shape, items, newest_at: see `training_samples`.
    """

    sequences: Sequences
    trained: Visible
    history: History
    position: np.ndarray
    shape: SampleShape
    items: Mapping[str, np.ndarray]
    newest_at: int

    def __len__(self) -> int:
        return len(self.position)

    @property
    def owner(self) -> np.ndarray:
        return self.history.user

    @property
    def place(self) -> np.ndarray:
        return self.position - self.trained.offsets[self.owner]

    @property
    def target(self) -> np.ndarray:
        """(N,) item_idx of the targets."""
        return self.trained.events["item_idx"][self.position]

    @cached_property
    def _inputs(self) -> Inputs:
        return Inputs(self.history, self.shape, self.items)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return `history` (B, T), `target` (B,) or (B, n), `profile_*` and what else the shape names."""
        users, index = self.history.user[rows], self.position[rows]
        real = np.ones(len(rows), dtype=bool)
        if self.shape.next_items > 1:
            index = index[:, None] + np.arange(self.shape.next_items)
            real = index < self.trained.offsets[users + 1][:, None]
        return {
            **self._inputs.batch(rows),
            **target_columns(self.trained.events, index, real, self.shape, self.newest_at),
            **user_columns(self.sequences, users, self.shape.user_idx),
        }


def training_samples(
    sequences: Sequences,
    shape: SampleShape = NEXT_ITEM,
    items: Mapping[str, np.ndarray] | None = None,
    newest_at: int = 0,
) -> NextItemSamples:
    """Return the samples of the role `train`: each event whose history holds at least one event.

    With `next_items` = n the target holds the event and the n - 1 training events of its user that follow
    it, 0 where there are no more.

    Args:
        sequences: with the columns that the shape names.
        shape: what batches hold.
        items: the shape's `item_columns`, aligned to item_idx.
        newest_at: UTC seconds of the newest training event of the whole log, for the example age.
    """
    visible = visible_events(sequences, "train")
    targets = np.flatnonzero(sequences.events["role"] == TRAIN)
    history = history_of(sequences, visible, targets)
    usable = np.flatnonzero(history.stop > history.start)
    kept = History(history.events, history.start[usable], history.stop[usable], history.user[usable])
    return NextItemSamples(
        sequences, _trained(sequences, visible), kept, usable, shape, items or {}, newest_at
    )


def _trained(sequences: Sequences, visible: Visible) -> Visible:
    """Return the training events, which are the visible ones where a log has no context."""
    has_context = bool((sequences.events["role"] == CONTEXT).any())
    return without_context(sequences, "train") if has_context else visible


@dataclass(frozen=True)
class SequenceSamples:
    """One sample per user: inputs, and per input the training event that is to follow, in stored order.

    Attributes:
        sequences: what they were cut from.
        trained: the training events.
        history: N ranges of inputs, those that have a target.
        following: (F,) int64: the position in `trained` of each visible event's target; only meaningful
            inside the ranges.
        shape: what batches hold.
    """

    sequences: Sequences
    trained: Visible
    history: History
    following: np.ndarray
    shape: SampleShape

    def __len__(self) -> int:
        return len(self.history)

    @property
    def owner(self) -> np.ndarray:
        return self.history.user

    @property
    def place(self) -> np.ndarray:
        return np.zeros(len(self), dtype=np.int64)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return `history` and `target` (B, T), `profile_*` and what else the shape names."""
        history = self.history
        index, real = last_positions(history.start[rows], history.stop[rows], self.shape.history_length)
        after = self.following[np.maximum(index, 0)]
        return {
            **Inputs(history, self.shape, {}).batch(rows),
            **target_columns(self.trained.events, after, real, self.shape, 0),
            **user_columns(self.sequences, history.user[rows], self.shape.user_idx),
        }


def sequence_samples(sequences: Sequences, shape: SampleShape, seed: int = 0) -> SequenceSamples:
    """Return one sample per user with at least one training event that has a history.

    Inputs are training and context events. The target of input t is the next training event whose history
    holds t: under unit = "event" simply the one after it. Under unit = "session" the inputs of a session
    have the whole next unit ahead of them and nothing of their own; they take its events in turn, the first
    input the first event, from the start again where it has fewer. No input up to t is of the target's unit,
    so a causal model sees nothing that it should not.

    Args:
        sequences: with the columns that the shape names.
        shape: `windows` = "random" moves the window of a user with more than `history_length` inputs.
        seed: of these draws; one per epoch.
    """
    visible = visible_events(sequences, "train")
    trained = _trained(sequences, visible)
    targets = np.flatnonzero(sequences.events["role"] == TRAIN)
    history = history_of(sequences, visible, targets)
    following = _in_turn(history, int(visible.count[-1]))
    filled = np.flatnonzero(np.diff(trained.offsets) > 0)
    start = visible.offsets[filled]
    stop = history.stop[trained.offsets[filled + 1] - 1]
    used = stop > start
    users, start, stop = filled[used], start[used], stop[used]
    if shape.windows == "random":
        spare = np.maximum(stop - start - shape.history_length, 0)
        drawn = uniform(hash_text(sequences.user_id)[users], seed)
        stop = stop - np.floor(drawn * (spare + 1)).astype(np.int64)
    return SequenceSamples(sequences, trained, History(visible.events, start, stop, users), following, shape)


def _in_turn(history: History, num_inputs: int) -> np.ndarray:
    """Return (num_inputs,) int64: each input's target as a row of `history`, the histories of all targets."""
    inputs, stop = np.arange(num_inputs), history.stop
    if not len(stop):
        return inputs
    # `stop` never falls, so the first event that has input t in its history is found by bisection
    first = np.minimum(np.searchsorted(stop, inputs, side="right"), len(stop) - 1)
    last = np.searchsorted(stop, stop[first], side="right")
    before = np.append(stop, 0)[first - 1]  # nothing is before the first one
    turn = inputs - np.maximum(before, history.start[first])
    return first + turn % np.maximum(last - first, 1)
