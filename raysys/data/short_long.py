"""Short and long term of a history: the latest session, and the sets of what came before it in the window.

Both are cut while streaming, from what `features/` stores. The session of SDM is the latest one that
holds a visible event (or the last n events); the long term is what lies before it, so the two never
overlap (Lv et al. 2019, arXiv:1909.00385, sec. 3.1). A set holds each value once, latest last. Unknown
ids (1) are a value like any other, as they are in a history; only padding (0) is left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from raysys.data.history import History, last_positions, take, widen
from raysys.data.sequences import SessionConfig, run_starts
from raysys.data.shapes import EVENT, ITEM, SampleShape

FIRST_LOOK = 2
"""Positions looked at first, per value wanted: enough for most histories, and doubled for the others."""


@dataclass(frozen=True)
class ShortLong:
    """Flat positions in `History.events` per history.

    Attributes:
        short_start, short_stop: (N,) int64, the session's visible events; empty where there is no history.
        long_start: (N,) int64; the long term is [long_start, short_start).
    """

    short_start: np.ndarray
    short_stop: np.ndarray
    long_start: np.ndarray


def short_and_long(history: History, config: SessionConfig) -> ShortLong:
    """Return where session and long term of each history lie; needs the events `session` and `long_start`."""
    session, reach = history.events["session"], history.events["long_start"]
    if not len(session):
        return ShortLong(history.start, history.stop, history.start)
    starts = np.unique(np.append(history.start[history.start < len(session)], 0))
    last = np.maximum(history.stop - 1, 0)
    if config.last_n:
        short = np.maximum(history.stop - config.last_n, history.start)
    else:
        changed = np.ones(len(session), dtype=bool)
        changed[1:] = session[1:] != session[:-1]
        changed[starts] = True
        short = np.maximum(np.minimum(run_starts(changed)[last], history.stop), history.start)
        short = np.maximum(short, history.stop - config.max_items)
    long = np.minimum(reach[np.minimum(short, len(session) - 1)], short)
    return ShortLong(short, history.stop, np.maximum(long, history.start))


def within_reach(where: ShortLong, reach: int) -> ShortLong:
    """Return the same of the latest `reach` events of each history; 0: of all."""
    if not reach:
        return where
    first = where.short_stop - reach
    return ShortLong(
        np.maximum(where.short_start, first), where.short_stop, np.maximum(where.long_start, first)
    )


@dataclass(frozen=True)
class Values:
    """Values of the visible events, and where each of them comes next.

    Attributes:
        flat: (F * M,) ids, M slots per event.
        following: (F * M,): the next slot with the same id, F * M where there is none, -1 on padding.
        slots: M.
        distinct: the different ids among them, without padding.
    """

    flat: np.ndarray
    following: np.ndarray
    slots: int
    distinct: int


def find_repeats(values: np.ndarray) -> Values:
    """Return the values of the visible events, (F,) or (F, M) ids, ready for `long_term_sets`.

    Users need not be told apart: a repeat by a later user lies after every history of an earlier one.
    """
    flat = np.ascontiguousarray(values).ravel()
    keys = (
        flat.astype(np.uint16) if flat.max(initial=0) < 2**16 else flat
    )  # sorted by radix, many times faster
    order = np.argsort(keys, kind="stable")
    kind = np.int32 if len(flat) < 2**31 else np.int64
    following = np.full(len(flat), len(flat), dtype=kind)
    same = keys[order[1:]] == keys[order[:-1]]
    following[order[:-1][same]] = order[1:][same]
    distinct = len(flat) - int(same.sum()) - int((flat == 0).any())
    following[flat == 0] = -1
    return Values(flat, following, values.shape[1] if values.ndim == 2 else 1, distinct)


def long_term_sets(where: ShortLong, rows: np.ndarray, values: Values, max_values: int) -> np.ndarray:
    """Return the distinct values of the long term of some histories, latest last.

    A value of the range [start, stop) is the latest of its kind where the next one lies at or after stop.
    Ranges are looked through from their end, all at once, only as far as is needed to find `max_values`.

    Args:
        where: from `short_and_long`.
        rows: (B,) which histories.
        values: of the visible events, such as their items or the items' categories; 0 is left out. Slots of
            one event are ordered as stored.
        max_values: values kept per history, the latest ones.
    Returns:
        (B, L) int64, right-aligned, padded with 0; 1 <= L <= max_values.
    """
    start, stop = where.long_start[rows] * values.slots, where.short_start[rows] * values.slots
    most = max(min(max_values, values.distinct), 1)
    result = np.zeros((len(rows), most), dtype=np.int64)
    found = np.zeros(len(rows), dtype=np.int64)
    left = np.flatnonzero(stop > start)
    seen_from, width = stop.copy(), FIRST_LOOK * most
    while len(left):
        width = min(width, int((seen_from[left] - start[left]).max()))
        index = seen_from[left, None] - np.arange(1, width + 1)
        latest = values.following.take(index, mode="clip") >= stop[left, None]
        latest &= index >= start[left, None]
        row, column = np.nonzero(latest)
        counts = np.bincount(row, minlength=len(left))
        place = np.arange(1, len(row) + 1) + (found[left] - (np.cumsum(counts) - counts))[row]
        kept = place <= most
        row, column = row[kept], column[kept]
        result[left[row], most - place[kept]] = values.flat[index[row, column]]
        found[left] += counts
        seen_from[left] -= width
        left = left[(found[left] < most) & (seen_from[left] > start[left])]
        width *= 2
    longest = min(max(int(found.max(initial=1)), 1), most)
    return result[:, most - longest :]


class ShortLongCutter:
    """Cuts session and long-term sets of the histories that it was made for.

    Args:
        history: with the event columns that the shape names.
        shape: its `session`, `event_features`, `times` and `long_features`.
        items: the item features that are long features, aligned to item_idx.
    """

    def __init__(self, history: History, shape: SampleShape, items: Mapping[str, np.ndarray]) -> None:
        assert shape.session is not None
        self.history, self.shape, self.config = history, shape, shape.session
        self.where = within_reach(short_and_long(history, shape.session), shape.reach)
        self.values: dict[str, Values] = {}
        for name in shape.long_features:
            if name == ITEM:
                values = history.events["item_idx"]
            else:
                values = (
                    history.events[name]
                    if name.startswith(EVENT)
                    else items[name][history.events["item_idx"]]
                )
            self.values[name] = find_repeats(values)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return `short`, `short_<feature>` and `short_at` (B, S), and `long_<name>` (B, L) of some rows.

        S and L are the largest that the rows need, at least 1.
        """
        where, events = self.where, self.history.events
        length = self.config.last_n or self.config.max_items
        index, real = last_positions(where.short_start[rows], where.short_stop[rows], length)
        columns = {"short": take(events["item_idx"], index, real)}
        for name in self.shape.event_features:
            columns[f"short_{name}"] = take(events[f"{EVENT}{name}"], index, real)
        if self.shape.times:
            columns["short_at"] = take(events["at"], index, real)
        for name, values in self.values.items():
            columns[f"long_{name}"] = long_term_sets(where, rows, values, self.config.long_term_max)
        return {name: widen(values) for name, values in columns.items()}
