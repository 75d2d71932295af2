"""Retrieval from a table of scored neighbours, and the two baselines: popularity and chance."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysys.errors import RetrievalError
from raysys.retrieval.candidates import (
    Candidates,
    FloatArray,
    IntArray,
    check_ragged,
    drop_seen,
    missing_candidates,
)
from raysys.schema import NUM_RESERVED
from raysys.seeds import derive_seed

_TERMS = 2**21
_ROUNDS = 6


@dataclass(frozen=True, eq=False)
class NeighbourTable:
    """The scored neighbours of each source row, best first.

    Attributes:
        item_idx: (R, n) int64, distinct within a row; -1 where a row has fewer neighbours.
        score: (R, n) float32; -inf where missing.
    """

    item_idx: IntArray
    score: FloatArray

    def __post_init__(self) -> None:
        Candidates(
            self.item_idx, self.score
        )  # a table obeys the same rules of shape, type and missing entries


class TableRetriever:
    """Answers with `seeds x table`: an item's score is the weighted sum of its scores in the seeds' rows."""

    def __init__(self, table: NeighbourTable) -> None:
        self.table = table

    def retrieve(
        self,
        seeds: tuple[IntArray, IntArray],
        weights: NDArray[np.floating],
        k: int,
        seen: tuple[IntArray, IntArray] | None = None,
    ) -> Candidates:
        """Return the best k items of each query.

        Terms are added in float64 in the order of the seeds, so an answer does not depend on the other
        queries.

        Args:
            seeds: (offsets, rows): the table rows of query q are rows[offsets[q]:offsets[q + 1]].
            weights: one weight per entry of `rows`.
            k: columns of the answer, at least 1.
            seen: (offsets, items) to leave out, see `Ragged`.
        Returns:
            (Q, k) candidates; all missing for a query without seeds.
        Raises:
            RetrievalError: seeds outside the table, or arrays that do not fit each other.
        """
        offsets, rows = check_ragged(seeds, len(seeds[0]) - 1, "seeds")
        if k < 1:
            raise RetrievalError(f"k is {k}; at least 1 candidate must be asked for")
        if len(weights) != len(rows):
            raise RetrievalError(f"{len(weights)} weights for {len(rows)} seeds; expected one each")
        if rows.max(initial=0) >= max(1, len(self.table.item_idx)):
            raise RetrievalError(f"seed {rows.max()}; the table has rows 0 to {len(self.table.item_idx) - 1}")
        num_queries = len(offsets) - 1
        depth = k
        if seen is not None:
            seen = check_ragged(seen, num_queries, "seen items")
            depth += int(np.diff(seen[0]).max(initial=0))
        result = missing_candidates(num_queries, depth)
        width = max(1, self.table.item_idx.shape[1])
        start = 0
        while start < num_queries:  # as many queries at a time as give about _TERMS terms
            reach = int(offsets[start]) + _TERMS // width
            stop = int(np.searchsorted(offsets, reach, side="right")) - 1
            stop = min(max(stop, start + 1), num_queries)
            self._add_up(result, offsets, rows, np.asarray(weights, np.float64), start, stop)
            start = stop
        return result if seen is None else drop_seen(result, seen[0], seen[1], k)

    def _add_up(
        self,
        result: Candidates,
        offsets: IntArray,
        rows: IntArray,
        weights: NDArray[np.float64],
        start: int,
        stop: int,
    ) -> None:
        first, last = offsets[start], offsets[stop]
        counts = np.diff(offsets[start : stop + 1])
        query = np.repeat(np.arange(start, stop), counts)
        items = self.table.item_idx[rows[first:last]]
        real = items >= 0
        keys = ((query[:, None] << 32) | items)[real]
        terms = (weights[first:last, None] * self.table.score[rows[first:last]])[real]
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        if not len(keys):
            return
        starts = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]])
        total = np.add.reduceat(terms[order], starts).astype(np.float32)
        query, item = keys[starts] >> 32, keys[starts] & (2**32 - 1)
        ranked = np.lexsort((item, -total, query))
        query, item, total = query[ranked], item[ranked], total[ranked]
        begins = np.searchsorted(query, np.arange(start, stop))
        place = np.arange(len(query)) - begins[query - start]
        kept = place < result.k
        result.item_idx[query[kept], place[kept]] = item[kept]
        result.score[query[kept], place[kept]] = total[kept]

    def retrieve_row(
        self, num_queries: int, k: int, seen: tuple[IntArray, IntArray] | None = None, row: int = 0
    ) -> Candidates:
        """Return the head of one row for every query, without what it has seen: how `popular` answers.

        Args:
            num_queries: Q.
            k: columns of the answer.
            seen: (offsets, items) to leave out, see `Ragged`.
            row: the row of the table.
        """
        depth = k
        if seen is not None:
            seen = check_ragged(seen, num_queries, "seen items")
            depth += int(np.diff(seen[0]).max(initial=0))
        head = Candidates(self.table.item_idx[row : row + 1], self.table.score[row : row + 1]).top(depth)
        item_idx = np.repeat(head.item_idx, num_queries, axis=0)
        everywhere = Candidates(item_idx, np.repeat(head.score, num_queries, axis=0))
        return everywhere if seen is None else drop_seen(everywhere, seen[0], seen[1], k)


def popular_table(item_counts: NDArray[np.integer]) -> NeighbourTable:
    """Return one row: every real item by its training count, ties by item_idx.

    Args:
        item_counts: (num_items,) events per item_idx; the reserved rows are left out. Items without events
            come last.
    Returns:
        A (1, num_items - 2) table. Counts above 2**24 that float32 cannot tell apart are ties.
    """
    score = np.asarray(item_counts)[NUM_RESERVED:].astype(np.float32)
    order = np.argsort(-score, kind="stable")
    return NeighbourTable((order + NUM_RESERVED).astype(np.int64)[None], score[order][None])


def random_candidates(num_items: int, user_keys: NDArray[np.uint64], k: int, seed: int) -> Candidates:
    """Return k distinct items per user in random order: the baseline of chance.

    Each user draws the first k values of its own permutation of the items: a keyed Feistel network (Luby and
    Rackoff 1988) of six rounds on the smallest even number of bits that holds all items; values outside are
    enciphered again until they fall inside. So a list of 10 is the head of a list of 50, and no state is
    shared between users.

    Args:
        num_items: rows of the item table, the reserved ones included; these are never drawn.
        user_keys: (Q,) uint64, one per user, such as a digest of its id or its user_idx.
        k: columns of the answer; missing past the number of real items.
        seed: root seed; the answer of a user is a function of (seed, user key) alone.
    Returns:
        (Q, k) candidates with scores 0, -1, -2, ... in the order of drawing.
    """
    total = max(0, num_items - NUM_RESERVED)
    drawn = min(k, total)
    result = missing_candidates(len(user_keys), k)
    half = np.uint64(max(1, (max(1, total - 1).bit_length() + 1) // 2))
    start = np.uint64(derive_seed(seed, "random_candidates"))
    round_keys = [_mix(user_keys ^ _mix(start + np.uint64(i)))[:, None] for i in range(_ROUNDS)]
    values = np.repeat(np.arange(drawn, dtype=np.uint64)[None], len(user_keys), axis=0)
    values = _permute(values, round_keys, half)
    rows, columns = np.nonzero(values >= total)
    while len(rows):
        again = _permute(values[rows, columns], [key[rows, 0] for key in round_keys], half)
        values[rows, columns] = again
        outside = again >= total
        rows, columns = rows[outside], columns[outside]
    result.item_idx[:, :drawn] = values.astype(np.int64) + NUM_RESERVED
    result.score[:, :drawn] = -np.arange(drawn, dtype=np.float32) + np.float32(0)
    return result


def _permute(
    values: NDArray[np.uint64], round_keys: list[NDArray[np.uint64]], half: np.uint64
) -> NDArray[np.uint64]:
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = values >> half, values & mask
    for key in round_keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(values: NDArray[np.uint64] | np.uint64) -> NDArray[np.uint64]:
    """Return well-mixed bits of each value (the finaliser of SplitMix64, Steele et al. 2014)."""
    mixed = np.atleast_1d(np.asarray(values, np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
