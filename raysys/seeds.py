"""Seeds: every random number in raysys starts from `derive_seed`, so a run is a function of one root seed."""

import hashlib

import numpy as np


def derive_seed(root: int, *labels: str | int) -> int:
    """Return a seed in [0, 2**63) that depends on the root seed and on every label, in order.

    Args:
        root: the seed of the run.
        labels: what the numbers are for, for example ("epoch", 3, "chunk", 0).
    Returns:
        A non-negative int below 2**63; the same on every machine, Python version and process.
    """
    text = "\x1f".join([str(int(root)), *(f"{type(label).__name__}:{label}" for label in labels)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def generator(root: int, *labels: str | int) -> np.random.Generator:
    """Return a NumPy generator seeded with `derive_seed(root, *labels)`."""
    return np.random.Generator(np.random.PCG64(derive_seed(root, *labels)))
