"""Item-based collaborative filtering written from its formulas, cell by cell, in plain loops."""

import math

import numpy as np

from raysys.data.interactions import Entries, Interactions

RESERVED = 2


def matrix(counts):
    """Return Interactions of an (items, users) array of counts."""
    users, items = np.nonzero(counts.T)
    number = counts.T[users, items]
    entries = Entries(
        users.astype(np.int32),
        items.astype(np.int32),
        number.astype(np.float64),
        number.astype(np.int32),
        np.zeros(len(users), np.int64),
    )
    return Interactions.build(entries, counts.shape[1], counts.shape[0])


def weights_of(counts, similarity, k1=1.2, b=0.75):
    """Return the (items, users) weights.

    Args:
        counts: (items, users) events; the first two items and users are the reserved ones.
    """
    num_items, num_users = counts.shape
    real = num_items - RESERVED
    lengths = [sum(counts[i]) for i in range(num_items)]
    mean = sum(lengths[RESERVED:]) / real
    weights = np.zeros(counts.shape)
    for u in range(num_users):
        distinct = sum(counts[i][u] > 0 for i in range(num_items))
        idf = math.log(real / (1 + distinct))
        for i in range(num_items):
            r = float(counts[i][u])
            if r == 0:
                continue
            if similarity == "cosine":
                weights[i, u] = r
            elif similarity == "tf_idf":
                weights[i, u] = math.sqrt(r) * idf
            else:
                weights[i, u] = idf * r * (k1 + 1) / (r + k1 * (1 - b + b * lengths[i] / mean))
    if similarity != "bm25":
        for i in range(num_items):
            length = math.sqrt(sum(w * w for w in weights[i]))
            if length > 0:
                weights[i] /= length
    return weights


def similarities_of(counts, similarity, k1=1.2, b=0.75):
    """Return (items, items) float64; an item's own is 1 under the cosines."""
    weights = weights_of(counts, similarity, k1, b)
    num_items = len(weights)
    result = np.zeros((num_items, num_items))
    for i in range(RESERVED, num_items):
        for j in range(RESERVED, num_items):
            result[i, j] = sum(a * c for a, c in zip(weights[i], weights[j], strict=True))
        if similarity != "bm25":
            result[i, i] = 1.0
    return result


def scores_of(table, history, decay):
    """Return item -> score of a history, oldest first.

    Args:
        table: item -> {neighbour: similarity}.
        history: item_idx.
        decay: weight per event counted back.
    """
    scores = {}
    for back, seed in enumerate(reversed(history)):
        for item, similarity in table.get(seed, {}).items():
            scores[item] = scores.get(item, 0.0) + decay**back * similarity
    return scores
