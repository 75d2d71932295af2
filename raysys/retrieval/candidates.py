"""Candidates: the answer to a batch of queries, and the three things done to it: merge, fold interests, drop
seen.

Everything here is exact, vectorised over queries and free of Ray and torch. Rows are ranked through one
unsigned 64-bit key per entry, (score, item) or (item, score), so that one plain integer sort settles score
and tie together.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from raysys.errors import RetrievalError

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
KeyArray = NDArray[np.uint64]

MAX_ITEM_IDX = 2**32 - 2
"""An item_idx takes half of a sort key; the last value marks a missing entry."""

_MISSING_KEY = np.uint64(2**64 - 1)
_HALF = np.uint64(32)
_LOW = np.uint64(2**32 - 1)
_SIGN = np.uint32(2**31)
_MAGNITUDE = np.uint32(2**31 - 1)
_FEW = 16
_TABLE = 2**23
_ENTRIES = 2**16


@dataclass(frozen=True, eq=False)
class Candidates:
    """The best items of each query, best first.

    Attributes:
        item_idx: (Q, k) int64; -1 where there is no further item.
        score: (Q, k) float32, larger is better; -inf exactly where item_idx is -1.

    Rows are ordered by score, largest first, and by item_idx, smallest first, where scores are equal.
    Whatever is made by this package keeps that order; the constructor checks shapes, types and the marks of
    missing entries.

    Raises:
        RetrievalError: a wrong shape or type, NaN among the scores, or an item and a score that disagree on
            missing.
    """

    item_idx: IntArray
    score: FloatArray

    def __post_init__(self) -> None:
        item_idx, score = self.item_idx, self.score
        if item_idx.ndim != 2 or item_idx.shape != score.shape:
            raise RetrievalError(
                f"candidates: item_idx {item_idx.shape} and score {score.shape}, expected one (queries, k)"
            )
        if item_idx.dtype != np.int64 or score.dtype != np.float32:
            raise RetrievalError(
                f"candidates: item_idx {item_idx.dtype} and score {score.dtype}, expected int64 and float32"
            )
        if np.isnan(score).any():
            bad = int(np.isnan(score).any(axis=1).sum())
            raise RetrievalError(
                f"candidates: NaN scores in {bad} of {len(score)} queries; the model has diverged"
            )
        wrong = (item_idx < 0) != (score == -np.inf)
        if wrong.any() or item_idx.min(initial=0) < -1:
            raise RetrievalError(
                f"candidates: {int(wrong.sum())} entries are missing by one array only; "
                "a missing entry has item_idx -1 and score -inf"
            )

    @property
    def num_queries(self) -> int:
        return self.item_idx.shape[0]

    @property
    def k(self) -> int:
        return self.item_idx.shape[1]

    def top(self, k: int) -> "Candidates":
        """Return the first k columns, padded with missing entries where there are fewer."""
        if k <= self.k:
            return Candidates(self.item_idx[:, :k], self.score[:, :k])
        result = missing_candidates(self.num_queries, k)
        result.item_idx[:, : self.k] = self.item_idx
        result.score[:, : self.k] = self.score
        return result


class Ragged(NamedTuple):
    """A set of items per query: those of query q are `items[offsets[q]:offsets[q + 1]]`, in any order.

    `offsets` is (Q + 1,) int64 and begins with 0; `items` is flat int64. A plain pair of such arrays does as
    well.
    """

    offsets: IntArray
    items: IntArray

    @staticmethod
    def of_rows(rows: Iterable[Iterable[int]]) -> "Ragged":
        """Return the ragged form of one iterable of item_idx per query."""
        lists = [list(row) for row in rows]
        offsets = np.zeros(len(lists) + 1, np.int64)
        np.cumsum([len(row) for row in lists], out=offsets[1:])
        return Ragged(offsets, np.array([item for row in lists for item in row], np.int64))


def check_ragged(sets: tuple[IntArray, IntArray], num_queries: int, what: str) -> Ragged:
    """Return `sets` as int64 Ragged; RetrievalError, naming `what`, where it is not `num_queries` sets."""
    offsets, items = np.asarray(sets[0], np.int64), np.asarray(sets[1], np.int64)
    fits = offsets.shape == (num_queries + 1,) and items.ndim == 1
    if not fits or offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise RetrievalError(
            f"{what}: offsets {offsets.shape} over {items.shape} items are no sets of {num_queries} queries; "
            "expected queries + 1 rising offsets from 0 to the number of items"
        )
    if items.min(initial=0) < 0 or items.max(initial=0) > MAX_ITEM_IDX:
        raise RetrievalError(f"{what}: item_idx outside 0 to {MAX_ITEM_IDX}")
    return Ragged(offsets, items)


def take_sets(sets: Ragged, queries: IntArray) -> Ragged:
    """Return the sets of some queries, in the order given."""
    counts = np.diff(sets.offsets)[queries]
    offsets = np.zeros(len(queries) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    places = np.arange(int(offsets[-1])) + np.repeat(sets.offsets[queries] - offsets[:-1], counts)
    return Ragged(offsets, sets.items[places])


def missing_candidates(num_queries: int, k: int) -> Candidates:
    """Return (num_queries, k) candidates that are all missing."""
    return Candidates(np.full((num_queries, k), -1, np.int64), np.full((num_queries, k), -np.inf, np.float32))


def rank_top_k(item_idx: IntArray, score: FloatArray, k: int, distinct: bool = False) -> Candidates:
    """Return the best k entries of each row, ordered, one entry per item.

    Args:
        item_idx: (Q, W) int64 in any order; below 0 is missing.
        score: (Q, W) float32, no NaN; -inf is missing.
        k: columns of the answer, at least 1.
        distinct: True promises that no row holds an item twice, which saves one of two sorts.
    Returns:
        (Q, k) candidates. An item that occurs several times in a row appears once, with its best score.
    Raises:
        RetrievalError: k < 1, an item_idx above MAX_ITEM_IDX, or NaN scores.
    """
    if k < 1:
        raise RetrievalError(f"k is {k}; at least 1 candidate must be asked for")
    if item_idx.max(initial=0) > MAX_ITEM_IDX:
        raise RetrievalError(
            f"item_idx {item_idx.max()} found; the largest that can be ranked is {MAX_ITEM_IDX}"
        )
    if np.isnan(score).any():
        raise RetrievalError("NaN scores cannot be ranked; the model has diverged")
    result = missing_candidates(len(item_idx), k)
    step = max(1, _ENTRIES // max(1, item_idx.shape[1]))
    for start in range(0, len(item_idx), step):  # blocks of rows, so that the keys stay in the cache
        rows = slice(start, start + step)
        keys = _ranked_keys(item_idx[rows], score[rows], k, distinct)
        _decode(keys, result.item_idx[rows, : keys.shape[1]], result.score[rows, : keys.shape[1]])
    return result


def _ranked_keys(item_idx: IntArray, score: FloatArray, k: int, distinct: bool) -> KeyArray:
    keys: KeyArray = (_descending(score).astype(np.uint64) << _HALF) | item_idx.astype(np.uint64)
    keys[(item_idx < 0) | (score == -np.inf)] = _MISSING_KEY
    if not distinct and keys.shape[1] > 1:
        # In order of (item, score) the best entry of an item comes first, and all later ones are dropped.
        keys = _swap_halves(keys)
        keys.sort(axis=1)
        again = (keys[:, 1:] >> _HALF) == (keys[:, :-1] >> _HALF)
        keys = _swap_halves(keys)
        keys[:, 1:][again] = _MISSING_KEY
    if keys.shape[1] > 4 * k:
        keys = np.partition(keys, k - 1, axis=1)[:, :k]
    keys.sort(axis=1)
    return keys[:, :k]


def _descending(score: FloatArray) -> NDArray[np.uint32]:
    # Adding zero turns -0.0 into 0.0: the two are equal as scores and must be equal as keys.
    bits = (np.ascontiguousarray(score, np.float32) + np.float32(0)).view(np.uint32)
    return np.where(bits & _SIGN, bits, bits ^ _MAGNITUDE)


def _swap_halves(keys: KeyArray) -> KeyArray:
    return (keys << _HALF) | (keys >> _HALF)


def _decode(keys: KeyArray, item_idx: IntArray, score: FloatArray) -> None:
    missing = keys == _MISSING_KEY
    high = (keys >> _HALF).astype(np.uint32)
    score[:] = np.where(high & _SIGN, high, high ^ _MAGNITUDE).view(np.float32)
    score[missing] = -np.inf
    item_idx[:] = keys & _LOW
    item_idx[missing] = -1


def merge_top_k(parts: Candidates | Sequence[Candidates], k: int, distinct: bool = False) -> Candidates:
    """Return the best k of several answers to the same queries: one entry per item, its best score.

    Exact and associative: merging parts of parts gives the same bits as merging all of them at once, as long
    as each step keeps k columns. An item's score counts, never its rank, and two items of equal score are
    both kept.

    Args:
        parts: candidates with the same number of rows; a single one is ranked and freed of repeated items.
        k: columns of the answer.
        distinct: True promises that no two parts share an item, as shards of an index do; it is faster.
    Raises:
        RetrievalError: no parts, or parts for different numbers of queries.
    """
    several = [parts] if isinstance(parts, Candidates) else list(parts)
    rows = {part.num_queries for part in several}
    if len(rows) != 1:
        raise RetrievalError(
            f"merge of {len(several)} answers for {sorted(rows)} queries; expected one number"
        )
    item_idx = np.concatenate([part.item_idx for part in several], axis=1)
    return rank_top_k(item_idx, np.concatenate([part.score for part in several], axis=1), k, distinct)


def fold_interests(
    candidates: Candidates, num_interests: int, active: BoolArray, k: int | None = None
) -> Candidates:
    """Return the answer of each query from those of its interests; an item's score is its maximum over them.

    Args:
        candidates: (Q * K, k) rows, the K interests of a query one after the other.
        num_interests: K, at least 1.
        active: (Q, K) bool; what an inactive interest found is ignored.
        k: columns of the answer; those of `candidates` by default. Exact up to the columns of `candidates`.
    Raises:
        RetrievalError: row counts that do not fit.
    """
    num_queries = len(active)
    if active.shape != (num_queries, num_interests) or candidates.num_queries != active.size:
        raise RetrievalError(
            f"{candidates.num_queries} rows of candidates and active {active.shape}; "
            f"expected queries x {num_interests} interests of both"
        )
    shape = (num_queries, num_interests * candidates.k)
    item_idx = np.where(active.reshape(-1, 1), candidates.item_idx, np.int64(-1)).reshape(shape)
    return rank_top_k(
        item_idx, candidates.score.reshape(shape), k or candidates.k, distinct=num_interests == 1
    )


def fold_in_order(candidates: Candidates, order: IntArray) -> Iterator[Candidates]:
    """Yield the answers by the first interest of each query, by its first two, and so on to all K.

    Args:
        candidates: (Q * K, k) rows as in `fold_interests`; those of inactive interests are missing.
        order: (Q, K) int64, the interests of each query in the order in which they join.
    Yields:
        K times (Q, k) candidates; the last equals `fold_interests`.
    Raises:
        RetrievalError: row counts that do not fit.
    """
    num_queries, num_interests = order.shape
    if candidates.num_queries != order.size:
        raise RetrievalError(
            f"{candidates.num_queries} rows of candidates and order {order.shape}; "
            "expected queries x interests of both"
        )
    best: Candidates | None = None
    for place in range(num_interests):
        rows = np.arange(num_queries) * num_interests + order[:, place]
        joining = Candidates(candidates.item_idx[rows], candidates.score[rows])
        best = joining if best is None else merge_top_k([best, joining], candidates.k)
        yield best


def is_member(item_idx: IntArray, sets: Ragged) -> BoolArray:
    """Return (Q, k) bool: True where an item of query q is in the set of query q; False where missing."""
    counts = np.diff(sets.offsets)
    widest = int(counts.max(initial=0))
    found = np.zeros(item_idx.shape, np.bool_)
    rows = np.repeat(np.arange(len(counts)), counts)
    if widest <= _FEW:
        # Small sets, such as one held-out item per user: compare with one set column after the other.
        dense = np.full((len(counts), widest), -2, np.int64)
        dense[rows, np.arange(len(sets.items)) - sets.offsets[rows]] = sets.items
        for column in range(widest):
            found |= item_idx == dense[:, column, None]
        return found
    width = int(max(sets.items.max(), item_idx.max(initial=0))) + 1
    if len(counts) * width <= _TABLE:
        # A catalogue of thousands: one cell for every query and item, looked up at once.
        table = np.zeros((len(counts), width), np.bool_)
        table[rows, sets.items] = True
        return np.take_along_axis(table, np.maximum(item_idx, 0), axis=1) & (item_idx >= 0)
    members = np.sort((rows << 32) | sets.items)
    wanted = (np.arange(len(counts))[:, None] << 32) | np.maximum(item_idx, 0)
    place = np.minimum(np.searchsorted(members, wanted), len(members) - 1)
    return (members[place] == wanted) & (item_idx >= 0)


def drop_seen(candidates: Candidates, seen_offsets: IntArray, seen_items: IntArray, k: int) -> Candidates:
    """Return the best k candidates of each query that it has not seen, in unchanged order.

    The answer is exact when the search went k + (the largest number of seen items of a query) deep.

    Args:
        candidates: (Q, depth).
        seen_offsets: (Q + 1,) int64, see `Ragged`.
        seen_items: flat int64 item_idx, in any order; repeats do no harm.
        k: columns of the answer, padded with missing entries.
    Raises:
        RetrievalError: offsets that do not fit the queries.
    """
    seen = check_ragged((seen_offsets, seen_items), candidates.num_queries, "seen items")
    keep = (candidates.item_idx >= 0) & ~is_member(candidates.item_idx, seen)
    place = np.cumsum(keep, axis=1) - 1
    rows, columns = np.nonzero(keep & (place < k))
    item_idx = np.full((candidates.num_queries, k), -1, np.int64)
    score = np.full((candidates.num_queries, k), -np.inf, np.float32)
    item_idx[rows, place[rows, columns]] = candidates.item_idx[rows, columns]
    score[rows, place[rows, columns]] = candidates.score[rows, columns]
    return Candidates(item_idx, score)
