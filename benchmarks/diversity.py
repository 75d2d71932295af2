"""The controllable merge: lists of 50 out of 500 candidates for 6,040 users, the size of MovieLens 1M."""

import time

import numpy as np

USERS, DEPTH, K, NUM_ITEMS, NUM_CATEGORIES = 6040, 500, 50, 3416, 18


def ml1m_s() -> float:
    """Return the seconds of one weight with a cap, places in the categories included."""
    from raysys.retrieval.candidates import Candidates
    from raysys.retrieval.diversity import diversify

    random = np.random.default_rng(0)
    order = np.argsort(random.random((USERS, NUM_ITEMS), np.float32), axis=1)
    score = -np.sort(-random.standard_normal((USERS, DEPTH)).astype(np.float32), axis=1)
    found = Candidates(order[:, :DEPTH] + 2, score)
    categories = random.integers(0, NUM_CATEGORIES, NUM_ITEMS + 2)
    begin = time.perf_counter()
    diversify(found, categories, K, 0.25, 20)
    return time.perf_counter() - begin
