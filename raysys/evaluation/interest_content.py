"""What the interests retrieve: which items and categories, how many different ones, and for how many users.

Interests of one place over all users are taken together: interest 1 of everybody, interest 2 of everybody.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raysys.errors import RetrievalError
from raysys.retrieval.candidates import BoolArray, Candidates, IntArray

_HALF = 32
_SHOWN_ITEMS = 5


def _no_places() -> IntArray:
    return np.zeros(0, np.int64)


@dataclass
class InterestContent:
    """Totals over users; parts counted apart merge to exactly the whole.

    Attributes:
        num_interests: K.
        cutoff: how many items of each interest's own list are looked at.
        users: (K,) int64, users in whom an interest is active.
        keys: (P,) int64 rising, interest * 2**32 + item_idx of what was retrieved, and `counts` in how many
            lists it stands. P is at most K times the items of the catalogue.
    """

    num_interests: int
    cutoff: int
    users: IntArray
    keys: IntArray = field(default_factory=_no_places)
    counts: IntArray = field(default_factory=_no_places)

    @staticmethod
    def of(active: BoolArray, alone: Candidates) -> "InterestContent":
        """Return the totals of a block of users.

        Args:
            active: (Q, K) bool.
            alone: (Q * K, cutoff), what each interest finds by itself; missing for inactive ones.
        Raises:
            RetrievalError: lists that do not fit the interests.
        """
        if alone.num_queries != active.size:
            raise RetrievalError(f"{alone.num_queries} lists of interests for active {active.shape}")
        interest = np.tile(np.arange(active.shape[1]), len(active))[:, None]
        keys = ((interest << _HALF) | alone.item_idx)[alone.item_idx >= 0]
        found, counts = np.unique(keys, return_counts=True)
        return InterestContent(
            active.shape[1], alone.k, active.sum(axis=0, dtype=np.int64), found, counts.astype(np.int64)
        )

    def merge(self, other: "InterestContent") -> "InterestContent":
        """Return the totals of the users of both; RetrievalError for other interests or cut-offs."""
        mine, theirs = (self.num_interests, self.cutoff), (other.num_interests, other.cutoff)
        if mine != theirs:
            raise RetrievalError(f"interests and cut-off {mine} and {theirs} cannot be added up")
        both = np.concatenate([self.keys, other.keys])
        keys, place = np.unique(both, return_inverse=True)
        counts = np.zeros(len(keys), np.int64)
        np.add.at(counts, place, np.concatenate([self.counts, other.counts]))
        return InterestContent(*mine, self.users + other.users, keys, counts)

    def of_interest(self, interest: int) -> tuple[IntArray, IntArray]:
        """Return the item_idx that an interest retrieves, the most frequent first, and in how many lists each
        stands; ties by item_idx."""
        start, stop = np.searchsorted(self.keys, [interest << _HALF, (interest + 1) << _HALF])
        items, counts = self.keys[start:stop] & (2**_HALF - 1), self.counts[start:stop]
        order = np.argsort(-counts, kind="stable")
        return items[order], counts[order]

    def result(self, categories: NDArray[np.integer], names: Sequence[str]) -> list[dict[str, Any]]:
        """Return one table per interest: `users`, `items` (different ones), `categories` (name -> share of
        its places, the shares of all add up to 1), `top` (pairs of item_idx and share of its lists).

        Args:
            categories: (num_items, L) by item_idx, padded with 0; an item of several counts in equal parts.
            names: of the values of a category.
        """
        told: list[dict[str, Any]] = []
        for interest in range(self.num_interests):
            items, counts = self.of_interest(interest)
            lists = max(1, int(self.users[interest]))
            told.append(
                {
                    "users": int(self.users[interest]),
                    "items": len(items),
                    "categories": category_shares(categories[items], counts, names),
                    "top": [
                        (int(item), count / lists)
                        for item, count in zip(items[:_SHOWN_ITEMS], counts[:_SHOWN_ITEMS], strict=True)
                    ],
                }
            )
        return told


def category_shares(
    categories: NDArray[np.integer], weights: NDArray[np.integer], names: Sequence[str]
) -> dict[str, float]:
    """Return name -> share of the weight, the largest first, without those that have none.

    Args:
        categories: (N, L) values of N items, padded with 0; an item of several counts in equal parts, and
            one of none under names[0].
        weights: (N,).
        names: of the values.
    """
    real = categories > 0
    real[:, 0] |= ~real.any(axis=1)
    share = np.where(real, weights[:, None] / real.sum(axis=1, keepdims=True), 0.0)
    totals = np.bincount(categories.ravel(), share.ravel(), minlength=len(names))
    whole = totals.sum()
    order = np.argsort(-totals, kind="stable")
    return {names[int(place)]: float(totals[place] / whole) for place in order if totals[place] > 0}
