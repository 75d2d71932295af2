"""Negative sampling as a pure function of (seed, step); NumPy only, so data workers can call it.

Shape suffixes: V catalogue, N negatives.
"""

import math
from typing import Literal, get_args

import numpy as np

from raysys.config import require
from raysys.schema import NUM_RESERVED
from raysys.seeds import generator

SamplerKind = Literal["uniform", "log_uniform", "popularity"]


class NegativeSampler:
    """Draws negatives with replacement from the real items, with the expected count of each.

    With R real items and rank r = item_idx - 2, an item has probability

        uniform      1 / R
        log_uniform  (ln(r + 2) - ln(r + 1)) / ln(R + 1), as item_idx are given by falling training count
        popularity   max(count, 1)^power, normalised (Mikolov et al. 2013, arXiv:1310.4546, with power 0.75)

    An item without training events counts as one event: with probability zero it would never be a negative,
    nothing would push its score down, and the sampled softmax would not converge to the full one. Draws
    invert the cumulative distribution; the table that popularity needs costs 8 bytes per item.

    Args:
        kind: the distribution.
        counts: (V,) training events per item, the reserved rows first.
        num_negatives: N.
        power: exponent of popularity, >= 0; the other kinds do not use it.
        seed: root seed; a draw depends on it and on the step only.
    Raises:
        ConfigError: unknown kind, N < 1, power < 0 or not finite, or no real item.
    """

    def __init__(
        self,
        kind: SamplerKind,
        counts: np.ndarray,
        num_negatives: int,
        *,
        power: float = 0.75,
        seed: int = 0,
    ) -> None:
        kinds = get_args(SamplerKind)
        require(kind in kinds, f"sampler: found {kind!r}, expected one of {', '.join(kinds)}")
        require(num_negatives >= 1, f"num_negatives: found {num_negatives}, expected >= 1")
        require(0 <= power < math.inf, f"power: found {power}, expected >= 0 and finite")
        self.num_candidates = len(counts) - NUM_RESERVED
        require(self.num_candidates >= 1, "counts: found no real item, expected at least one to sample from")
        self.kind, self.num_negatives, self.seed = kind, num_negatives, seed
        self._cumulative: np.ndarray | None = None
        if kind == "popularity":
            weights = np.maximum(counts[NUM_RESERVED:], 1).astype(np.float64) ** power
            self._cumulative = np.cumsum(weights / weights.sum())

    def prob(self, item_idx: np.ndarray) -> np.ndarray:
        """Return q, the probability of each real item in one draw, float64."""
        rank = np.asarray(item_idx, dtype=np.int64) - NUM_RESERVED
        if self.kind == "uniform":
            return np.full(rank.shape, 1.0 / self.num_candidates)
        if self.kind == "log_uniform":
            return np.log1p(1.0 / (rank + 1.0)) / math.log(self.num_candidates + 1.0)
        cumulative = self._table()
        before = np.where(rank > 0, cumulative[rank - 1], 0.0)
        return (cumulative[rank] - before) / cumulative[-1]

    def draw(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Return item_idx (N,) int64 and log_expected = ln(N q) (N,) float32 of one training step."""
        uniform = generator(self.seed, "negatives", step).random(self.num_negatives)
        if self.kind == "uniform":
            rank = np.floor(uniform * self.num_candidates)
        elif self.kind == "log_uniform":
            rank = np.floor(np.exp(uniform * math.log(self.num_candidates + 1.0))) - 1.0
        else:
            cumulative = self._table()
            rank = np.searchsorted(cumulative, uniform * cumulative[-1], side="right")
        rank = np.minimum(rank, self.num_candidates - 1).astype(np.int64)  # whatever exp and log round
        item_idx = rank + NUM_RESERVED
        return item_idx, np.log(self.num_negatives * self.prob(item_idx)).astype(np.float32)

    def _table(self) -> np.ndarray:
        assert self._cumulative is not None, "only popularity has a table"
        return self._cumulative
