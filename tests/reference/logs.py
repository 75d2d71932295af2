"""Small planted logs: users of a few groups who buy the items of their group, so there is something to
learn."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

GROUPS = 4


def planted_log(folder: Path, users: int = 120, items: int = 60, events: int = 12, seed: int = 0) -> Path:
    """Write `events.parquet` and `items.parquet`; each user moves between two of the groups and never
    repeats."""
    random = np.random.default_rng(seed)
    rows: list[tuple[str, str, int]] = []
    for user in range(users):
        favourites = random.choice(GROUPS, size=2, replace=False)
        own = np.flatnonzero(np.isin(np.arange(items) % GROUPS, favourites))
        start = 1_600_000_000 + int(random.integers(0, 10**6))
        chosen = random.choice(own, size=min(events, len(own)), replace=False)
        rows += [(f"u{user:04d}", f"i{item:03d}", start + 60 * step) for step, item in enumerate(chosen)]
    order = random.permutation(len(rows))
    columns = list(zip(*(rows[i] for i in order), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.table(
        {"user_id": columns[0], "item_id": columns[1], "timestamp": pa.array(columns[2], pa.int64())}
    )
    pq.write_table(table, folder / "events.parquet")
    titles = {
        "item_id": [f"i{item:03d}" for item in range(items)],
        "title": [f"Item {item} <of group {item % GROUPS}>" for item in range(items)],
        "group": [str(item % GROUPS) for item in range(items)],
    }
    pq.write_table(pa.table(titles), folder / "items.parquet")
    return folder


def run_file(folder: Path, **replaced: str) -> Path:
    """Write a run file for `planted_log` beside it; `replaced` gives the text of whole sections."""
    sections = {
        "data": 'events = "events.parquet"',
        "data.columns": 'user = "user_id"\nitem = "item_id"\ntime = "timestamp"',
        "data.items": 'path = "items.parquet"\nid = "item_id"\ntitle = ["title"]',
        "data.items.features": "group = {}",
        "split": "filter_seen = true",
        "model": 'name = "mind"\nembedding_dim = 16\nnum_interests = 3\nhidden_dims = [16]\n'
        "history_length = 8\nnum_negatives = 20",
        "training": "epochs = 3\nbatch_size = 64\nlearning_rate = 0.01\ncheckpoint_every_steps = 4\nseed = 3",
        "cluster": "workers = 0\nobject_store_mb = 150",
        "index": "shards = 2",
        "evaluation": "ks = [5, 10]\nsample_users = 2",
    }
    sections.update(replaced)
    path = folder / "run.toml"
    path.write_text("\n".join(f"[{name}]\n{text}\n" for name, text in sections.items()))
    return path
