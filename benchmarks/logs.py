"""Generated logs for the benchmarks: Zipf items, users of very different activity, five item features, and
the five user features of MovieLens 1M with their numbers of values."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_FILE = 500_000
NUM_ITEMS = 100_000
FEATURES = {"category": 2_000, "department": 40, "brand": 5_000, "shop": 10_000, "price_band": 12}
USER_FEATURES = {"gender": 2, "age": 7, "occupation": 21, "zip": 3_439}
START = 1_700_000_000
SPAN_S = 60 * 86_400

LOG_KEYS = """
[data]
events = "{log}/events/*.parquet"
[data.columns]
user = "user_id"
item = "item_id"
time = "timestamp"
"""
"""What a run file says of a log that `write_log` wrote; `{log}` is its folder."""


def write_log(folder: Path, rows: int, users: int, seed: int = 0, num_items: int = NUM_ITEMS) -> Path:
    """Write `events/*.parquet`, in order of time, `items.parquet` and `users.parquet`; return the folder.

    A user's activity is log-normal, an item's popularity Zipf with exponent 1.05; a tenth of a visit's events
    follow each other within minutes, so that sessions exist.
    """
    if (folder / "done").exists():
        return folder
    random = np.random.default_rng(seed)
    (folder / "events").mkdir(parents=True, exist_ok=True)
    activity = np.cumsum(random.lognormal(0.0, 1.2, users))
    popularity = np.cumsum(1.0 / np.arange(1, num_items + 1) ** 1.05)
    names = random.permutation(num_items) + 10_000
    visitors = random.permutation(users) + 1_000_000
    per_file = min(ROWS_PER_FILE, rows)
    num_files = rows // per_file
    for number in range(num_files):
        visit_of = np.sort(random.integers(0, per_file // 5, per_file))  # five events of a visit on average
        owner = np.searchsorted(activity, random.random(per_file // 5) * activity[-1])
        begin = START + (number + random.random(per_file // 5)) * SPAN_S / num_files
        at = (begin[visit_of] + random.exponential(120.0, per_file)).astype(np.int64)
        item = np.searchsorted(popularity, random.random(per_file) * popularity[-1])
        table = pa.table(
            {
                "user_id": visitors[np.minimum(owner, users - 1)][visit_of],
                "item_id": names[np.minimum(item, num_items - 1)],
                "timestamp": at,
            }
        ).take(pa.array(np.argsort(at, kind="stable")))
        pq.write_table(table, folder / "events" / f"{number:04d}.parquet", compression="snappy")
    features = {name: random.integers(0, size, num_items) for name, size in FEATURES.items()}
    pq.write_table(pa.table({"item_id": np.sort(names), **features}), folder / "items.parquet")
    users_of = {name: random.integers(0, size, users) for name, size in USER_FEATURES.items()}
    names = np.sort(visitors)
    pq.write_table(pa.table({"user_id": names, "who": names, **users_of}), folder / "users.parquet")
    (folder / "done").touch()
    return folder


def write_skewed_log(folder: Path, rows: int, users: int, giant: int = 0, seed: int = 0) -> Path:
    """Write `*.parquet`, in order of time: user 0 has `giant` of the rows, item 0 a tenth of them.

    The other users share the other rows evenly; the giant's events are evenly spaced.
    """
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    ordinary = rows - giant
    user = np.concatenate([np.zeros(giant, np.int64), random.integers(1, users + 1, ordinary)])
    at = np.concatenate(
        [np.linspace(0, SPAN_S - 1, giant).astype(np.int64), random.integers(0, SPAN_S, ordinary)]
    )
    popularity = np.cumsum(1.0 / np.arange(1, NUM_ITEMS + 1) ** 1.05)
    item = np.searchsorted(popularity, random.random(rows) * popularity[-1]) + 1
    item[random.random(rows) < 0.1] = 0
    in_time = np.argsort(at, kind="stable")
    for number, own in enumerate(np.array_split(in_time, -(-rows // ROWS_PER_FILE))):
        table = pa.table({"user_id": user[own], "item_id": item[own], "timestamp": START + at[own]})
        pq.write_table(table, folder / f"{number:04d}.parquet")
    return folder
