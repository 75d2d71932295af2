"""The losses of `raysys.nn.losses` in NumPy, one row and one candidate at a time, written from the papers.

A user is one vector, or several, of which the largest score counts for each item.
"""

import math

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def score(user, item_vectors, item, temperature):
    vectors = [user] if np.ndim(user) == 1 else user
    return max(float(np.dot(vector, item_vectors[item])) for vector in vectors) / temperature


def hard_weights(scores, counts, hardness):
    """Weights exp(b s_j) over their mean, in which candidate j stands for 1 / m_j items."""
    powers = [math.exp(hardness * s) for s in scores]
    mean = sum(p / m for p, m in zip(powers, counts, strict=True)) / sum(1.0 / m for m in counts)
    return [p / mean for p in powers]


def softmax(user, item_vectors, target, candidates, log_expected, temperature, hardness=0.0):
    """-ln of exp(s_t) / (exp(s_t) + sum over candidates j != t of h_j exp(s_j) / m_j)."""
    kept = [
        (score(user, item_vectors, j, temperature), math.exp(correction))
        for j, correction in zip(candidates, log_expected, strict=True)
        if j != target
    ]
    weights = [1.0] * len(kept)
    if hardness and kept:
        weights = hard_weights(*zip(*kept, strict=True), hardness)
    positive = score(user, item_vectors, target, temperature)
    top = max([positive, *(s for s, _ in kept)])
    total = math.exp(positive - top)
    for (s, m), h in zip(kept, weights, strict=True):
        total += h * math.exp(s - top) / m
    return math.log(total) + top - positive


def full_softmax(user, item_vectors, target, temperature, hardness=0.0):
    """-ln Pr(target) of one user among the real items, which are numbered from 2."""
    everything = range(2, len(item_vectors))
    return softmax(user, item_vectors, target, everything, [0.0] * len(everything), temperature, hardness)


def gbce(user, item_vectors, target, negatives, beta, temperature):
    """Petrov & Macdonald 2023: -(ln sigma(s_t)^beta + sum ln(1 - sigma(s_j))) / (1 + negatives)."""
    total, kept = math.log(sigmoid(score(user, item_vectors, target, temperature)) ** beta), 1
    for j in negatives:
        if j != target:
            total += math.log(sigmoid(-score(user, item_vectors, j, temperature)))  # without cancellation
            kept += 1
    return -total / kept


def bpr(user, item_vectors, target, negatives, temperature):
    """Rendle et al. 2009: mean over negatives of -ln sigma(s_t - s_j)."""
    terms = []
    for j in negatives:
        if j != target:
            margin = score(user, item_vectors, target, temperature) - score(
                user, item_vectors, j, temperature
            )
            terms.append(-math.log(sigmoid(margin)))
    return sum(terms) / len(terms) if terms else 0.0


def row_loss(name, user, item_vectors, target, batch, row, temperature, hardness=0.0):
    """The loss of that name of one target of a row, with the other arrays of the batch.

    The candidates of Yi et al. 2019 are the targets of the other rows, those of Bengio & Senecal 2008 the
    negatives, those of Yang et al. 2020 both; the positive is never corrected.
    """
    where = user, item_vectors, target
    if name == "full_softmax":
        return full_softmax(*where, temperature, hardness)
    negatives = batch["negatives"].tolist()
    if name == "gbce":
        return gbce(*where, negatives, float(batch["gbce_beta"]), temperature)
    if name == "bpr":
        return bpr(*where, negatives, temperature)
    candidates, log_expected = [], []
    if name in ("in_batch", "mixed"):
        candidates, log_expected = batch["target"].tolist(), batch["target_log_expected"].tolist()
        del candidates[row], log_expected[row]
    if name in ("sampled_softmax", "mixed"):
        candidates, log_expected = (
            [*candidates, *negatives],
            [*log_expected, *batch["log_expected"].tolist()],
        )
    return softmax(*where, candidates, log_expected, temperature, hardness)
