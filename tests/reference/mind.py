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


def mapped(behaviours, shared_map):
    """S e of every behaviour."""
    return [
        np.array([sum(e[a] * shared_map[a, d] for a in range(len(e))) for d in range(shared_map.shape[1])])
        for e in behaviours
    ]


def route(behaviours, shared_map, start, rounds, num_capsules, factors=None, squash_last=True):
    """Algorithm 1: (interests, weights) of one user.

    `behaviours` are n vectors, `start` holds the starting logits b_ij as n rows. `factors`, n rows too, say
    how much more behaviour i adds to interest j, in every round; without `squash_last` the last round's
    sums are the interests.
    """
    n, dim = len(behaviours), shared_map.shape[1]
    vectors = mapped(behaviours, shared_map)
    logits = [[float(start[i][j]) for j in range(num_capsules)] for i in range(n)]
    interests = [np.zeros(dim) for _ in range(num_capsules)]
    weights = []
    for turn in range(rounds):
        weights = [softmax(logits[i]) for i in range(n)]
        for j in range(num_capsules):
            z = np.zeros(dim)
            for i in range(n):
                z = z + weights[i][j] * (1.0 if factors is None else factors[i][j]) * vectors[i]
            interests[j] = squash(z) if squash_last or turn < rounds - 1 else z
        for i in range(n):
            for j in range(num_capsules):
                logits[i][j] += float(np.dot(interests[j], vectors[i]))
    return np.array(interests), np.array(weights).reshape(n, num_capsules)


def farthest_points(vectors, num_seeds):
    """Cosines of n vectors with seeds among them, as n rows.

    The first seed is the last vector, each further one the vector whose nearest seed is the farthest, the
    first of equals; a vector that points where a seed does has distance 0, however often it occurs.
    """

    def cosine(a, b):
        lengths = math.sqrt(float(np.dot(a, a))) * math.sqrt(float(np.dot(b, b)))
        return float(np.dot(a, b)) / lengths if lengths else 0.0

    seeds = [len(vectors) - 1]
    while len(seeds) < num_seeds:
        nearest = [max(cosine(vector, vectors[seed]) for seed in seeds) for vector in vectors]
        nearest = [1.0 if value > 1.0 - 1e-7 else value for value in nearest]
        seeds.append(nearest.index(min(nearest)))
    return [[cosine(vector, vectors[seed]) for seed in seeds] for vector in vectors]


def positions(ages, num_interests, sigma):
    """Starting logits of behaviours that came so many places before the latest one."""
    return [[sigma if j == age % num_interests else 0.0 for j in range(num_interests)] for age in ages]


def gap_age(seconds):
    """floor(log2(1 + seconds)): the largest a with 2^a <= 1 + seconds."""
    age = 0
    while 2 ** (age + 1) <= 1 + seconds:
        age += 1
    return age


def gate(interest, weight, bias):
    """sigmoid(w . u / sqrt(D) + b)."""
    return 1.0 / (1.0 + math.exp(-float(np.dot(interest, weight)) / math.sqrt(len(weight)) - bias))


def variance(weights):
    """Variance of each column over the n rows, summed over the columns; 0 without rows."""
    total = 0.0
    for column in np.transpose(weights):
        mean = sum(column) / len(column) if len(column) else 0.0
        total += sum((w - mean) ** 2 for w in column) / max(len(column), 1)
    return total


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
