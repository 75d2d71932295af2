"""The relevance-diversity curve: what the controllable merge of ComiRec costs and gains, from one search.

Cen et al. 2020, "Controllable Multi-Interest Framework for Recommendation" (arXiv:2005.09347), sec. 4.4:

    Diversity@k = sum over pairs of the first k items of g(i, j) / (k (k - 1) / 2)

averaged over users, where g is 1 for two items of different categories, beside recall, hit rate and NDCG.

Shape suffixes: Q queries, W candidates of a query.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysys.errors import RetrievalError
from raysys.evaluation.metrics import Truth, ValueArray, hit_rate, mean, ndcg, recall
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.diversity import category_places, choose_by_places, is_settled

CURVE_METRICS = {"hit_rate": hit_rate, "recall": recall, "ndcg": ndcg}


def category_diversity(candidates: Candidates, categories: NDArray[np.integer], k: int) -> ValueArray:
    """Return the share of pairs of different categories among the first k items of each query.

    Args:
        candidates: (Q, W), W >= k; missing ones make no pairs.
        categories: (num_items,) by item_idx, see `raysys.retrieval.diversity.category_places`.
        k: length of the list.
    Returns:
        (Q,) float64 in [0, 1]; NaN for fewer than two items, which make no pair.
    Raises:
        RetrievalError: fewer than k candidates, or categories that do not fit.
    """
    if candidates.k < k:
        raise RetrievalError(f"{candidates.k} candidates per query, diversity at {k} needs as many")
    shown = candidates.top(k)
    real = shown.item_idx >= 0
    # An item makes as many pairs of one category as items of its category stand before it.
    same = np.where(real, category_places(shown, categories), 0).sum(axis=1)
    items = real.sum(axis=1).astype(np.float64)
    pairs = items * (items - 1) / 2
    pairs[pairs == 0] = np.nan
    return 1 - same / pairs


@dataclass(frozen=True, eq=False)
class DiversityCurve:
    """Per-user values for every weight; those of blocks of users merge to those of all.

    Attributes:
        weights: the values of lambda, (L,).
        k: length of the lists.
        max_per_category: the cap that all lists keep, or None.
        values: (L, Q) float64 by name: `hit_rate`, `recall` and `ndcg`, NaN without a relevant item;
            `diversity`, NaN for fewer than two items; `settled`, 1 where no deeper search could change the
            list.
    """

    weights: tuple[float, ...]
    k: int
    max_per_category: int | None
    values: dict[str, NDArray[np.float64]]

    def merge(self, other: "DiversityCurve") -> "DiversityCurve":
        """Return the curve of the users of both, this one's first; RetrievalError for different settings."""
        mine, theirs = ((c.weights, c.k, c.max_per_category) for c in (self, other))
        if mine != theirs:
            raise RetrievalError(f"curves of {mine} and {theirs} cannot be merged; measure both alike")
        values = {name: np.concatenate([rows, other.values[name]], 1) for name, rows in self.values.items()}
        return DiversityCurve(self.weights, self.k, self.max_per_category, values)

    def points(self) -> list[dict[str, float]]:
        """Return one point per weight: `weight`, and the mean of every value as `name@k`.

        Raises:
            DataError: a value that is defined for no user.
        """
        means = {name: [mean(row) for row in rows] for name, rows in self.values.items()}
        return [
            {"weight": weight, **{f"{name}@{self.k}": row[place] for name, row in means.items()}}
            for place, weight in enumerate(self.weights)
        ]


def relevance_diversity_curve(
    candidates: Candidates,
    categories: NDArray[np.integer],
    truth: Truth,
    weights: Sequence[float],
    k: int,
    max_per_category: int | None = None,
) -> DiversityCurve:
    """Return what lists of k are worth for every weight, chosen by `diversify` from one search.

    Args:
        candidates: (Q, W) of one search, several times as deep as k; `settled` tells whether that is enough.
        categories: (num_items,) by item_idx, see `raysys.retrieval.diversity.category_places`.
        truth: (offsets, items), the distinct relevant items of each query.
        weights: values of lambda, in units of the score; 0 without a cap is the plain list.
        k: length of the lists.
        max_per_category: the most items of one category in a list; None for no cap.
    Raises:
        RetrievalError: no weights, fewer than k candidates, or arrays that do not fit.
    """
    if not weights:
        raise RetrievalError("no weights; a curve needs one point at least")
    places_QW = category_places(candidates, categories)
    values: dict[str, list[ValueArray]] = {name: [] for name in (*CURVE_METRICS, "diversity", "settled")}
    for weight in weights:
        chosen = choose_by_places(candidates, places_QW, k, weight, max_per_category)
        for name, metric in CURVE_METRICS.items():
            values[name].append(metric(chosen, truth, k))
        values["diversity"].append(category_diversity(chosen, categories, k))
        values["settled"].append(is_settled(candidates, chosen).astype(np.float64))
    stacked = {name: np.stack(rows) for name, rows in values.items()}
    return DiversityCurve(tuple(weights), k, max_per_category, stacked)
