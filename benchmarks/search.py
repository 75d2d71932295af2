"""Search: our exact search against flat Faiss, shards in actors against one index in this process, and
100,000 users against a million items.

1 M vectors of 64 dimensions, the best 100; batches of 256 for CPU seconds, of 1, 64 and 1,024 for wall time.
"""

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from benchmarks.process_tree import Watch

NUM_ITEMS, DIM, K = 1_000_000, 64, 100
CENTRES, QUERIES, MANY, BLOCK = 300, 1024, 100_000, 1024
IVF = {"kind": "IVF1024,Flat", "search_parameters": "nprobe=32"}


@cache
def world() -> tuple[np.ndarray, np.ndarray]:
    """Return item vectors and queries with some structure: a few hundred directions, and noise."""
    random = np.random.default_rng(0)
    centres = random.normal(size=(CENTRES, DIM))
    items = centres[random.integers(0, CENTRES, NUM_ITEMS)] + random.normal(size=(NUM_ITEMS, DIM))
    queries = centres[random.integers(0, CENTRES, QUERIES)] + random.normal(size=(QUERIES, DIM))
    return items.astype(np.float32), queries.astype(np.float32)


@cache
def local(kind: str) -> Any:
    """Return a filled index of this process."""
    from raysys.retrieval.index import IndexConfig, build_index

    index = build_index(IndexConfig(kind=kind), "inner_product", DIM)
    index.add(np.arange(2, NUM_ITEMS + 2), world()[0])
    return index


@cache
def faiss_flat() -> Any:
    """Return a plain `faiss.IndexFlatIP` of this process."""
    import faiss

    plain = faiss.IndexFlatIP(DIM)
    plain.add(world()[0])
    return plain


def spent(work: Callable[[], object], clock: Callable[[], float]) -> float:
    begin = clock()
    work()
    return clock() - begin


def exact_vs_faiss_flat() -> float:
    """Return queries per CPU second of `exact` over those of a plain `faiss.IndexFlatIP`, batch 256."""
    queries = world()[1][:256]
    plain, exact = faiss_flat(), local("exact")
    exact.search(queries[:2], K)
    theirs = spent(lambda: plain.search(queries, K), time.process_time)
    ours = spent(lambda: exact.search(queries, K), time.process_time)
    return theirs / ours


@contextmanager
def sharded(config: dict[str, str]) -> Iterator[Any]:
    """Give two shard actors of one CPU each over the million items, as `jobs/index.py` would start them."""
    import ray

    from raysys.distributed.cluster import connect
    from raysys.distributed.index import ShardActor, ShardedIndex
    from raysys.retrieval.index import IndexConfig, build_index, load_index
    from raysys.run import ClusterConfig
    from raysys.storage import Folder

    connect("local", ClusterConfig(object_store_mb=1500))
    folder, handles = Folder(tempfile.mkdtemp(prefix="raysys-bench-")), []
    items, half = world()[0], NUM_ITEMS // 2
    empty = build_index(IndexConfig(**config), "inner_product", DIM)
    empty.train(items[::8])
    empty.save(folder, "empty")
    for number in range(2):
        index = load_index(folder, "empty")
        start = number * half
        index.add(np.arange(start + 2, start + half + 2), items[start : start + half])
        index.save(folder, f"half-{number}")
        del index
        remote: Any = ray.remote(num_cpus=1)
        handles.append([remote(ShardActor).remote(folder, f"half-{number}", 1)])
    found = ShardedIndex(handles, NUM_ITEMS)
    try:
        found.search(world()[1][:2], K)
        yield found
    finally:
        found.close()
        folder.delete()
        ray.shutdown()


def sharded_vs_single(batch: int) -> float:
    """Return queries per second of two shard actors over those of one index of this process with all cores:
    the faster of a plain `faiss.IndexFlatIP` and our exact kind.

    Args:
        batch: queries of one call.
    """
    from raysys.retrieval.index import set_search_threads

    set_search_threads(2)
    queries, single, plain = world()[1][:batch], local("exact"), faiss_flat()
    rounds = 3 if batch > 64 else 7
    single.search(queries[:2], K)
    with sharded({"kind": "exact"}) as actors:
        ours = min(spent(lambda: actors.search(queries, K), time.perf_counter) for _ in range(rounds))
        exact = min(spent(lambda: single.search(queries, K), time.perf_counter) for _ in range(rounds))
        faiss = min(spent(lambda: plain.search(queries, K), time.perf_counter) for _ in range(rounds))
    told = ", ".join(
        f"{name} {batch / seconds:.0f}"
        for name, seconds in [("sharded", ours), ("exact", exact), ("faiss", faiss)]
    )
    print(f"  batch {batch}: queries/s {told}", flush=True)
    return min(exact, faiss) / ours


@cache
def many_users(approximate: bool) -> tuple[float, float, float]:
    """Return seconds, peak GB of this process and its actors, and recall of 100,000 users on a million items.

    Users come in blocks, as the evaluation takes them; the recall is against exact search, of 1,024 users.
    """
    random = np.random.default_rng(1)
    with sharded(IVF if approximate else {"kind": "exact"}) as actors, Watch(memory=True) as watch:
        begin = time.perf_counter()
        for start in range(0, MANY, BLOCK):
            near = random.integers(0, NUM_ITEMS, min(BLOCK, MANY - start))
            noise = random.normal(size=(len(near), DIM)).astype(np.float32)
            actors.search(world()[0][near] + noise, K)
        seconds = time.perf_counter() - begin
        found = actors.search(world()[1], K).item_idx
    wanted = local("exact").search(world()[1], K).item_idx
    recall = float(np.mean([np.isin(b, a).mean() for a, b in zip(wanted, found, strict=True)]))
    print(f"  {seconds:.0f} s, {watch.peak_gb:.2f} GB, recall@{K} {recall:.4f}", flush=True)
    return seconds, watch.peak_gb, recall
