"""How many items of a catalogue stand above a user's target, and which interest answers first; a block of
items at a time.

Shape suffixes: Q users, K interests, D vector, M items of a block.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

Block = tuple[np.ndarray, np.ndarray]
"""item_idx (M,) int64 and vectors (M, D) float32."""
_SCORES = 2**24
"""Scores that are in memory at once."""


@dataclass(frozen=True)
class Users:
    """Users as a model encodes them, with what was held out of each.

    Attributes:
        vectors: (Q, K, D) float32.
        active: (Q, K) bool.
        truth: per user the item_idx that are to be found.
        seen: per user the item_idx that are not given; empty where repeats are allowed.
    """

    vectors: np.ndarray
    active: np.ndarray
    truth: list[np.ndarray]
    seen: list[np.ndarray]

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True)
class Standing:
    """Per user (Q,) how many items score above the best target, and the interest that scores the first item
    best, -1 where there is none."""

    above: np.ndarray
    winners: np.ndarray


def scores_of(users: Users, vectors_MD: np.ndarray, rows: slice) -> np.ndarray:
    """Return the scores of some users' interests, (q, K, M), -inf for inactive ones."""
    scores = users.vectors[rows] @ vectors_MD.T
    return np.where(users.active[rows][:, :, None], scores, -np.inf)


def standing(users: Users, best_target: np.ndarray, blocks: Iterable[Block], num_items: int) -> Standing:
    """Return how the best target of each user stands among all items that the user may be given.

    Args:
        users: the users.
        best_target: (Q,) score of the best target, +inf where a user has none.
        blocks: the catalogue.
        num_items: rows of an item table.
    """
    above = np.zeros(len(users), np.int64)
    if not len(users):
        return Standing(above, above)
    top, winners = np.full(len(users), -np.inf), np.full(len(users), -1)
    place = np.full(num_items, -1)
    for item_idx, vectors in blocks:
        place[:] = -1
        place[np.clip(item_idx, 0, num_items - 1)] = np.arange(len(item_idx))
        step = max(1, _SCORES // max(1, users.vectors.shape[1] * len(item_idx)))
        for start in range(0, len(users), step):
            rows = slice(start, min(start + step, len(users)))
            scores = scores_of(users, vectors, rows)
            for number, row in enumerate(range(rows.start, rows.stop)):
                hidden = place[users.seen[row]]
                scores[number, :, hidden[hidden >= 0]] = -np.inf
            best = scores.max(axis=1)
            above[rows] += (best > best_target[rows, None]).sum(axis=1)
            first = best.argmax(axis=1)
            reached = best[np.arange(len(best)), first]
            better = reached > top[rows]
            own = scores[np.arange(len(best)), :, first].argmax(axis=1)
            winners[rows] = np.where(better, own, winners[rows])
            top[rows] = np.maximum(top[rows], reached)
    return Standing(above, winners)


def best_targets(users: Users, vectors_of: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the score of the best target of each user, (Q,), +inf where no target has a vector."""
    result = np.full(len(users), np.inf)
    for row, items in enumerate(users.truth):
        known = [vectors_of[item] for item in items.tolist() if item in vectors_of]
        if known:
            result[row] = scores_of(users, np.stack(known), slice(row, row + 1)).max()
    return result
