"""Retrieval metrics: per-query functions, one explicit table of them, totals that merge, and bootstrap
intervals.

A per-query metric is a function (candidates, truth, k) -> (Q,) float64 in [0, 1], NaN where the query has no
relevant item. `truth` is (offsets, items) as in `Ragged`: the distinct relevant items of each query. Missing
candidates never count as items, and a query with relevant items and no candidates scores 0.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from raysys.config import require, suggest
from raysys.errors import DataError, RetrievalError
from raysys.retrieval.candidates import BoolArray, Candidates, IntArray, check_ragged, is_member
from raysys.schema import NUM_RESERVED
from raysys.seeds import generator

ValueArray = NDArray[np.float64]
Truth = tuple[IntArray, IntArray]

_DRAWS = 2**22


def _hits(candidates: Candidates, truth: Truth, k: int) -> tuple[BoolArray, ValueArray]:
    """Return (Q, k) whether each candidate is relevant, and (Q,) how many items are, NaN for none."""
    sets = check_ragged(truth, candidates.num_queries, "truth")
    if candidates.k < k:
        raise RetrievalError(
            f"{candidates.k} candidates per query, a metric at {k} needs as many; retrieve more"
        )
    relevant = np.diff(sets.offsets).astype(np.float64)
    relevant[relevant == 0] = np.nan
    return is_member(candidates.item_idx[:, :k], sets), relevant


def hit_rate(candidates: Candidates, truth: Truth, k: int) -> ValueArray:
    """Return 1 where one of the first k candidates is relevant, else 0."""
    hits, relevant = _hits(candidates, truth, k)
    return np.where(np.isnan(relevant), np.nan, hits.any(axis=1))


def recall(candidates: Candidates, truth: Truth, k: int) -> ValueArray:
    """Return the share of the relevant items that is among the first k candidates."""
    hits, relevant = _hits(candidates, truth, k)
    return hits.sum(axis=1) / relevant


def precision(candidates: Candidates, truth: Truth, k: int) -> ValueArray:
    """Return the share of k places that hold a relevant item; a missing candidate is a place without one."""
    hits, relevant = _hits(candidates, truth, k)
    return np.where(np.isnan(relevant), np.nan, hits.sum(axis=1) / k)


def ndcg(candidates: Candidates, truth: Truth, k: int) -> ValueArray:
    """Return the discounted gain of the first k over that of an ideal list.

    Gain is 1 for a relevant item, the discount at rank r is 1 / log2(r + 1), and the ideal list has
    min(relevant, k) hits at its head: dividing by the hits that were found would reward finding fewer.
    """
    hits, relevant = _hits(candidates, truth, k)
    discount = 1 / np.log2(np.arange(2, k + 2))
    ideal = np.cumsum(discount)[np.nan_to_num(np.minimum(relevant, k), nan=1).astype(np.int64) - 1]
    return np.where(np.isnan(relevant), np.nan, np.minimum((hits * discount).sum(axis=1) / ideal, 1))


def reciprocal_rank(candidates: Candidates, truth: Truth, k: int) -> ValueArray:
    """Return 1 / rank of the first relevant candidate among the first k, 0 where there is none."""
    hits, relevant = _hits(candidates, truth, k)
    first = np.where(hits.any(axis=1), 1 / (hits.argmax(axis=1) + 1), 0)
    return np.where(np.isnan(relevant), np.nan, first)


def average_precision(candidates: Candidates, truth: Truth, k: int) -> ValueArray:
    """Return the sum of precision at the rank of each hit among the first k, over min(relevant, k)."""
    hits, relevant = _hits(candidates, truth, k)
    at_rank = np.cumsum(hits, axis=1) / np.arange(1, k + 1)
    return (hits * at_rank).sum(axis=1) / np.minimum(relevant, k)


METRICS: dict[str, Callable[[Candidates, Truth, int], ValueArray]] = {
    "hit_rate": hit_rate,
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "mrr": reciprocal_rank,
    "map": average_precision,
}
"""Per-query metrics by name. `mrr` has no cut-off of its own: it is taken over the largest k."""

CATALOGUE_METRICS = ("coverage",)
"""Metrics of the whole catalogue: `coverage@k` is the share of items in the first k of some query."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and on which part of the split."""

    ks: tuple[int, ...] = (10, 50)
    """Cut-offs, rising; the largest is also how many items are retrieved and written per user."""
    metrics: tuple[str, ...] = ("hit_rate", "recall", "ndcg", "mrr", "coverage")
    """Names of metrics: hit_rate, recall, precision, ndcg, mrr, map and coverage."""
    part: Literal["test", "valid"] = "test"
    """Part of the split that is measured."""
    sample_users: int = 8
    """Users shown one by one in the report; at least 0."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.ks, self.ks[1:], strict=False))
        found = f"ks: found {list(self.ks)}"
        require(bool(self.ks) and self.ks[0] >= 1 and rising, f"{found}, expected rising numbers from 1 up")
        known = (*METRICS, *CATALOGUE_METRICS)
        require(bool(self.metrics), f"metrics: found none; known: {', '.join(known)}")
        for name in self.metrics:
            require(name in known, f"metrics: unknown metric {name}{suggest(name, known)}")
        twice = sorted({name for name in self.metrics if self.metrics.count(name) > 1})
        require(not twice, f"metrics: {', '.join(twice)} named twice")
        require(self.sample_users >= 0, f"sample_users: found {self.sample_users}, expected at least 0")

    @property
    def depth(self) -> int:
        """The number of candidates per query that all metrics need."""
        return self.ks[-1]

    def keys(self) -> tuple[str, ...]:
        """Return the names of all results in order: `mrr` alone, others as `name@k`."""
        return tuple(f"{name}@{k}" if name != "mrr" else name for name, k in self.pairs())

    def pairs(self) -> tuple[tuple[str, int], ...]:
        """Return (metric, cut-off) of every result, in the order of `keys`."""
        return tuple(
            (name, k) for name in self.metrics for k in ((self.depth,) if name == "mrr" else self.ks)
        )


@dataclass
class MetricTotals:
    """What has been measured so far; parts measured apart merge to the whole.

    Every query's values are kept (8 bytes per metric and query), because intervals and slices need them;
    means are exactly rounded sums of them, so neither the split of the queries nor the order of merging
    changes a bit.

    Attributes:
        config: what is measured.
        num_candidates: real items of the catalogue.
        blocks: per key the values of each block of queries added so far; `values` joins them.
        recommended: per cut-off (num_candidates + 2,) bool by item_idx: items that some query was given.
    """

    config: EvaluationConfig
    num_candidates: int
    blocks: dict[str, list[ValueArray]] = field(default_factory=dict[str, list[ValueArray]])
    recommended: dict[int, BoolArray] = field(default_factory=dict[int, BoolArray])

    def __post_init__(self) -> None:
        for key, (name, k) in zip(self.config.keys(), self.config.pairs(), strict=True):
            if name in METRICS:
                self.blocks.setdefault(key, [])
            else:
                self.recommended.setdefault(k, np.zeros(self.num_candidates + NUM_RESERVED, np.bool_))

    @property
    def values(self) -> dict[str, ValueArray]:
        """Per-query metrics by key: (queries so far,) float64 in the order of adding, NaN where undefined."""
        return {key: np.concatenate([np.zeros(0), *blocks]) for key, blocks in self.blocks.items()}

    def add(self, candidates: Candidates, truth: Truth) -> dict[str, ValueArray]:
        """Take in a block of queries and return its per-query values by key.

        Raises:
            RetrievalError: too few candidates per query, or an item that the catalogue does not have.
            DataError: a relevant item named twice for one query.
        """
        _check_distinct(truth)
        item_idx = candidates.item_idx
        if item_idx.max(initial=-1) >= self.num_candidates + NUM_RESERVED:
            raise RetrievalError(f"item_idx {item_idx.max()} in a catalogue of {self.num_candidates} items")
        reserved = int(((item_idx >= 0) & (item_idx < NUM_RESERVED)).sum())
        if reserved:
            raise RetrievalError(
                f"padding or unknown among the candidates {reserved} times; they are no items"
            )
        block: dict[str, ValueArray] = {}
        for key, (name, k) in zip(self.config.keys(), self.config.pairs(), strict=True):
            if name in METRICS:
                block[key] = METRICS[name](candidates, truth, k)
                self.blocks[key].append(block[key])
            else:
                shown = item_idx[:, :k]
                self.recommended[k][shown[shown >= 0]] = True
        return block

    def merge(self, other: "MetricTotals") -> "MetricTotals":
        """Return new totals of the queries of both, this one's first."""
        if (self.config, self.num_candidates) != (other.config, other.num_candidates):
            raise RetrievalError(
                "totals of different evaluations cannot be merged; measure both with one config"
            )
        blocks = {key: [*values, *other.blocks[key]] for key, values in self.blocks.items()}
        shown = {k: marks | other.recommended[k] for k, marks in self.recommended.items()}
        return MetricTotals(self.config, self.num_candidates, blocks, shown)

    def result(self) -> dict[str, float]:
        """Return the mean of every metric over the queries where it is defined, in the order of the config.

        Raises:
            DataError: no query has a relevant item.
        """
        means: dict[str, float] = {}
        values = self.values
        for key, (name, k) in zip(self.config.keys(), self.config.pairs(), strict=True):
            if name in METRICS:
                means[key] = mean(values[key])
            else:
                means[key] = int(self.recommended[k].sum()) / max(1, self.num_candidates)
        return means

    def intervals(
        self, seed: int, resamples: int = 1000, level: float = 0.95
    ) -> dict[str, tuple[float, float]]:
        """Return a bootstrap interval of the mean of every per-query metric."""
        return {
            key: bootstrap_interval(values, seed, resamples, level) for key, values in self.values.items()
        }


def _check_distinct(truth: Truth) -> None:
    offsets, items = np.asarray(truth[0]), np.asarray(truth[1])
    query = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if len(query) != len(items):
        return  # `_hits` names what does not fit
    keys = np.sort((query << 32) | items)
    repeated = int((keys[1:] == keys[:-1]).sum())
    if repeated:
        raise DataError(f"truth: {repeated} relevant items are named twice for one query; name each once")


def mean(values: ValueArray) -> float:
    """Return the exactly rounded mean of the values that are not NaN; DataError where there are none."""
    defined = values[~np.isnan(values)]
    if not len(defined):
        raise DataError(f"none of {len(values)} queries has a relevant item; the part of the split is empty")
    return math.fsum(defined) / len(defined)


def bootstrap_interval(
    values: ValueArray, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of the mean over queries (Efron and Tibshirani 1993, ch. 13).

    A resample is drawn as multinomial counts of the distinct values, which has the law of drawing queries
    with replacement and costs little where values repeat. The result depends on the values as a set, not on
    their order.

    Args:
        values: (Q,) float64; NaN is left out.
        seed: root seed.
        resamples: at least 1.
        level: share of the resampled means inside the interval, in (0, 1).
    Returns:
        (low, high); both are the mean itself where all values are equal.
    Raises:
        DataError: no value that is not NaN.
    """
    defined = values[~np.isnan(values)]
    if not len(defined):
        raise DataError(f"no interval of {len(values)} undefined values; the part of the split is empty")
    distinct, counts = np.unique(defined, return_counts=True)
    if len(distinct) == 1:
        return float(distinct[0]), float(distinct[0])
    random = generator(seed, "bootstrap")
    means = np.empty(resamples)
    step = max(1, _DRAWS // len(distinct))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        drawn = random.multinomial(len(defined), counts / len(defined), size=size)
        means[start : start + size] = drawn @ distinct / len(defined)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_difference(
    a: ValueArray, b: ValueArray, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """Return the mean of a - b over the same queries with its bootstrap interval: (difference, low, high).

    Args:
        a, b: (Q,) values of one metric for two models, query by query; pairs with NaN are left out.
        seed, resamples, level: as in `bootstrap_interval`.
    Raises:
        DataError: different numbers of queries, or no pair without NaN.
    """
    if a.shape != b.shape:
        raise DataError(
            f"{a.shape} and {b.shape} values cannot be paired; measure both models on one set of users"
        )
    low, high = bootstrap_interval(a - b, seed, resamples, level)
    return mean(a - b), low, high
