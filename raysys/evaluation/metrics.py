"""Retrieval metrics: per-query functions, one explicit table of them, and totals that merge.

A per-query metric is a function (candidates, truth, k) -> (Q,) float64 in [0, 1], NaN where the query has no
relevant item. `truth` is (offsets, items) as in `Ragged`: the distinct relevant items of each query. Missing
candidates never count as items, and a query with relevant items and no candidates scores 0.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from raysys.config import require, suggest
from raysys.errors import DataError, RetrievalError
from raysys.evaluation.lists import DIVERSITY, LIST_METRICS, Facts, gini
from raysys.evaluation.resampling import ValueArray, bootstrap_interval, mean
from raysys.retrieval.candidates import BoolArray, Candidates, IntArray, check_ragged, is_member
from raysys.schema import NUM_RESERVED

Truth = tuple[IntArray, IntArray]


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

CATALOGUE_METRICS = ("coverage", "gini")
"""Metrics of the whole catalogue: `coverage@k` is the share of items in the first k of some query, `gini@k`
how unequally often items are there."""


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and on which part of the split."""

    ks: tuple[int, ...] = (10, 50)
    """Cut-offs, rising; the largest is also how many items are retrieved and written per user."""
    metrics: tuple[str, ...] = ("hit_rate", "recall", "ndcg", "mrr", "coverage")
    """Names of metrics: hit_rate, recall, precision, ndcg, mrr, map, novelty, popularity_bias,
    intra_list_diversity (needs categorical item features), coverage and gini."""
    part: Literal["test", "valid"] = "test"
    """Part of the split that is measured."""
    sample_users: int = 8
    """Users shown one by one in the report; at least 0."""
    diversity_weight: float = 0.0
    """What a pair of items of different categories is worth in a list, in units of the score (lambda of
    ComiRec); 0: lists by score alone."""
    max_per_category: int = 0
    """The most items of one category in a list; 0: no cap."""
    diversity_category: str = ""
    """Item feature whose first value is an item's category; empty: the first categorical one."""
    diversity_depth: int = 5
    """Candidates that varied lists are chosen from, in multiples of the largest of `ks`."""
    diversity_curve: tuple[float, ...] = ()
    """Weights whose lists are measured too, from the same search, for the curve of relevance and diversity in
    the report; rising from 0."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.ks, self.ks[1:], strict=False))
        found = f"ks: found {list(self.ks)}"
        require(bool(self.ks) and self.ks[0] >= 1 and rising, f"{found}, expected rising numbers from 1 up")
        known = (*METRICS, *LIST_METRICS, *CATALOGUE_METRICS)
        require(bool(self.metrics), f"metrics: found none; known: {', '.join(known)}")
        for name in self.metrics:
            require(name in known, f"metrics: unknown metric {name}{suggest(name, known)}")
        twice = sorted({name for name in self.metrics if self.metrics.count(name) > 1})
        require(not twice, f"metrics: {', '.join(twice)} named twice")
        require(bool(self.pairs()), f"ks: found [1], {DIVERSITY} is a metric of pairs and needs 2 or more")
        require(self.sample_users >= 0, f"sample_users: found {self.sample_users}, expected at least 0")
        for name in ("diversity_weight", "max_per_category"):
            value = getattr(self, name)
            require(0 <= value <= 1e30, f"{name}: found {value}, expected at least 0")
        require(self.diversity_depth >= 1, f"diversity_depth: found {self.diversity_depth}, expected >= 1")
        weights = self.diversity_curve
        rising = all(a < b for a, b in itertools.pairwise(weights))
        found = f"diversity_curve: found {list(weights)}"
        require(not weights or (weights[0] == 0 and rising), f"{found}, expected rising numbers from 0 up")
        require(not weights or weights[-1] <= 1e30, f"{found}, expected numbers up to 1e30")

    @property
    def depth(self) -> int:
        """The number of candidates per query that all metrics need."""
        return self.ks[-1]

    @property
    def varies_lists(self) -> bool:
        """Whether lists are chosen for variety of their categories, and not by score alone."""
        return self.diversity_weight > 0 or self.max_per_category > 0

    @property
    def search_depth(self) -> int:
        """The number of candidates per query that lists are made from."""
        return self.depth * (self.diversity_depth if self.varies_lists or self.diversity_curve else 1)

    def keys(self) -> tuple[str, ...]:
        """Return the names of all results in order: `mrr` alone, others as `name@k`."""
        return tuple(f"{name}@{k}" if name != "mrr" else name for name, k in self.pairs())

    def pairs(self) -> tuple[tuple[str, int], ...]:
        """Return (metric, cut-off) of every result, in the order of `keys`; one item has no diversity."""
        return tuple(
            (name, k)
            for name in self.metrics
            for k in ((self.depth,) if name == "mrr" else self.ks)
            if (name, k) != (DIVERSITY, 1)
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
        recommended: per cut-off (num_candidates + 2,) bool by item_idx: items that some query was given;
            empty without `coverage`.
        times: per cut-off (num_candidates + 2,) int64 by item_idx: queries that were given the item; empty
            without `gini`.
    """

    config: EvaluationConfig
    num_candidates: int
    blocks: dict[str, list[ValueArray]] = field(default_factory=dict[str, list[ValueArray]])
    recommended: dict[int, BoolArray] = field(default_factory=dict[int, BoolArray])
    times: dict[int, IntArray] = field(default_factory=dict[int, IntArray])

    def __post_init__(self) -> None:
        num_items = self.num_candidates + NUM_RESERVED
        for key, (name, k) in zip(self.config.keys(), self.config.pairs(), strict=True):
            if name == "coverage":
                self.recommended.setdefault(k, np.zeros(num_items, np.bool_))
            elif name == "gini":
                self.times.setdefault(k, np.zeros(num_items, np.int64))
            else:
                self.blocks.setdefault(key, [])

    @property
    def values(self) -> dict[str, ValueArray]:
        """Per-query metrics by key: (queries so far,) float64 in the order of adding, NaN where undefined."""
        return {key: np.concatenate([np.zeros(0), *blocks]) for key, blocks in self.blocks.items()}

    def add(self, candidates: Candidates, truth: Truth, facts: Facts | None = None) -> dict[str, ValueArray]:
        """Take in a block of queries and return its per-query values by key; `LIST_METRICS` need the facts.

        Raises:
            ConfigError: diversity of items without a categorical feature.
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
            elif name in LIST_METRICS:
                assert facts, f"{name} is a metric of lists and was given no facts"
                block[key] = LIST_METRICS[name](candidates, facts, k)
        for k, marks in self.recommended.items():
            marks[_items(item_idx[:, :k])] = True
        for k, counts in self.times.items():
            counts += np.bincount(_items(item_idx[:, :k]), minlength=len(counts))
        for key, values in block.items():
            self.blocks[key].append(values)
        return block

    def merge(self, other: "MetricTotals") -> "MetricTotals":
        """Return new totals of the queries of both, this one's first."""
        if (self.config, self.num_candidates) != (other.config, other.num_candidates):
            raise RetrievalError(
                "totals of different evaluations cannot be merged; measure both with one config"
            )
        blocks = {key: [*values, *other.blocks[key]] for key, values in self.blocks.items()}
        shown = {k: marks | other.recommended[k] for k, marks in self.recommended.items()}
        times = {k: counts + other.times[k] for k, counts in self.times.items()}
        return MetricTotals(self.config, self.num_candidates, blocks, shown, times)

    def result(self) -> dict[str, float]:
        """Return the mean of every metric over the queries where it is defined, in the order of the config.

        A metric of lists that no query defines is left out.

        Raises:
            DataError: no query has a relevant item.
        """
        means: dict[str, float] = {}
        values = self.values
        for key, (name, k) in zip(self.config.keys(), self.config.pairs(), strict=True):
            if name == "coverage":
                means[key] = int(self.recommended[k].sum()) / max(1, self.num_candidates)
            elif name == "gini":
                means[key] = gini(self.times[k][NUM_RESERVED:])
            elif name in METRICS or not np.isnan(values[key]).all():
                means[key] = mean(values[key])
        return means

    def intervals(
        self, seed: int, resamples: int = 1000, level: float = 0.95
    ) -> dict[str, tuple[float, float]]:
        """Return a bootstrap interval of the mean of every per-query metric that some query defines."""
        return {
            key: bootstrap_interval(values, seed, resamples, level)
            for key, values in self.values.items()
            if not np.isnan(values).all()
        }


def _items(item_idx: IntArray) -> IntArray:
    """Return the candidates that are not missing, flat."""
    return item_idx[item_idx >= 0]


def _check_distinct(truth: Truth) -> None:
    offsets, items = np.asarray(truth[0]), np.asarray(truth[1])
    query = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    if len(query) != len(items):
        return  # `_hits` names what does not fit
    keys = np.sort((query << 32) | items)
    repeated = int((keys[1:] == keys[:-1]).sum())
    if repeated:
        raise DataError(f"truth: {repeated} relevant items are named twice for one query; name each once")
