"""Interest health: whether a user's interests are several, differ from each other, and are all of use.

Shape suffixes: B batch, T history, K interests, D vector.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from raysys.errors import DataError
from raysys.evaluation.metrics import Truth, ValueArray, hit_rate, recall
from raysys.retrieval.candidates import BoolArray, Candidates, FloatArray, IntArray, fold_in_order

Health = dict[str, float | list[float] | None]

_NORM_FLOOR = 1e-12
_SAME_DIRECTION = 0.95
_ONE_WINNER = 0.95
_UNIFORM = 0.99
_NO_SHARE = 0.01
_ONE_INTEREST = 1.01
_MASS_DECIMALS = 4
_CURVE = {
    "active_mean": "health/active",
    "pairwise_cosine_mean": "health/pairwise_cosine",
    "routing_entropy_mean": "health/routing_entropy",
}
_CURVE_LISTS = {"wins": "health/wins_", "recall_by_interests": "health/recall_with_"}


@dataclass
class InterestHealth:
    """Totals over users; parts measured apart merge to the whole up to float64 rounding.

    Attributes:
        num_interests: K.
        cutoff: how many items are looked at when only the first interests answer; 0 where nobody asked.
        users: users so far.
        active: active interests so far.
        pairs: pairs of active interests so far, and `cosine` the sum of their cosines.
        behaviours: behaviours of users with two or more active interests so far, and `entropy` the sum of
            theirs.
        win_counts: (K,) int64, how often each interest had the best score.
        judged: users with something held out so far.
        hits: (K,) float64, the sum of their hit rates when only the first 1 to K interests answer, and
            `recalls` of their recalls.
    """

    num_interests: int
    cutoff: int = 0
    users: int = 0
    active: int = 0
    pairs: int = 0
    cosine: float = 0.0
    behaviours: int = 0
    entropy: float = 0.0
    win_counts: IntArray = field(default_factory=lambda: np.zeros(0, np.int64))
    judged: int = 0
    hits: ValueArray = field(default_factory=lambda: np.zeros(0))
    recalls: ValueArray = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.win_counts):
            self.win_counts = np.zeros(self.num_interests, np.int64)
        if not len(self.hits):
            self.hits, self.recalls = np.zeros(self.num_interests), np.zeros(self.num_interests)

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

    def add_answers(self, alone: Candidates, order_BK: IntArray, truth: Truth) -> None:
        """Take in what the interests of a block of users retrieve, one interest after the other.

        Args:
            alone: (B * K, at least cutoff) rows: what each interest finds by itself, the K of a user one
                after the other; all missing for an inactive one.
            order_BK: the order in which a user's interests join, as by `interest_order`.
            truth: the held-out items of each user; users without any are left out.
        Raises:
            DataError: an order of another number of interests, or no cut-off.
            RetrievalError: rows that do not fit.
        """
        if order_BK.shape[1] != self.num_interests or self.cutoff < 1:
            raise DataError(
                f"answers of {order_BK.shape[1]} interests at {self.cutoff}; expected "
                f"{self.num_interests} and a cut-off from 1 up"
            )
        for place, answer in enumerate(fold_in_order(alone.top(self.cutoff), order_BK)):
            hit = hit_rate(answer, truth, self.cutoff)
            self.hits[place] += float(np.nansum(hit))
            self.recalls[place] += float(np.nansum(recall(answer, truth, self.cutoff)))
            if place == 0:
                self.judged += int((~np.isnan(hit)).sum())

    def merge(self, other: "InterestHealth") -> "InterestHealth":
        """Return new totals of the users of both."""
        if (self.num_interests, self.cutoff) != (other.num_interests, other.cutoff):
            raise DataError(
                f"health of {self.num_interests} interests at {self.cutoff} and of {other.num_interests} at "
                f"{other.cutoff} do not merge"
            )
        sums = [a + b for a, b in zip(self.sums(), other.sums(), strict=True)]
        return InterestHealth.of_sums(self.num_interests, self.cutoff, sums)

    def sums(self) -> list[float]:
        """Return all totals as 7 + 3 K numbers; those of several parts are added up one by one."""
        single = (self.users, self.active, self.pairs, self.cosine, self.behaviours, self.entropy)
        return [*map(float, single), *map(float, self.win_counts), float(self.judged),
                *map(float, self.hits), *map(float, self.recalls)]  # fmt: skip

    @staticmethod
    def of_sums(num_interests: int, cutoff: int, sums: Sequence[float]) -> "InterestHealth":
        """Return the totals that `sums` gave, or that sums of such lists give."""
        users, active, pairs, cosine, behaviours, entropy, *rest = sums
        wins, judged, found = rest[:num_interests], rest[num_interests], rest[num_interests + 1 :]
        return InterestHealth(
            num_interests,
            cutoff,
            users=int(users),
            active=int(active),
            pairs=int(pairs),
            cosine=cosine,
            behaviours=int(behaviours),
            entropy=entropy,
            win_counts=np.array(wins, np.int64),
            judged=int(judged),
            hits=np.array(found[:num_interests], np.float64),
            recalls=np.array(found[num_interests:], np.float64),
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
            users: users measured.
            cutoff: items looked at in the next two; 0 where these were not measured.
            recall_by_interests: K means, recall when only the first 1 to K interests of a user answer, by
                `interest_order`; the last is the recall of all. What interest k + 1 gains is the difference
                of its entry and the one before.
            hit_rate_by_interests: the same of the hit rate.
        """
        wins = int(self.win_counts.sum())
        return {
            "active_mean": self.active / self.users if self.users else None,
            "pairwise_cosine_mean": self.cosine / self.pairs if self.pairs else None,
            "routing_entropy_mean": self.entropy / self.behaviours if self.behaviours else None,
            "wins": [int(count) / wins for count in self.win_counts] if wins else [],
            "users": self.users,
            "cutoff": self.cutoff,
            "recall_by_interests": [float(x) / self.judged for x in self.recalls] if self.judged else [],
            "hit_rate_by_interests": [float(x) / self.judged for x in self.hits] if self.judged else [],
        }


def to_curve(result: Health) -> dict[str, float]:
    """Return a health as scalars of a learning curve, interests numbered from 1; what is None is left out.

    Args:
        result: what `InterestHealth.result` returned.
    Returns:
        `health/active`, `health/pairwise_cosine`, `health/routing_entropy`, `health/wins_1` to K, and
        `health/recall_with_1` to K, recall when that many interests answer.
    """
    entry: dict[str, float] = {}
    for name, key in _CURVE.items():
        value = result.get(name)
        if isinstance(value, int | float):
            entry[key] = float(value)
    for name, prefix in _CURVE_LISTS.items():
        values = result.get(name)
        if isinstance(values, list):
            entry.update({f"{prefix}{place}": value for place, value in enumerate(values, 1)})
    return entry


def of_curve(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the health that an entry of a learning curve holds; empty where it holds none."""
    result: dict[str, Any] = {name: entry[key] for name, key in _CURVE.items() if key in entry}
    for name, prefix in _CURVE_LISTS.items():
        count = sum(key.startswith(prefix) for key in entry)
        if count:
            result[name] = [entry[f"{prefix}{place}"] for place in range(1, count + 1)]
    return result


def interest_order(couplings_BTK: FloatArray, history_BT: BoolArray, active_BK: BoolArray) -> IntArray:
    """Return the interests of each user by how many behaviours they hold, most first: (B, K) int64.

    The order knows nothing of what is held out. An interest holds the sum of its couplings; equal ones, up to
    rounding, are ordered by number, and inactive ones come last.

    Args:
        couplings_BTK: how much each behaviour belongs to each interest.
        history_BT: True at real behaviours.
        active_BK: which interests count.
    """
    held = np.where(history_BT[:, :, None], couplings_BTK, 0).sum(axis=1, dtype=np.float64)
    key = np.where(active_BK, -np.round(held, _MASS_DECIMALS), np.inf)
    return np.argsort(key, axis=1, kind="stable").astype(np.int64)


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


class Sign(NamedTuple):
    """A sign of collapsed interests: what is seen, and what to try, a sentence's worth each."""

    seen: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.seen}: {self.remedy}"


def collapse_signs(result: Mapping[str, Any]) -> dict[str, Sign]:
    """Return every sign of collapsed interests by a short name.

    Args:
        result: what `InterestHealth.result` returned; values that are None are not judged.
    """
    wins: list[float] = result.get("wins") or []
    if len(wins) < 2:  # one interest, or nothing was measured
        return {}
    active = result.get("active_mean")
    if active is not None and active <= _ONE_INTEREST:
        # one interest wins and the others never do, but for this reason; no other sign says more
        return {
            "one_active": Sign(
                f"users have {active:.2f} active interests, as histories are too short for more",
                "try model.adaptive_interests = false, a longer model.history_length or "
                "model.num_interests = 1",
            )
        }
    signs: dict[str, Sign] = {}
    cosine, entropy = result.get("pairwise_cosine_mean"), result.get("routing_entropy_mean")
    if cosine is not None and cosine > _SAME_DIRECTION:
        signs["same_direction"] = Sign(
            f"interests of a user point the same way (mean cosine {cosine:.3f})",
            'try model.routing_start = "farthest_point", more model.routing_iterations, a lower '
            "model.temperature or fewer model.num_interests",
        )
    if entropy is not None and entropy > _UNIFORM:
        signs["even_routing"] = Sign(
            f"routing shares every behaviour evenly among the interests (entropy {entropy:.3f})",
            "try model.routing_regularisation above 0, more model.routing_iterations or more training.epochs",
        )
    idle = [place for place, share in enumerate(wins, 1) if share < _NO_SHARE / len(wins)]
    if max(wins) > _ONE_WINNER:
        signs["one_winner"] = Sign(
            f"interest {int(np.argmax(wins)) + 1} finds the first item of {max(wins):.0%} of the users, so "
            "the others hardly learn",
            "try a finite model.label_power, model.routing_regularisation above 0 or fewer "
            "model.num_interests",
        )
    elif idle:
        names = f"{'interest' if len(idle) == 1 else 'interests'} {', '.join(map(str, idle))}"
        signs["idle"] = Sign(
            f"{names} hardly ever {'finds' if len(idle) == 1 else 'find'} the first item of a user",
            'try model.routing_start = "farthest_point" or fewer model.num_interests',
        )
    return signs


def collapse_warning(result: Mapping[str, Any]) -> str | None:
    """Return one text that names every sign of collapsed interests and what to try, or None where all is
    well.

    Args:
        result: as of `collapse_signs`.
    """
    return "; ".join(map(str, collapse_signs(result).values())) or None


def alarm(before: Mapping[str, Any], now: Mapping[str, Any]) -> tuple[bool, str]:
    """Return whether interests are collapsed, and what to say of it after another validation.

    The text is "" where the signs are those of the validation before, so that an alarm is heard when it
    begins, changes and ends, and not at every validation between.

    Args:
        before, now: healths as of `collapse_signs`; empty before the first validation.
    """
    old, new = collapse_signs(before), collapse_signs(now)
    if new.keys() == old.keys():
        return bool(new), ""
    if not new:
        return False, f"no longer collapsed ({', '.join(old)})"
    return True, "; ".join(map(str, new.values()))
