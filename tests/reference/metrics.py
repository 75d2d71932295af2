"""Retrieval metrics, merging and interest health as plain loops: the oracle of the vectorised ones."""

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
