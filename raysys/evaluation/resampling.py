"""Means of per-query values, and how sure they are: bootstrap intervals, differences of pairs and their
p-values.

Values that repeat, as those of most metrics do, are drawn as counts of the distinct ones: that has the law of
drawing queries one by one and costs little. Values that hardly repeat are drawn one by one.
"""

import math

import numpy as np
from numpy.typing import NDArray

from raysys.errors import DataError
from raysys.seeds import generator

ValueArray = NDArray[np.float64]

_DRAWS = 2**22
_REPEATED = 2
"""Values are drawn by count where there are so many times fewer distinct ones."""


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

    A resample is drawn as multinomial counts of the distinct values where they repeat. The result depends on
    the values as a set, not on their order.

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
    random, number = generator(seed, "bootstrap"), len(defined)
    repeated = number >= _REPEATED * len(distinct)
    ordered = np.repeat(distinct, counts)
    means = np.empty(resamples)
    step = max(1, _DRAWS // (len(distinct) if repeated else number))
    for start in range(0, resamples, step):
        size = min(step, resamples - start)
        if repeated:
            means[start : start + size] = (
                random.multinomial(number, counts / number, size=size) @ distinct / number
            )
        else:
            means[start : start + size] = ordered[random.integers(0, number, (size, number))].mean(axis=1)
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
    apart = _differences(a, b)
    low, high = bootstrap_interval(apart, seed, resamples, level)
    return mean(apart), low, high


def paired_p_value(a: ValueArray, b: ValueArray, seed: int, resamples: int = 2000) -> float:
    """Return the two-sided p-value of a paired randomisation test: were the two models exchangeable for every
    query, how often would their means differ as much as they do.

    Fisher's test as recommended by Smucker et al. 2007, "A comparison of statistical significance tests for
    information retrieval evaluation" (CIKM), with the observed signs counted as one of the draws.

    Args:
        a, b: (Q,) as in `paired_difference`.
        seed: root seed.
        resamples: draws of signs, at least 1; the least p-value is 1 / (resamples + 1).
    Raises:
        DataError: as `paired_difference`.
    """
    apart = _differences(a, b)
    sizes, counts = np.unique(np.abs(apart[apart != 0]), return_counts=True)
    if not len(sizes):
        return 1.0
    # Whatever its sign, a difference is drawn as + or -: of n equal sizes, 2 B(n, 1/2) - n more are +.
    least = abs(math.fsum(apart)) - 1e-9 * float(sizes @ counts)
    if counts.sum() < _REPEATED * len(sizes):
        sizes, counts = np.repeat(sizes, counts), np.ones(1, np.int64)
    random, extreme = generator(seed, "signs"), 0
    step = max(1, _DRAWS // len(sizes))
    for start in range(0, resamples, step):
        size = (min(step, resamples - start), len(sizes))
        once = counts.max() == 1
        drawn = random.integers(0, 2, size, np.int8) if once else random.binomial(counts, 0.5, size)
        extreme += int((np.abs((2 * drawn - counts) @ sizes) >= least).sum())
    return (extreme + 1) / (resamples + 1)


def _differences(a: ValueArray, b: ValueArray) -> ValueArray:
    """Return a - b where both are defined."""
    if a.shape != b.shape:
        raise DataError(
            f"{a.shape} and {b.shape} values cannot be paired; measure both models on one set of users"
        )
    apart = a - b
    return apart[~np.isnan(apart)]
