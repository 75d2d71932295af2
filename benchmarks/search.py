"""Search: our exact search against flat Faiss, and shards in actors against one index in this process.

1 M vectors of 64 dimensions, the best 100, batches of 256 (CPU seconds) and 64 (wall time).
"""

import tempfile
import time
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

NUM_ITEMS, DIM, K = 1_000_000, 64, 100


@cache
def world() -> tuple[np.ndarray, np.ndarray]:
    """Return item vectors and queries with some structure: a few hundred directions, and noise."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(300, DIM))
    items = centres[random.integers(0, 300, NUM_ITEMS)] + random.normal(size=(NUM_ITEMS, DIM))
    queries = centres[random.integers(0, 300, 256)] + random.normal(size=(256, DIM))
    return items.astype(np.float32), queries.astype(np.float32)


@cache
def local(kind: str) -> Any:
    """Return a filled index of this process."""
    from raysys.retrieval.index import IndexConfig, build_index

    index = build_index(IndexConfig(kind=kind), "inner_product", DIM)
    index.add(np.arange(2, NUM_ITEMS + 2), world()[0])
    return index


def spent(work: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    work()
    return clock() - begin


def exact_vs_faiss_flat() -> float:
    """Return queries per CPU second of `exact` over those of a plain `faiss.IndexFlatIP`, batch 256."""
    import faiss

    items, queries = world()
    plain = faiss.IndexFlatIP(DIM)
    plain.add(items)
    exact = local("exact")
    exact.search(queries[:2], K)
    theirs = spent(lambda: plain.search(queries, K), time.process_time)
    ours = spent(lambda: exact.search(queries, K), time.process_time)
    return theirs / ours


def sharded_vs_single() -> float:
    """Return queries per second of two shard actors over one local index of the same kind, batch 64."""
    import ray

    from raysys.distributed.cluster import connect
    from raysys.distributed.index import ShardActor, ShardedIndex
    from raysys.retrieval.index import set_search_threads
    from raysys.run import ClusterConfig
    from raysys.storage import Folder

    connect("local", ClusterConfig(object_store_mb=1500))
    items, queries = world()
    folder, halves = Folder(tempfile.mkdtemp(prefix="raysys-bench-")), []
    for half in range(2):
        index = local_half(half, items)
        index.save(folder, f"half-{half}")
        remote: Any = ray.remote(num_cpus=1)
        halves.append([remote(ShardActor).remote(folder, f"half-{half}", 1)])
    sharded = ShardedIndex(halves, NUM_ITEMS)
    try:
        single = local("exact")
        set_search_threads(2)
        batch = queries[:64]
        sharded.search(batch, K), single.search(batch, K)
        alone = min(spent(lambda: single.search(batch, K), time.perf_counter) for _ in range(5))
        together = min(spent(lambda: sharded.search(batch, K), time.perf_counter) for _ in range(5))
        return alone / together
    finally:
        sharded.close()
        folder.delete()
        ray.shutdown()


def local_half(half: int, items: np.ndarray) -> Any:
    from raysys.retrieval.index import IndexConfig, build_index

    index = build_index(IndexConfig(kind="exact"), "inner_product", DIM)
    start, stop = half * NUM_ITEMS // 2, (half + 1) * NUM_ITEMS // 2
    index.add(np.arange(start + 2, stop + 2), items[start:stop])
    return index
