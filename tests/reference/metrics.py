"""Retrieval metrics, merging and interest health as plain loops: the oracle of the vectorised ones."""

import itertools
import math
from collections.abc import Sequence

Row = Sequence[tuple[int, float]]


def hits(ranked: Sequence[int], relevant: set[int], k: int) -> list[int]:
    """The ranks, from 1, of the relevant items among the first k; -1 is no item."""
    return [rank for rank, item in enumerate(ranked[:k], start=1) if item != -1 and item in relevant]


def hit_rate(ranked: Sequence[int], relevant: set[int], k: int) -> float:
    return math.nan if not relevant else float(bool(hits(ranked, relevant, k)))


def recall(ranked: Sequence[int], relevant: set[int], k: int) -> float:
    return math.nan if not relevant else len(hits(ranked, relevant, k)) / len(relevant)


def precision(ranked: Sequence[int], relevant: set[int], k: int) -> float:
    return math.nan if not relevant else len(hits(ranked, relevant, k)) / k


def ndcg(ranked: Sequence[int], relevant: set[int], k: int) -> float:
    if not relevant:
        return math.nan
    gain = sum(1 / math.log2(rank + 1) for rank in hits(ranked, relevant, k))
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(len(relevant), k) + 1))
    return gain / ideal


def mrr(ranked: Sequence[int], relevant: set[int], k: int) -> float:
    if not relevant:
        return math.nan
    found = hits(ranked, relevant, k)
    return 1 / found[0] if found else 0.0


def average_precision(ranked: Sequence[int], relevant: set[int], k: int) -> float:
    if not relevant:
        return math.nan
    found = hits(ranked, relevant, k)
    return sum((i + 1) / rank for i, rank in enumerate(found)) / min(len(relevant), k)


REFERENCE = {
    "hit_rate": hit_rate,
    "recall": recall,
    "precision": precision,
    "ndcg": ndcg,
    "mrr": mrr,
    "map": average_precision,
}


def best_of(entries: Row, k: int) -> list[tuple[int, float]]:
    """The best k of (item, score) entries: one per item, score down, item up; item -1 is missing."""
    best: dict[int, float] = {}
    for item, score in entries:
        if item >= 0:
            best[item] = max(score, best.get(item, -math.inf))
    return sorted(best.items(), key=lambda entry: (-entry[1], entry[0]))[:k]


def without(entries: Row, seen: set[int], k: int) -> list[tuple[int, float]]:
    """The first k entries whose item is neither missing nor seen."""
    return [(item, score) for item, score in entries if item >= 0 and item not in seen][:k]


def mean_cosine(vectors: Sequence[Sequence[Sequence[float]]], active: Sequence[Sequence[bool]]) -> float:
    """The mean cosine over all pairs of active vectors of one user, over all users."""
    cosines: list[float] = []
    for rows, marks in zip(vectors, active, strict=True):
        kept = [row for row, mark in zip(rows, marks, strict=True) if mark]
        for i in range(len(kept)):
            for j in range(i + 1, len(kept)):
                dot = sum(a * b for a, b in zip(kept[i], kept[j], strict=True))
                cosines.append(dot / math.sqrt(sum(a * a for a in kept[i]) * sum(b * b for b in kept[j])))
    return sum(cosines) / len(cosines)


def mean_entropy(
    couplings: Sequence[Sequence[Sequence[float]]],
    active: Sequence[Sequence[bool]],
    mask: Sequence[Sequence[bool]],
) -> float:
    """The mean entropy of real behaviours over log(active), over users with two or more active interests."""
    entropies: list[float] = []
    for rows, marks, real in zip(couplings, active, mask, strict=True):
        count = sum(marks)
        for weights, is_real in zip(rows, real, strict=True):
            if count > 1 and is_real:
                kept = [w for w, mark in zip(weights, marks, strict=True) if mark and w > 0]
                entropies.append(-sum(w * math.log(w) for w in kept) / math.log(count))
    return sum(entropies) / len(entropies)


def by_interests(
    alone: Sequence[Row], orders: Sequence[Sequence[int]], truths: Sequence[Sequence[int]], k: int
) -> tuple[list[float], list[float]]:
    """Mean hit rate and recall at k of users with a truth, when their first 1, 2, ... interests answer.

    `alone` holds the (item, score) entries of each interest, the interests of a user one after the other.
    """
    count = len(orders[0])
    hits: list[list[float]] = [[] for _ in range(count)]
    recalls: list[list[float]] = [[] for _ in range(count)]
    for user, (order, truth) in enumerate(zip(orders, truths, strict=True)):
        for first in range(1, count + 1):
            entries = [pair for place in order[:first] for pair in alone[user * count + place][:k]]
            ranked = [item for item, _ in best_of(entries, k)]
            if truth:
                hits[first - 1].append(hit_rate(ranked, set(truth), k))
                recalls[first - 1].append(recall(ranked, set(truth), k))
    return [sum(values) / len(values) for values in hits], [sum(values) / len(values) for values in recalls]


def novelty(ranked: Sequence[int], counts: Sequence[int], k: int) -> float:
    """The mean of -log2(events of the item / all events) over the items of a list; no event counts as one."""
    found = [item for item in ranked[:k] if item != -1]
    if not found:
        return math.nan
    return sum(-math.log2(max(counts[item], 1) / sum(counts)) for item in found) / len(found)


def popularity_bias(ranked: Sequence[int], counts: Sequence[int], history: set[int], k: int) -> float:
    """The average count of the items of a list over that of the items of the history."""
    found = [item for item in ranked[:k] if item != -1]
    own = sum(counts[item] for item in history)
    if not found or not own:
        return math.nan
    return (sum(counts[item] for item in found) / len(found)) / (own / len(history))


def intra_list_diversity(ranked: Sequence[int], features: Sequence[Sequence[Sequence[int]]], k: int) -> float:
    """1 - the mean over pairs of places of the mean over features of the cosine of the two sets of values.

    `features[feature][item]` holds the values; 0 and 1 are none.
    """
    found = [item for item in ranked[:k] if item != -1]
    pairs = [(a, b) for i, a in enumerate(found) for b in found[i + 1 :]]
    if not pairs:
        return math.nan
    similar = 0.0
    for a, b in pairs:
        for values in features:
            left, right = ({value for value in values[item] if value > 1} for item in (a, b))
            if left and right:
                similar += len(left & right) / math.sqrt(len(left) * len(right)) / len(features)
    return 1 - similar / len(pairs)


def gini(lists: Sequence[Sequence[int]], items: Sequence[int], k: int) -> float:
    """Half the mean absolute difference of all ordered pairs of two items' shares of the places, times N."""
    times = [sum(item in ranked[:k] for ranked in lists) for item in items]
    if not sum(times) or len(items) < 2:
        return 0.0
    apart = sum(abs(a - b) for a in times for b in times) / (len(items) * (len(items) - 1))
    return apart / 2 / (sum(times) / len(items))


def sign_flip_p(differences: Sequence[float]) -> float:
    """The share of all 2^n choices of signs whose sum is as far from 0 as the sum of the differences."""
    total = abs(sum(differences))
    sums = [abs(sum(signs)) for signs in itertools.product(*((d, -d) for d in differences))]
    return sum(value >= total - 1e-12 for value in sums) / len(sums)
