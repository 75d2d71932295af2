"""Tallies: how many things have each value, exact and mergeable, and what a reader wants to know of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

_DENSE = 4
PERCENTS = {"median": 50, "p90": 90, "p99": 99}


@dataclass(frozen=True)
class Tally:
    """Distinct int64 values, rising, and the positive int64 count of each."""

    values: np.ndarray
    counts: np.ndarray

    @staticmethod
    def of(values: np.ndarray) -> "Tally":
        """Return the tally of (N,) integers; one pass where they span a range that is not much above N."""
        if not len(values):
            return Tally(np.zeros(0, np.int64), np.zeros(0, np.int64))
        low, high = int(values.min()), int(values.max())
        if high - low > _DENSE * len(values) + 1024:
            found, counts = np.unique(values, return_counts=True)
            return Tally(found.astype(np.int64), counts.astype(np.int64))
        dense = np.bincount(values - low)
        found = np.flatnonzero(dense)
        return Tally(found + low, dense[found].astype(np.int64))

    @staticmethod
    def merge(parts: Sequence["Tally"]) -> "Tally":
        """Return the tally of the things of all parts."""
        values = np.concatenate([part.values for part in parts])
        counts = np.concatenate([part.counts for part in parts])
        if not len(values):
            return Tally.of(values)
        low, high = int(values.min()), int(values.max())
        if high - low <= _DENSE * len(values) + 1024:
            dense = np.bincount(values - low, weights=counts)  # whole numbers below 2**53 stay exact
            found = np.flatnonzero(dense)
            return Tally(found + low, dense[found].astype(np.int64))
        found, place = np.unique(values, return_inverse=True)
        total = np.zeros(len(found), np.int64)
        np.add.at(total, place, counts)
        return Tally(found, total)

    @property
    def size(self) -> int:
        """Number of things."""
        return int(self.counts.sum())

    @property
    def sum(self) -> int:
        """Sum of their values."""
        return int((self.values * self.counts).sum())

    def percentile(self, percent: int) -> int:
        """Return the least value that at least so many percent of the things do not exceed."""
        wanted = -(-self.size * percent // 100)
        return int(self.values[np.searchsorted(np.cumsum(self.counts), max(wanted, 1))])


def distribution(tally: Tally) -> dict[str, Any]:
    """Return size, extremes, mean, percentiles and the histogram of a tally of values >= 0, at least one."""
    _, bins = np.frexp(tally.values.astype(np.float64))
    return {
        "count": tally.size,
        "min": int(tally.values[0]),
        **{name: tally.percentile(percent) for name, percent in PERCENTS.items()},
        "max": int(tally.values[-1]),
        "mean": round(tally.sum / tally.size, 4),
        "histogram": histogram(bins, tally.counts),
    }


def histogram(bins: np.ndarray, counts: np.ndarray) -> dict[str, list[int]]:
    """Return a histogram over powers of two as the least value and the count of each bar, gaps included.

    Args:
        bins: (N,) bin 0 is the value 0, bin k the values from 2**(k-1) to 2**k - 1.
        counts: (N,) how many are in it.
    """
    dense = np.bincount(bins, weights=counts).astype(np.int64)
    filled = np.flatnonzero(dense)
    shown = range(int(filled[0]), int(filled[-1]) + 1) if len(filled) else range(0)
    return {
        "from": [0 if number == 0 else 2 ** (number - 1) for number in shown],
        "count": [int(dense[number]) for number in shown],
    }
