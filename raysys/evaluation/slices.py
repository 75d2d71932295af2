"""The same metrics over parts of the queries and parts of the truth, as totals that merge."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raysys.evaluation.metrics import METRICS, EvaluationConfig, Truth
from raysys.evaluation.resampling import ValueArray
from raysys.retrieval.candidates import Candidates, IntArray

HEAD_SHARE, TAIL_SHARE = 0.2, 0.5
POPULARITY = ("head", "middle", "tail", "cold")
LENGTHS = (0, 1, 5, 10, 20, 50, 100, 200)
"""Where the buckets of history lengths begin, in events; the same for every data set, so runs compare."""
PAUSES = {"1 minute": 60, "1 hour": 3600, "1 day": 86_400, "1 week": 604_800, "30 days": 2_592_000}
"""Buckets of the time since the last event: at most so many seconds, and longer than the bucket before."""


@dataclass
class Bucket:
    """The queries of one slice: how many, and per metric the sums of their blocks and how many define it."""

    users: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    counts: dict[str, int] = field(default_factory=dict[str, int])

    def add(self, users: int, values: Mapping[str, ValueArray]) -> None:
        """Take in the values of a block of queries; NaN is left out."""
        self.users += users
        for key, found in values.items():
            defined = found[~np.isnan(found)]
            self.sums.setdefault(key, []).append(math.fsum(defined))
            self.counts[key] = self.counts.get(key, 0) + len(defined)

    def merge(self, other: "Bucket") -> "Bucket":
        """Return the queries of both."""
        keys = dict.fromkeys([*self.sums, *other.sums])
        sums = {key: [*self.sums.get(key, []), *other.sums.get(key, [])] for key in keys}
        counts = {key: self.counts.get(key, 0) + other.counts.get(key, 0) for key in keys}
        return Bucket(self.users + other.users, sums, counts)

    def result(self) -> dict[str, float]:
        """Return the users and the means; a metric that no query defines is left out."""
        means = {
            key: math.fsum(sums) / self.counts[key] for key, sums in self.sums.items() if self.counts[key]
        }
        return {"users": self.users, **means}


@dataclass
class SliceTotals:
    """Metrics over slices, so far: a few numbers per slice and block of queries, none per query.

    Attributes:
        buckets: slicing -> slice -> totals, in the order in which slices are told; empty ones among them.
    """

    buckets: dict[str, dict[str, Bucket]] = field(default_factory=dict[str, dict[str, Bucket]])

    def add(
        self, name: str, slices: Sequence[str], place: IntArray, values: Mapping[str, ValueArray]
    ) -> None:
        """Take in a block of queries under the slicing `name`.

        Args:
            name: as in `buckets`.
            slices: names, in the order in which they are told.
            place: (Q,) which of the slices each query is in.
            values: key -> (Q,) values.
        """
        for number, label in enumerate(slices):
            mine = place == number
            bucket = self.buckets.setdefault(name, {}).setdefault(label, Bucket())
            bucket.add(int(mine.sum()), {key: found[mine] for key, found in values.items()})

    def add_truth(
        self,
        name: str,
        slices: Sequence[str],
        place: IntArray,
        config: EvaluationConfig,
        candidates: Candidates,
        truth: Truth,
    ) -> None:
        """Take in a block of queries with the truth cut down to each slice.

        A query is a user of the slices that it has a relevant item in.

        Args:
            name, slices: as in `add`.
            place: (T,) which of the slices each relevant item is in.
            config, candidates, truth: as in `MetricTotals`; metrics that ask for no truth are left out.
        """
        offsets, items = truth
        owner = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
        for number, label in enumerate(slices):
            mine = place == number
            sizes = np.bincount(owner[mine], minlength=len(offsets) - 1)
            rows = np.flatnonzero(sizes)
            part = (np.concatenate([[0], np.cumsum(sizes[rows])]).astype(np.int64), items[mine])
            asked = Candidates(candidates.item_idx[rows], candidates.score[rows])
            values = {
                key: METRICS[metric](asked, part, k)
                for key, (metric, k) in zip(config.keys(), config.pairs(), strict=True)
                if metric in METRICS
            }
            bucket = self.buckets.setdefault(name, {}).setdefault(label, Bucket())
            bucket.add(len(rows), values)

    def merge(self, other: "SliceTotals") -> "SliceTotals":
        """Return new totals of the queries of both."""
        merged: dict[str, dict[str, Bucket]] = {}
        for name in dict.fromkeys([*self.buckets, *other.buckets]):
            mine, theirs = self.buckets.get(name, {}), other.buckets.get(name, {})
            merged[name] = {
                label: mine.get(label, Bucket()).merge(theirs.get(label, Bucket()))
                for label in dict.fromkeys([*mine, *theirs])
            }
        return SliceTotals(merged)

    def result(self) -> dict[str, dict[str, dict[str, float]]]:
        """Return slicing -> slice -> users and means, without slices that have no users."""
        return {
            name: {label: bucket.result() for label, bucket in buckets.items() if bucket.users}
            for name, buckets in self.buckets.items()
        }


def popularity_buckets(item_counts: IntArray) -> IntArray:
    """Return per item_idx its place in `POPULARITY`; cold items have no training event.

    The head holds the most popular items that together have a fifth of all training events, the tail the
    least popular ones that together have half.
    """
    order = np.argsort(-item_counts, kind="stable")
    share = np.cumsum(item_counts[order]) / max(item_counts.sum(), 1)
    buckets = np.empty(len(item_counts), dtype=np.int64)
    buckets[order] = np.where(share <= HEAD_SHARE, 0, np.where(share <= 1 - TAIL_SHARE, 1, 2))
    buckets[item_counts == 0] = 3
    return buckets


def length_buckets(lengths: IntArray) -> tuple[list[str], IntArray]:
    """Return the names of the slices by events in the history, and each query's place among them."""
    ends = [*(start - 1 for start in LENGTHS[1:]), None]
    names = [
        f"{start}+ events" if end is None else f"{start} events" if start == end else f"{start}-{end} events"
        for start, end in zip(LENGTHS, ends, strict=True)
    ]
    return names, np.searchsorted(LENGTHS, lengths, side="right").astype(np.int64) - 1


def pause_buckets(seconds: NDArray[np.float64]) -> tuple[list[str], IntArray]:
    """Return the names of the slices by seconds since the last event, and each query's place among them.

    NaN, a query without a history, has a slice of its own.
    """
    names = [*(f"up to {name}" for name in PAUSES), f"more than {list(PAUSES)[-1]}", "no event before"]
    place = np.searchsorted(list(PAUSES.values()), seconds, side="left").astype(np.int64)
    return names, np.where(np.isnan(seconds), len(names) - 1, place)
