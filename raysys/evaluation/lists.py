"""Metrics of the lists themselves: how new, varied and popular what is recommended is, whatever the truth.

A metric is a function (candidates, facts, k) -> (Q,) float64 over the first k candidates of each query, NaN
where it is undefined. Missing candidates count nowhere.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from raysys.catalog import Catalog
from raysys.errors import ConfigError, RetrievalError
from raysys.evaluation.resampling import ValueArray
from raysys.retrieval.candidates import BoolArray, Candidates, IntArray, check_ragged
from raysys.schema import UNKNOWN_IDX

ValuesArray = NDArray[np.int32]

DIVERSITY = "intra_list_diversity"
_ENTRIES = 2**20


@dataclass(frozen=True)
class Facts:
    """What is known of items and users beside the lists.

    Attributes:
        item_counts: (num_items,) int64, training events per item_idx; 0 for the reserved rows.
        categories: per categorical item feature (num_items, L) int32, the values of each item; 0 (padding)
            and 1 (unknown) are none.
        histories: per query the distinct items of its history, as in `Ragged`.
    """

    item_counts: IntArray
    categories: tuple[ValuesArray, ...]
    histories: tuple[IntArray, IntArray]

    @staticmethod
    def of(catalog: Catalog, histories: tuple[IntArray, IntArray]) -> "Facts":
        """Return the facts of a catalogue; numbers among the item features are no categories."""
        categories = tuple(
            catalog.item_values[feature.name].reshape(catalog.num_items, -1)
            for feature in catalog.item_features
            if feature.kind in ("id", "id_list")
        )
        return Facts(catalog.item_counts, categories, histories)


def novelty(candidates: Candidates, facts: Facts, k: int) -> ValueArray:
    """Return the mean over the first k candidates of -log2(the item's share of all training events), in bits.

    The self-information of Zhou et al. 2010, "Solving the apparent diversity-accuracy dilemma of recommender
    systems" (PNAS 107), with events in place of users. An item without a training event counts as if it had
    one. NaN for an empty list.
    """
    bits = np.log2(max(int(facts.item_counts.sum()), 1)) - np.log2(np.maximum(facts.item_counts, 1))
    items, real = _shown(candidates, k)
    return _mean_of_rows(bits[items], real)


def popularity_bias(candidates: Candidates, facts: Facts, k: int) -> ValueArray:
    """Return how many times as popular the first k candidates are as the distinct items of the history.

    The average popularity of the list (ARP of Abdollahpouri et al. 2019, "Managing popularity bias in
    recommender systems with personalized re-ranking", arXiv:1901.07555) over that of the user's own items, in
    training events; 1 is no bias. Abdollahpouri et al. 2019, "The unfairness of popularity bias in
    recommendation" (arXiv:1907.13286), divide the means over users; here every user has a ratio, so that
    intervals, slices and paired tests apply. NaN for an empty list, and for a history without an item that
    has a training event.
    """
    items, real = _shown(candidates, k)
    listed = _mean_of_rows(facts.item_counts[items].astype(np.float64), real)
    own = check_ragged(facts.histories, candidates.num_queries, "histories")
    sizes = np.diff(own.offsets)
    query = np.repeat(np.arange(len(sizes)), sizes)
    total = np.bincount(query, facts.item_counts[own.items], len(sizes)).astype(np.float64)
    total[total == 0] = np.nan
    return listed * sizes / total


def intra_list_diversity(candidates: Candidates, facts: Facts, k: int) -> ValueArray:
    """Return 1 - the mean similarity of all pairs of the first k candidates, in [0, 1].

    The complement of the intra-list similarity of Ziegler et al. 2005, "Improving recommendation lists
    through topic diversification" (WWW), averaged over pairs. Two items are as similar as the cosine of their
    sets of values, |A and B| / sqrt(|A| |B|), averaged over the categorical item features: for a feature of
    one value, whether it is equal. A missing or unknown value is like no other. NaN for fewer than two
    candidates.

    The cosines of all pairs add up to the squared length of the sum of the items' unit vectors less their
    number, so no pair is ever formed.

    Raises:
        ConfigError: items without a categorical feature.
    """
    if not facts.categories:
        raise ConfigError(
            f"evaluation.metrics: {DIVERSITY} needs a categorical or multi-valued item feature, and there is "
            "none; name one in data.items.features and run jobs/prepare.py again, or leave the metric out"
        )
    items, real = _shown(candidates, k)
    sizes = real.sum(axis=1).astype(np.float64)
    sizes[sizes < 2] = np.nan
    similar = np.zeros(len(items))
    for values in facts.categories:
        step = max(1, _ENTRIES // (k * values.shape[1]))
        for start in range(0, len(items), step):
            block = slice(start, start + step)
            similar[block] += _sum_of_cosines(values[items[block]] * real[block, :, None])
    similar /= len(facts.categories)
    return np.clip(1 - similar / (sizes * (sizes - 1)), 0, 1)


def _sum_of_cosines(values: ValuesArray) -> ValueArray:
    """Return (Q,) the cosines of the sets of values of all ordered pairs of places; values are (Q, k, L)."""
    values = np.sort(values, axis=2)
    known = values > UNKNOWN_IDX
    known[:, :, 1:] &= values[:, :, 1:] != values[:, :, :-1]  # a list may name a value twice
    size = known.sum(axis=2, keepdims=True)
    # One integer per value, the size of its set in the low digits; once sorted, equal values are neighbours.
    base = values.shape[2] + 1
    keys = np.sort(np.where(known, values * np.int64(base) + size, 0).reshape(len(values), -1), axis=1)
    value, weight = keys // base, (keys % base).astype(np.float64)
    weight = np.divide(1, np.sqrt(weight), out=np.zeros_like(weight), where=weight > 0)
    first = np.ones(keys.shape, np.bool_)
    first[:, 1:] = value[:, 1:] != value[:, :-1]
    starts = np.flatnonzero(first)
    lengths = np.add.reduceat(weight.ravel(), starts) ** 2
    squared = np.bincount(starts // keys.shape[1], lengths, len(values))
    return squared - (size[:, :, 0] > 0).sum(axis=1)


def _shown(candidates: Candidates, k: int) -> tuple[IntArray, BoolArray]:
    """Return (Q, k) item_idx, 0 where missing, and whether there is an item."""
    if candidates.k < k:
        raise RetrievalError(
            f"{candidates.k} candidates per query, a metric at {k} needs as many; retrieve more"
        )
    items = candidates.item_idx[:, :k]
    return np.maximum(items, 0), items >= 0


def _mean_of_rows(values: ValueArray, real: BoolArray) -> ValueArray:
    sizes = real.sum(axis=1).astype(np.float64)
    sizes[sizes == 0] = np.nan
    return (values * real).sum(axis=1) / sizes


LIST_METRICS: dict[str, Callable[[Candidates, Facts, int], ValueArray]] = {
    "novelty": novelty,
    "popularity_bias": popularity_bias,
    DIVERSITY: intra_list_diversity,
}
"""Per-query metrics of lists by name."""


def gini(times: IntArray) -> float:
    """Return the Gini index of how often each item is recommended; (N,) int64, 0 for items never recommended.

    Implements Shani and Gunawardana 2011, "Evaluating recommendation systems" (Recommender Systems Handbook):
    0 where all items are recommended equally often, 1 where one item is always; 0 where nothing was
    recommended, or there is one item.
    """
    ordered, size, total = np.sort(times).astype(np.float64), len(times), int(times.sum())
    if not total or size < 2:
        return 0.0
    return float((2 * np.arange(1, size + 1) - size - 1) @ ordered / ((size - 1) * total))
