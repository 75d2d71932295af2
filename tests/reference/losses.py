"""The losses of `raysys.nn.losses` in NumPy, one row and one candidate at a time, written from the papers."""

import math

import numpy as np


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def score(user, item_vectors, item, temperature):
    return float(np.dot(user, item_vectors[item])) / temperature


def in_batch(user, item_vectors, target, others, log_expected, temperature):
    """Yi et al. 2019 with the positive left alone; `others` are the targets of the other rows."""
    total = math.exp(score(user, item_vectors, target, temperature))
    for j, correction in zip(others, log_expected, strict=True):
        if j != target:
            total += math.exp(score(user, item_vectors, j, temperature)) / math.exp(correction)
    return math.log(total) - score(user, item_vectors, target, temperature)


def mixed(user, item_vectors, target, others, others_expected, negatives, expected, temperature):
    """Yang et al. 2020: candidates of both kinds in one sum."""
    both = [*others, *negatives], [*others_expected, *expected]
    return in_batch(user, item_vectors, target, *both, temperature)


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
