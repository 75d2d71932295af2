"""MIND in NumPy, one user at a time and one sum at a time, written from the equations of arXiv:1904.08030.

Slow on purpose: no batches, no padding, no masks. A history is the list of its items, the oldest first.
"""

import math

import numpy as np


def squash(z):
    """|z|^2 / (1 + |z|^2) * z / |z|."""
    length = math.sqrt(sum(float(x) ** 2 for x in z))
    if length == 0.0:
        return np.zeros(len(z))
    return np.array([length**2 / (1.0 + length**2) * float(x) / length for x in z])


def num_active(n, num_interests):
    """max(1, min(K, log2 n)) with log2 rounded down: the largest k with 2^k <= n."""
    exponent = 0
    while 2 ** (exponent + 1) <= n:
        exponent += 1
    return max(1, min(num_interests, exponent))


def softmax(values):
    top = max(values)
    exponentials = [math.exp(value - top) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def route(behaviours, shared_map, start, rounds, num_capsules):
    """Algorithm 1: (interests, weights) of one user.

    `behaviours` are n vectors, `start` holds the starting logits b_ij as n rows.
    """
    n, dim = len(behaviours), shared_map.shape[1]
    mapped = [
        np.array([sum(e[a] * shared_map[a, d] for a in range(len(e))) for d in range(dim)])
        for e in behaviours
    ]
    logits = [[float(start[i][j]) for j in range(num_capsules)] for i in range(n)]
    interests = [np.zeros(dim) for _ in range(num_capsules)]
    weights = []
    for _ in range(rounds):
        weights = [softmax(logits[i]) for i in range(n)]
        for j in range(num_capsules):
            z = np.zeros(dim)
            for i in range(n):
                z = z + weights[i][j] * mapped[i]
            interests[j] = squash(z)
        for i in range(n):
            for j in range(num_capsules):
                logits[i][j] += float(np.dot(interests[j], mapped[i]))
    return np.array(interests), np.array(weights).reshape(n, num_capsules)


def label_aware(interests, target, power):
    """V_u softmax(pow(V_u^T e, p)), negative scores as zero; p = inf is the best interest."""
    scores = [float(np.dot(interest, target)) for interest in interests]
    if power == math.inf:
        weights = [1.0 if k == int(np.argmax(scores)) else 0.0 for k in range(len(scores))]
    else:
        weights = softmax([max(score, 0.0) ** power for score in scores])
    vector = sum(weight * interest for weight, interest in zip(weights, interests, strict=True))
    return vector, weights


def layers(vector, weights, biases):
    """ReLU layers, the last one linear."""
    for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        vector = weight @ vector + bias
        if layer < len(weights) - 1:
            vector = np.array([max(float(x), 0.0) for x in vector])
    return vector


def item_vector(item_idx, own, sides):
    """Mean of the item's embedding and of the embeddings of its features; padding values are left out.

    `sides` lists (kind, values per item, table or vector).
    """
    if item_idx == 0:
        return np.zeros(own.shape[1])
    parts = [own[item_idx]]
    for kind, values, table in sides:
        value = values[item_idx]
        if kind == "number":
            parts.append(float(value) * table)
        elif kind == "id":
            if value != 0:
                parts.append(table[value])
        else:
            real = [table[v] for v in value if v != 0]
            if real:
                parts.append(sum(real) / len(real))
    return sum(parts) / len(parts)


def full_softmax(user, item_vectors, target, temperature):
    """-ln Pr(target) of one user among the real items, which are numbered from 2."""
    scores = {j: float(np.dot(user, item_vectors[j])) / temperature for j in range(2, len(item_vectors))}
    top = max(scores.values())
    return top + math.log(sum(math.exp(s - top) for s in scores.values())) - scores[target]


def sampled_softmax(user, item_vectors, target, negatives, log_expected, temperature):
    """-s_t + ln(exp(s_t) + sum over j != t of exp(s_j - ln(N q_j)))."""
    positive = float(np.dot(user, item_vectors[target])) / temperature
    total = math.exp(positive)
    for j, correction in zip(negatives, log_expected, strict=True):
        if j != target:
            total += math.exp(float(np.dot(user, item_vectors[j])) / temperature - correction)
    return -positive + math.log(total)
