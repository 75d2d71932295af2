"""A small catalog with every kind of feature, and batches over it, for tests of models."""

import numpy as np
import torch

from raysys.catalog import Catalog
from raysys.schema import Feature

NUM_ITEMS = 24


def small_catalog(num_items=NUM_ITEMS, features=True):
    """Return a catalog whose items and users have an id, an id_list and a number; some values are padding."""
    rng = np.random.default_rng(7)
    counts = np.sort(rng.integers(1, 90, num_items))[::-1].astype(np.int64)
    counts[-1] = 0
    counts = np.concatenate([[0, 0], counts[:-2]])
    if not features:
        return Catalog(num_items=num_items, num_users=9, item_counts=counts)
    tags = rng.integers(0, 6, (num_items, 3)).astype(np.int32)
    tags[4] = 0
    values = {
        "cate": rng.integers(0, 5, num_items).astype(np.int32),
        "tags": tags,
        "price.usd": rng.normal(size=num_items).astype(np.float32),
    }
    for value in values.values():
        value[0] = 0
    return Catalog(
        num_items=num_items,
        num_users=9,
        item_counts=counts,
        item_features=(
            Feature(name="cate", entity="item", kind="id", size=5),
            Feature(name="tags", entity="item", kind="id_list", length=3, size=6),
            Feature(name="price.usd", entity="item", kind="number"),
        ),
        item_values=values,
        user_features=(
            Feature(name="age", entity="user", kind="id", size=4),
            Feature(name="likes", entity="user", kind="id_list", length=2, size=5),
            Feature(name="income", entity="user", kind="number"),
        ),
        event_features=(Feature(name="store", entity="event", kind="id", size=6),),
    )


LENGTHS = (0, 1, 2, 3, 5, 9)
"""History lengths of `small_batch`, row by row."""


def small_batch(num_items=NUM_ITEMS, lengths=LENGTHS, width=9, num_negatives=11, seed=3):
    """Return a training batch with left-padded histories of the given lengths; one holds an unknown item."""
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    history = np.zeros((rows, width), dtype=np.int64)
    for row, length in enumerate(lengths):
        history[row, width - length :] = rng.integers(2, num_items, length)
    history[-1, -2] = 1
    arrays = {
        "history": history,
        "target": rng.integers(2, num_items, rows),
        "negatives": rng.integers(2, num_items, num_negatives),
        "log_expected": np.log(rng.uniform(0.2, 2.0, num_negatives)).astype(np.float32),
        "profile_age": rng.integers(0, 4, rows),
        "profile_likes": rng.integers(0, 5, (rows, 2)),
        "profile_income": rng.normal(size=rows).astype(np.float32),
        "target_log_expected": np.log(rng.uniform(0.2, 2.0, rows)).astype(np.float32),
        "gbce_beta": np.array(0.4, dtype=np.float32),
    }
    # from seconds to months between events; the last one is that of the user's latest event
    gaps = np.floor(2.0 ** rng.uniform(0, 22, history.shape)).astype(np.int64)
    arrays["history_at"] = np.where(history > 0, 1_600_000_000 - gaps[:, ::-1].cumsum(1)[:, ::-1], 0)
    arrays |= short_and_long(history, rng)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def short_and_long(history, rng):
    """Return the last four items as the session with a store each, and the sets of what came before."""
    arrays = {"short": history[:, -4:].copy()}
    arrays["short_store"] = np.where(arrays["short"] > 0, rng.integers(1, 6, arrays["short"].shape), 0)
    for name, size in (("item", None), ("cate", 5), ("event_store", 6)):
        sets = np.zeros((len(history), max(5, history.shape[1] - 4)), dtype=np.int64)
        for row, older in enumerate(history[:, :-4]):
            values = older[older > 0] if size is None else rng.integers(1, size, (older > 0).sum())
            distinct = np.unique(values)
            sets[row, len(sets[row]) - len(distinct) :] = distinct
        arrays[f"long_{name}"] = sets
    return arrays


SHARED_KEYS = ("negatives", "log_expected", "gbce_beta")
"""Keys whose first axis is not the row of the batch."""


def take_rows(batch, rows):
    """Return the batch with only `rows`, in that order."""
    return {name: value if name in SHARED_KEYS else value[rows] for name, value in batch.items()}


def pad_left(batch, columns):
    """Return the batch with `columns` more columns of padding before its histories."""
    padding = torch.zeros(batch["history"].shape[0], columns, dtype=torch.int64)
    padded = [name for name in batch if name.startswith(("history", "short", "long_"))]
    more = {name: torch.cat([padding, batch[name]], dim=1) for name in padded}
    return {**batch, **more}


def last_columns(batch, columns):
    """Return the batch with the last `columns` columns of its histories."""
    return {**batch, **{name: batch[name][:, -columns:] for name in ("history", "history_at")}}
