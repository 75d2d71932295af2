"""The search index spread over Ray actors: each holds one local index over a contiguous range of items.

Shards do not know each other. A search goes to one replica of every shard and the answers are merged exactly.
An actor that dies comes back by itself and loads its shard from disk; a shard that stays away is an error,
never a shorter answer.
"""

import itertools
import logging
import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raysys import config as configuration
from raysys.data.parsing import combine
from raysys.distributed.cluster import cause_of, data_labels, nodes_with, num_cpus, run_tasks
from raysys.distributed.exporter import KIND as VECTORS
from raysys.errors import ConfigError, RetrievalError
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest, read_manifest
from raysys.retrieval.candidates import Candidates, merge_top_k
from raysys.retrieval.exact import Metric
from raysys.retrieval.index import IndexConfig, build_index, load_index, set_search_threads
from raysys.run import RunConfig
from raysys.storage import Folder, replacing

logger = logging.getLogger(__name__)

KIND = "index"
TRAINING_SAMPLE = 262_144
SEARCH_TIMEOUT_S = 300.0
RESTART_POLL_S = 1.0
"""How often a shard whose node is lost is asked whether it is back."""
EMPTY = "trained.faiss"


def build(run: RunConfig, out: Folder) -> Folder:
    """Build `index/` from `vectors/`, one Faiss file per shard, and return it.

    The quantiser, where the kind has one, is trained once on a sample; every shard starts from the same empty
    index.

    Raises:
        ManifestError: no finished vectors.
        ConfigError: more shards than items, or a kind that the vectors do not suit.
    """
    target, begin = out / "index", time.monotonic()
    vectors = read_manifest(out / "vectors", VECTORS, "export")
    parents, digest = {"vectors": vectors.digest}, configuration.digest(run.index)
    found = find_manifest(target, KIND)
    if found and found.matches(digest, parents):
        logger.info(fields(index="unchanged", path=target.uri))
        return target
    num_items, shards = vectors.info["items"], run.index.shards
    if shards > num_items:
        raise ConfigError(
            f"index.shards: found {shards}, expected at most the {num_items} items of the catalogue"
        )
    ranges = balanced_ranges(num_items, shards)
    metric = chosen_metric(run.index, vectors)
    with replacing(target) as staged:
        _train(run.index, metric, out / "vectors", vectors, staged)
        sizes = run_tasks(build_shard, list(enumerate(ranges)), out / "vectors", staged)
        info = {
            "kind": run.index.kind,
            "metric": metric,
            "dim": vectors.info["dim"],
            "shards": [
                {"name": shard_name(i), "rows": list(r), "items": sizes[i]} for i, r in enumerate(ranges)
            ],
            "vocabularies": vectors.info["vocabularies"],
            "build_s": time.monotonic() - begin,
        }
        staged.delete_file(EMPTY)
        staged.delete_file(f"{EMPTY}.json")
        Manifest(kind=KIND, config_digest=digest, parents=parents, info=info).write(staged)
    logger.info(
        fields(
            index=target.uri,
            kind=run.index.kind,
            metric=metric,
            shards=shards,
            seconds=time.monotonic() - begin,
        )
    )
    return target


def balanced_ranges(num_items: int, shards: int) -> list[tuple[int, int]]:
    """Return contiguous (start, stop) rows of each shard; their sizes differ by one at most."""
    return list(itertools.pairwise(number * num_items // shards for number in range(shards + 1)))


def chosen_metric(config: IndexConfig, vectors: Manifest) -> Metric:
    """Return the metric of an index: what `[index]` says, else what the model was trained for."""
    return vectors.info["metric"] if config.metric == "model" else config.metric


def shard_name(number: int) -> str:
    return f"shard-{number:05d}.faiss"


def _train(config: IndexConfig, metric: Metric, folder: Folder, vectors: Manifest, staged: Folder) -> None:
    """Write the empty index that every shard starts from, trained on evenly spaced items where it needs
    training."""
    empty = build_index(config, metric, vectors.info["dim"])
    if not empty.is_trained:
        step = max(1, -(-vectors.info["items"] // TRAINING_SAMPLE))
        sample = [block[::step] for _, block in read_vectors(folder, 0, vectors.info["items"])]
        empty.train(np.concatenate(sample))
    empty.save(staged, EMPTY)


def build_shard(numbered: tuple[int, tuple[int, int]], folder: Folder, staged: Folder) -> int:
    """Fill and write one shard; return its number of items."""
    number, (start, stop) = numbered
    index = load_index(staged, EMPTY)
    for item_idx, vectors in read_vectors(folder, start, stop):
        index.add(item_idx, vectors)
    index.save(staged, shard_name(number))
    return index.num_items


def read_vectors(folder: Folder, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield (item_idx, vectors) of rows [start, stop) of `items.parquet`, a row group at a time."""
    with folder.open_input("items.parquet") as file:
        parquet = pq.ParquetFile(file)
        first = 0
        for group in range(parquet.metadata.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            low, high = max(start - first, 0), min(stop - first, rows)
            if low < high:
                table = parquet.read_row_group(group, columns=["item_idx", "vector"]).slice(low, high - low)
                column = combine(table.column("vector"))
                assert isinstance(column, pa.FixedSizeListArray)
                vectors = np.asarray(column.flatten().to_numpy()).reshape(high - low, -1)
                yield np.asarray(table.column("item_idx").to_numpy()).astype(np.int64), vectors
            first += rows


class ShardActor:
    """Holds one local index, loaded from disk when the actor starts and again whenever it restarts."""

    def __init__(self, folder: Folder, name: str, threads: int) -> None:
        set_search_threads(threads)
        self.name = f"{folder.uri}/{name}"
        self.index = load_index(folder, name)

    def __repr__(self) -> str:
        return self.name  # what the Ray dashboard shows

    def search(self, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        found = self.index.search(queries, min(k, self.index.num_items))
        return found.item_idx, found.score

    def num_items(self) -> int:
        return self.index.num_items

    def pid(self) -> int:
        return os.getpid()


class ShardedIndex:
    """The same `search` as a local index, answered by actors. Cheap to send to tasks.

    Args:
        replicas: per shard the handles of its copies.
        num_items: items over all shards.
        timeout_s: how long a shard may take to answer, restarts included.
    """

    def __init__(
        self, replicas: list[list[Any]], num_items: int, timeout_s: float = SEARCH_TIMEOUT_S
    ) -> None:
        self.replicas, self.num_items, self.timeout_s = replicas, num_items, timeout_s
        self.turn = 0

    def search(self, queries: np.ndarray, k: int) -> Candidates:
        """Return the best k items of each (Q, D) float32 query over all shards.

        Raises:
            RetrievalError: a shard does not answer on any replica.
        """
        self.turn += 1
        sent = queries if queries.nbytes < 100_000 else ray.put(queries)
        waiting = [handles[self.turn % len(handles)].search.remote(sent, k) for handles in self.replicas]
        parts = [self._answer(number, reference, sent, k) for number, reference in enumerate(waiting)]
        return merge_top_k([Candidates(item_idx, score) for item_idx, score in parts], k, distinct=True)

    def _answer(self, shard: int, reference: Any, queries: Any, k: int) -> tuple[np.ndarray, np.ndarray]:
        handles = self.replicas[shard]
        deadline, lost, asked = time.monotonic() + self.timeout_s, 0, 0
        while True:
            try:
                return ray.get(reference, timeout=max(deadline - time.monotonic(), 0.1))
            except ray.exceptions.ActorUnavailableError as error:
                # Its node is lost, which shows only after a while; then it comes up on another one.
                if time.monotonic() > deadline:
                    raise self._silent(shard, error) from error
                time.sleep(0.0 if len(handles) > 1 and asked == 0 else RESTART_POLL_S)
            except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError) as error:
                lost += 1
                if lost == len(handles):
                    raise self._silent(shard, error) from error
            asked += 1
            reference = handles[(self.turn + asked) % len(handles)].search.remote(queries, k)

    def _silent(self, shard: int, error: Exception) -> RetrievalError:
        return RetrievalError(
            f"index shard {shard} of {len(self.replicas)} gives no answer ({type(error).__name__}) on any of "
            f"{len(self.replicas[shard])} replicas; an answer without it would be wrong"
        )

    def close(self) -> None:
        for handle in itertools.chain.from_iterable(self.replicas):
            ray.kill(handle)


def open_index(folder: Folder, replicas: int) -> tuple[ShardedIndex, Manifest]:
    """Start the actors of a finished index and return it, ready to search.

    Actors share at most half of the cluster's CPUs, so that tasks that ask them can run beside them.

    Raises:
        ManifestError: no finished index.
        RetrievalError: a shard that cannot be loaded or does not hold the items it was built with.
    """
    manifest = read_manifest(folder, KIND, "index")
    names = [shard["name"] for shard in manifest.info["shards"]]
    cpus = min(1.0, 0.5 * num_cpus() / (len(names) * replicas))
    remote: Any = ray.remote(num_cpus=cpus, max_restarts=-1, max_task_retries=3, label_selector=data_labels())
    actor = remote(ShardActor)
    nodes = [node for node, cpus_there in nodes_with(data_labels()).items() if cpus_there]
    places = spread(len(names), replicas, len(nodes))
    handles = [
        [
            # soft: a copy whose node is lost, or has no room, comes up on another
            actor.options(
                scheduling_strategy=NodeAffinitySchedulingStrategy(nodes[place], soft=True) if nodes else None
            ).remote(folder, name, max(1, int(cpus)))
            for place in copies
        ]
        for name, copies in zip(names, places, strict=True)
    ]
    index = ShardedIndex(handles, sum(shard["items"] for shard in manifest.info["shards"]))
    try:
        _check_shards(folder, manifest, handles)
    except BaseException:
        index.close()
        raise
    return index, manifest


def spread(shards: int, replicas: int, nodes: int) -> list[list[int]]:
    """Return for each shard the node of each of its copies, as numbers.

    A lost node takes as few copies of one shard as possible with it, and nodes hold even numbers of copies.
    Ray's own SPREAD promises less: it was seen to put two shards on one of two empty nodes.
    """
    held = [0] * max(nodes, 1)
    places: list[list[int]] = []
    for _ in range(shards):
        copies: list[int] = []
        for _ in range(replicas):
            place = min(range(len(held)), key=lambda node: (copies.count(node), held[node], node))
            copies.append(place)
            held[place] += 1
        places.append(copies)
    return places


def _check_shards(folder: Folder, manifest: Manifest, handles: list[list[Any]]) -> None:
    asked = [[handle.num_items.remote() for handle in copies] for copies in handles]
    for shard, copies in zip(manifest.info["shards"], asked, strict=True):
        where = f"{folder.uri}/{shard['name']}"
        try:
            counts = ray.get(copies)
        except ray.exceptions.RayActorError as error:
            raise cause_of(error) or RetrievalError(
                f"{where}: its process cannot start; {_last_line(error)}"
            ) from None
        if any(count != shard["items"] for count in counts):
            raise RetrievalError(f"{where}: holds {counts} items, expected {shard['items']}; index again")


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1]
