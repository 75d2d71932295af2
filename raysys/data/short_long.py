"""Short and long term of a history: the latest session, and the sets of what came before it in the window.

Both are cut while streaming, from what `features/` stores. The session of SDM is the latest one that holds a
visible event (or the last n events); the long term is what lies before it, so the two never overlap (Lv et
al. 2019, arXiv:1909.00385, sec. 3.1).
"""

from dataclasses import dataclass

import numpy as np

from raysys.data.samples import History
from raysys.data.sequences import SessionConfig, run_starts


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


def long_term_sets(where: ShortLong, rows: np.ndarray, values: np.ndarray, max_values: int) -> np.ndarray:
    """Return the distinct values of the long term of some histories, latest last.

    Args:
        where: from `short_and_long`.
        rows: (B,) which histories.
        values: (F,) one value per visible event, such as its item or the item's category; 0 is left out.
        max_values: values kept per history, the latest ones.
    Returns:
        (B, L) int64, right-aligned, padded with 0; 1 <= L <= max_values.
    """
    start, stop = where.long_start[rows], where.short_start[rows]
    sizes = np.maximum(stop - start, 0)
    owner = np.repeat(np.arange(len(rows)), sizes)
    position = np.repeat(start - (np.cumsum(sizes) - sizes), sizes) + np.arange(len(owner))
    found = values[position].astype(np.int64)
    real = found != 0
    owner, position, found = owner[real][::-1], position[real][::-1], found[real][::-1]
    # Seen from the latest event backwards, the first of equal values is the one that counts.
    _, first = np.unique(owner << 32 | found, return_index=True)
    owner, position, found = owner[first], position[first], found[first]
    order = np.lexsort((-position, owner))
    owner, found = owner[order], found[order]
    place = np.arange(len(owner)) - np.searchsorted(owner, owner)
    kept = place < max_values
    length = int(place[kept].max(initial=0)) + 1
    result = np.zeros((len(rows), length), dtype=np.int64)
    result[owner[kept], length - 1 - place[kept]] = found[kept]
    return result
