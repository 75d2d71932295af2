"""The controllable merge of ComiRec as plain loops, from algorithm 2 of the paper (arXiv:2005.09347)."""

import itertools
import math
from collections.abc import Sequence

Row = Sequence[tuple[int, float]]


def greedy(row: Row, category: Sequence[int], k: int, weight: float, cap: int | None) -> list[int]:
    """Take the item with the largest gain k times, ties by item; a category at its cap is passed over."""
    chosen: list[int] = []
    left = dict(row)
    while len(chosen) < k:
        gains = {
            item: score + weight * sum(category[item] != category[other] for other in chosen)
            for item, score in left.items()
            if cap is None or sum(category[item] == category[other] for other in chosen) < cap
        }
        if not gains:
            break
        best = min(gains, key=lambda item: (-gains[item], item))
        chosen.append(best)
        del left[best]
    return chosen


def value(items: Sequence[int], score: dict[int, float], category: Sequence[int], weight: float) -> float:
    """Q(u, S): the scores, and the weight for every pair of different categories."""
    pairs = itertools.combinations(items, 2)
    return sum(score[i] for i in items) + weight * sum(category[i] != category[j] for i, j in pairs)


def diversity(items: Sequence[int], category: Sequence[int]) -> float:
    """The share of pairs of different categories; NaN without a pair."""
    pairs = [category[i] != category[j] for i, j in itertools.combinations(items, 2)]
    return sum(pairs) / len(pairs) if pairs else math.nan
