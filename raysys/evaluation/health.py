"""Interest health: whether a user's interests are several, differ from each other, and are all of use.

Shape suffixes: B batch, T history, K interests, D vector.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from raysys.errors import DataError
from raysys.retrieval.candidates import BoolArray, FloatArray, IntArray

Health = dict[str, float | list[float] | None]

_NORM_FLOOR = 1e-12
_SAME_DIRECTION = 0.95
_ONE_WINNER = 0.95
_UNIFORM = 0.99
_NO_SHARE = 0.01


@dataclass
class InterestHealth:
    """Totals over users; parts measured apart merge to the whole up to float64 rounding.

    Attributes:
        num_interests: K.
        users: users so far.
        active: active interests so far.
        pairs: pairs of active interests so far, and `cosine` the sum of their cosines.
        behaviours: behaviours of users with two or more active interests so far, and `entropy` the sum of
            theirs.
        win_counts: (K,) int64, how often each interest had the best score.
    """

    num_interests: int
    users: int = 0
    active: int = 0
    pairs: int = 0
    cosine: float = 0.0
    behaviours: int = 0
    entropy: float = 0.0
    win_counts: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __post_init__(self) -> None:
        if not len(self.win_counts):
            self.win_counts = np.zeros(self.num_interests, np.int64)

    def add(
        self,
        vectors_BKD: FloatArray,
        active_BK: BoolArray,
        couplings_BTK: FloatArray | None = None,
        history_BT: BoolArray | None = None,
        winners_B: IntArray | None = None,
    ) -> None:
        """Take in a block of users.

        Args:
            vectors_BKD: interest vectors; inactive ones are ignored.
            active_BK: which interests count.
            couplings_BTK: how much each behaviour belongs to each interest; None where the model cannot say.
            history_BT: True at real behaviours; needed with couplings.
            winners_B: the interest with the best score, as by `winning_interest`; -1 is left out.
        Raises:
            DataError: shapes that do not fit each other.
        """
        if vectors_BKD.shape[:2] != active_BK.shape or active_BK.shape[1] != self.num_interests:
            raise DataError(
                f"interests: vectors {vectors_BKD.shape}, active {active_BK.shape}; "
                f"expected (users, {self.num_interests}, dim) and (users, {self.num_interests})"
            )
        counts_B = active_BK.sum(axis=1)
        self.users += len(active_BK)
        self.active += int(counts_B.sum())
        self.pairs += int((counts_B * (counts_B - 1) // 2).sum())
        self.cosine += _sum_of_cosines(vectors_BKD, active_BK)
        if couplings_BTK is not None:
            if history_BT is None or couplings_BTK.shape != (*history_BT.shape, self.num_interests):
                raise DataError(f"couplings {couplings_BTK.shape}: expected the history's mask and interests")
            several_BT = history_BT & (counts_B > 1)[:, None]
            self.behaviours += int(several_BT.sum())
            self.entropy += _sum_of_entropies(couplings_BTK, active_BK, several_BT)
        if winners_B is not None:
            won = winners_B[winners_B >= 0]
            self.win_counts = self.win_counts + np.bincount(won, minlength=self.num_interests)

    def merge(self, other: "InterestHealth") -> "InterestHealth":
        """Return new totals of the users of both."""
        if self.num_interests != other.num_interests:
            raise DataError(
                f"health of {self.num_interests} and of {other.num_interests} interests do not merge"
            )
        return InterestHealth(
            self.num_interests,
            self.users + other.users,
            self.active + other.active,
            self.pairs + other.pairs,
            self.cosine + other.cosine,
            self.behaviours + other.behaviours,
            self.entropy + other.entropy,
            self.win_counts + other.win_counts,
        )

    def result(self) -> Health:
        """Return the figures of the report; None or [] for what no user could show, never NaN.

        Returns:
            active_mean: active interests per user.
            pairwise_cosine_mean: mean cosine over all pairs of active interests of a user; users with one
                have none.
            routing_entropy_mean: mean over behaviours of the entropy of their couplings, over log(active): 0
                is all to one interest, 1 is even. Users with one active interest are left out.
            wins: K shares, how often each interest had the best score; they sum to 1.
        """
        wins = int(self.win_counts.sum())
        return {
            "active_mean": self.active / self.users if self.users else None,
            "pairwise_cosine_mean": self.cosine / self.pairs if self.pairs else None,
            "routing_entropy_mean": self.entropy / self.behaviours if self.behaviours else None,
            "wins": [int(count) / wins for count in self.win_counts] if wins else [],
        }


def _sum_of_cosines(vectors_BKD: FloatArray, active_BK: BoolArray) -> float:
    vectors = np.where(active_BK[:, :, None], vectors_BKD, 0).astype(np.float64)
    lengths = np.sqrt((vectors**2).sum(axis=2, keepdims=True))
    unit = vectors / np.maximum(lengths, _NORM_FLOOR)
    # The squared length of a sum of unit vectors holds every pair twice, and every vector with itself once.
    together = (unit.sum(axis=1) ** 2).sum() - (unit**2).sum()
    return float(together / 2)


def _sum_of_entropies(couplings_BTK: FloatArray, active_BK: BoolArray, several_BT: BoolArray) -> float:
    weights = np.where(active_BK[:, None, :], couplings_BTK, 0).astype(np.float64)
    total = weights.sum(axis=2, keepdims=True)
    weights = weights / np.where(total > 0, total, 1)
    entropy = -(weights * np.log(np.where(weights > 0, weights, 1))).sum(axis=2)
    largest: NDArray[np.float64] = np.log(np.maximum(active_BK.sum(axis=1), 2))[:, None]
    return float((entropy / largest)[several_BT].sum())


def winning_interest(vectors_BKD: FloatArray, active_BK: BoolArray, items_BD: FloatArray) -> IntArray:
    """Return which active interest has the largest inner product with the item of each user.

    Args:
        vectors_BKD: interest vectors.
        active_BK: which interests count.
        items_BD: one item vector per user, such as that of its retrieved target or of its first candidate.
    Returns:
        (B,) int64; the first of equals, -1 for a user without an active interest.
    """
    scores = np.einsum("bkd,bd->bk", vectors_BKD, items_BD)
    best = np.where(active_BK, scores, -np.inf).argmax(axis=1)
    return np.where(active_BK.any(axis=1), best, -1).astype(np.int64)


def collapse_warning(result: Mapping[str, float | list[float] | None]) -> str | None:
    """Return one text that names every sign of collapsed interests and what to try, or None where all is
    well.

    Args:
        result: what `InterestHealth.result` returned; values that are None are not judged.
    """
    signs: list[str] = []
    wins = result.get("wins")
    several = isinstance(wins, list) and len(wins) > 1  # no wins: nothing was measured
    cosine, entropy = result.get("pairwise_cosine_mean"), result.get("routing_entropy_mean")
    if isinstance(cosine, float) and cosine > _SAME_DIRECTION:
        signs.append(
            f"interests of a user point the same way (mean cosine {cosine:.3f}): try a lower "
            "model.temperature, more model.routing_iterations or fewer model.num_interests"
        )
    if isinstance(entropy, float) and entropy > _UNIFORM:
        signs.append(
            f"all interests share every behaviour evenly (routing entropy {entropy:.3f}): routing has not "
            "told them apart; try more model.routing_iterations and longer training"
        )
    if several and isinstance(wins, list) and max(wins) > _ONE_WINNER:
        signs.append(
            f"interest {int(np.argmax(wins))} wins {max(wins):.0%} of the targets: the others do not learn; "
            "try fewer model.num_interests or a softer label-aware attention"
        )
    elif several and isinstance(wins, list) and min(wins) < _NO_SHARE / len(wins):
        unused = [i for i, share in enumerate(wins) if share < _NO_SHARE / len(wins)]
        signs.append(
            f"interests {', '.join(map(str, unused))} hardly ever win: try fewer model.num_interests"
        )
    active = result.get("active_mean")
    if several and isinstance(active, float) and math.isclose(active, 1.0, abs_tol=0.01):
        signs.append(
            "users have one active interest: histories are too short; try a longer model.history_length"
        )
    return "; ".join(signs) or None
