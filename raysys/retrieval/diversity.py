"""The controllable merge of ComiRec: lists that give up some score for items of other categories.

Cen et al. 2020, "Controllable Multi-Interest Framework for Recommendation" (arXiv:2005.09347), sec. 3.3:

    Q(u, S) = sum over i in S of f(u, i) + lambda * sum over pairs i, j in S of g(i, j)
    g(i, j) = 1 where the categories of i and j differ, else 0

Their algorithm 2 takes the item with the largest gain k times. Up to an amount that is the same for all, the
gain of an item is its score less lambda for every item of its own category that is in the list already, and
a category's items are always taken in their order. So an item's gain when its turn comes is known before
anything is taken: f(u, i) - lambda * (items of its category that score better). It falls along a category,
and taking the largest head of sorted lists again and again is sorting them all: one ranking replaces the
loop over ranks and users. As gains fall along every category and do not depend on others, the greedy list
has the largest Q of all lists of its length, with a cap too; score given up and variety gained both rise with
lambda.

Shape suffixes: Q queries, W candidates of a query.
"""

import numpy as np
from numpy.typing import NDArray

from raysys.errors import RetrievalError
from raysys.retrieval.candidates import Candidates, FloatArray, IntArray, rank_top_k

_ENTRIES = 2**18
_LARGEST_WEIGHT = 1e30


def category_places(candidates: Candidates, categories: NDArray[np.integer]) -> IntArray:
    """Return how many better candidates of the same query each one's category has: 0, 1, 2, ...

    Args:
        candidates: (Q, W).
        categories: (num_items,) by item_idx, from 0 to 2**32 - 1; equal numbers are one category, that of
            items without category included.
    Returns:
        (Q, W) int64; what stands at missing candidates means nothing.
    Raises:
        RetrievalError: categories that are no row of such integers, or a candidate without an entry.
    """
    if categories.ndim != 1 or categories.dtype.kind not in "iu":
        raise RetrievalError(
            f"categories {categories.shape} {categories.dtype}; expected one integer per item_idx"
        )
    if categories.min(initial=0) < 0 or categories.max(initial=0) >= 2**32:
        raise RetrievalError(
            f"categories from {categories.min()} to {categories.max()}; expected 0 to {2**32 - 1}"
        )
    largest = int(candidates.item_idx.max(initial=0))
    if largest >= len(categories):
        raise RetrievalError(
            f"item_idx {largest} among the candidates, {len(categories)} items have a category"
        )
    places_QW = np.empty(candidates.item_idx.shape, np.int64)
    width = candidates.k
    step = max(1, _ENTRIES // max(1, width))
    for start in range(0, candidates.num_queries, step):  # blocks of rows, so that the keys stay in the cache
        rows = slice(start, start + step)
        item_idx = candidates.item_idx[rows]
        # Missing candidates come last in a row, so they can count for any category.
        category = categories[np.maximum(item_idx, 0)].astype(np.uint64)
        keys = (category << np.uint64(32)) | np.arange(width, dtype=np.uint64)
        keys.sort(axis=1)
        column = (keys & np.uint64(2**32 - 1)).astype(np.int64)
        begins = np.ones(keys.shape, np.bool_)
        begins[:, 1:] = (keys[:, 1:] >> np.uint64(32)) != (keys[:, :-1] >> np.uint64(32))
        ranks = np.arange(width)
        first = np.maximum.accumulate(np.where(begins, ranks, 0), axis=1)
        np.put_along_axis(places_QW[rows], column, ranks - first, axis=1)
    return places_QW


def diversify(
    candidates: Candidates,
    categories: NDArray[np.integer],
    k: int,
    diversity_weight: float,
    max_per_category: int | None = None,
) -> Candidates:
    """Return k of the candidates of each query, chosen for score and for variety of their categories.

    Exactly the greedy choice of Cen et al. 2020, algorithm 2, among the candidates given; a deeper search
    gives it more to choose from, and `is_settled` tells where it cannot matter any more.

    Args:
        candidates: (Q, W), W >= k, ordered and without repeated items, as a search answers.
        categories: (num_items,) by item_idx, see `category_places`.
        k: columns of the answer.
        diversity_weight: lambda, in units of the score, 0 to 1e30: what a pair of different categories is
            worth. 0 without a cap gives the first k candidates.
        max_per_category: the most items of one category in a list, at least 1; None for no cap. Places that
            a cap leaves open are filled by the deeper candidates of other categories, and stay missing where
            there are none: no item goes beyond the cap.
    Returns:
        (Q, k) candidates in the order of choice. Their score is the one they were chosen by: their own, less
        lambda for every better candidate of their category. Scores equal in float32 are ordered by item_idx.
    Raises:
        RetrievalError: fewer than k candidates, a weight or cap out of range, or categories that do not fit.
    Deviations:
        The authors' code stops a scan early and leaves out items without category; neither is in the paper.
    """
    places_QW = category_places(candidates, categories)
    return choose_by_places(candidates, places_QW, k, diversity_weight, max_per_category)


def choose_by_places(
    candidates: Candidates,
    places_QW: IntArray,
    k: int,
    diversity_weight: float,
    max_per_category: int | None = None,
) -> Candidates:
    """Return what `diversify` does, for places that are known already: several weights share them."""
    if candidates.k < k:
        raise RetrievalError(
            f"{candidates.k} candidates per query cannot make lists of {k}; retrieve more, several times k"
        )
    if not 0 <= diversity_weight <= _LARGEST_WEIGHT:
        raise RetrievalError(f"diversity weight {diversity_weight}; expected 0 to {_LARGEST_WEIGHT:g}")
    if max_per_category is not None and max_per_category < 1:
        raise RetrievalError(f"at most {max_per_category} items per category; expected at least 1, or None")
    item_idx, score = candidates.item_idx, candidates.score
    if diversity_weight:
        score = gains(candidates, places_QW, diversity_weight)
    if max_per_category is not None:
        item_idx = np.where(places_QW < max_per_category, item_idx, np.int64(-1))
    return rank_top_k(item_idx, score, k, distinct=True)


def gains(candidates: Candidates, places_QW: IntArray, diversity_weight: float) -> FloatArray:
    """Return (Q, W) float32: the score of each candidate less the weight times its place in its category."""
    return (candidates.score - diversity_weight * places_QW).astype(np.float32)


def is_settled(candidates: Candidates, chosen: Candidates) -> NDArray[np.bool_]:
    """Return (Q,) whether no deeper search could change a list of `diversify`; a tie counts as if it could.

    It could not where the search had nothing more to find, or where the last chosen item's gain is above the
    last candidate's score, which no deeper candidate's gain exceeds.

    Args:
        candidates: (Q, W), what `diversify` chose from.
        chosen: (Q, k), what it chose.
    """
    return (candidates.item_idx[:, -1] < 0) | (chosen.score[:, -1] > candidates.score[:, -1])
