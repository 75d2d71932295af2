"""The sharded index answers as one flat index does, survives a killed shard, and never gives a shorter
answer."""

import os
import signal
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray

from raysys.distributed.index import balanced_ranges, build, open_index
from raysys.errors import ConfigError, ManifestError, RetrievalError
from raysys.manifest import Manifest
from raysys.retrieval.index import ExactIndex
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

NUM_ITEMS, DIM = 997, 8


@pytest.fixture(scope="module")
def vectors():
    """Small whole numbers, so that many scores tie."""
    return np.random.default_rng(5).integers(-2, 3, (NUM_ITEMS, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(6).integers(-2, 3, (70, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def flat(vectors):
    return flat_index(vectors, "inner_product")


@pytest.fixture
def out(tmp_path, vectors, ray_cluster):
    """A run's folder with exported vectors."""
    folder = Folder(tmp_path)
    table = pa.table(
        {
            "item_id": [str(i) for i in range(NUM_ITEMS)],
            "item_idx": pa.array(np.arange(2, NUM_ITEMS + 2), pa.int32()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM),
        }
    )
    with (folder / "vectors").open_output("items.parquet") as file:
        pq.write_table(table, file, row_group_size=200)
    info = {"items": NUM_ITEMS, "dim": DIM, "metric": "inner_product", "vocabularies": {"item": "x"}}
    Manifest(kind="vectors", config_digest="", parents={}, info=info).write(folder / "vectors")
    return folder


def flat_index(vectors, metric):
    index = ExactIndex(metric, DIM)
    index.add(np.arange(2, NUM_ITEMS + 2), vectors)
    return index


def run_with(tmp_path, *overrides):
    planted_log(tmp_path, users=3)
    return load_run(str(run_file(tmp_path)), overrides)


@pytest.mark.parametrize(
    ("kind", "shards", "replicas", "metric"),
    [
        ("exact", 3, 1, "model"),
        ("flat", 2, 2, "inner_product"),
        ("exact", 1, 1, "l2"),
        ("exact", 2, 2, "cosine"),
        ("flat", 3, 1, "cosine"),
    ],
)
def test_sharded_equals_flat_with_ties(out, tmp_path, vectors, queries, kind, shards, replicas, metric):
    options = {"kind": kind, "shards": shards, "replicas": replicas, "metric": metric}
    run = run_with(tmp_path, *(f"index.{name}={value}" for name, value in options.items()))
    index, manifest = open_index(build(run, out), replicas)
    metric = "inner_product" if metric == "model" else metric  # what the vectors' manifest says
    flat = flat_index(vectors, metric)
    try:
        assert manifest.info["metric"] == metric
        assert len(manifest.info["shards"]) == shards
        assert index.num_items == NUM_ITEMS
        for k in (1, 10, 400, NUM_ITEMS):
            expected, found = flat.search(queries, k), index.search(queries, k)
            assert np.array_equal(found.item_idx, expected.item_idx)
            assert np.array_equal(found.score, expected.score)
    finally:
        index.close()


def test_a_killed_shard_comes_back_with_the_same_answer(out, tmp_path, flat, queries):
    run = run_with(tmp_path, "index.shards=2")
    index, _ = open_index(build(run, out), 1)
    try:
        pid = ray.get(index.replicas[1][0].pid.remote())
        os.kill(pid, signal.SIGKILL)
        found = index.search(queries, 20)
        assert np.array_equal(found.item_idx, flat.search(queries, 20).item_idx)
        assert ray.get(index.replicas[1][0].pid.remote()) != pid
    finally:
        index.close()


def test_a_shard_that_stays_away_is_an_error(out, tmp_path, queries):
    run = run_with(tmp_path, "index.shards=2")
    index, _ = open_index(build(run, out), 1)
    try:
        ray.kill(index.replicas[0][0], no_restart=True)
        time.sleep(0.5)
        with pytest.raises(RetrievalError, match="shard 0 of 2 gives no answer"):
            index.search(queries, 5)
    finally:
        index.close()


def test_a_shard_that_cannot_be_loaded_is_an_error(out, tmp_path, queries):
    run = run_with(tmp_path, "index.shards=2")
    folder = build(run, out)
    index, manifest = open_index(folder, 1)
    try:
        name = manifest.info["shards"][1]["name"]
        data = folder.read_bytes(name)
        folder.write_bytes(name, data[:-1] + bytes([data[-1] ^ 1]))
        os.kill(ray.get(index.replicas[1][0].pid.remote()), signal.SIGKILL)
        with pytest.raises(RetrievalError, match="shard 1 of 2 gives no answer"):
            index.search(queries, 5)
    finally:
        index.close()
    with pytest.raises(RetrievalError, match=rf"{name}.*index again"):
        open_index(folder, 1)


def test_another_replica_answers_for_a_lost_one(out, tmp_path, flat, queries):
    run = run_with(tmp_path, "index.shards=2", "index.replicas=2")
    index, _ = open_index(build(run, out), 2)
    try:
        ray.kill(index.replicas[0][0], no_restart=True)
        time.sleep(0.5)
        for _ in range(4):
            assert np.array_equal(index.search(queries, 5).item_idx, flat.search(queries, 5).item_idx)
    finally:
        index.close()


@pytest.mark.parametrize(
    ("kind", "parameters"), [("IVF4,Flat", "nprobe=4"), ("IVF4,PQ4x4", "nprobe=4"), ("PQ4x4", "")]
)
def test_the_quantiser_is_trained_once_and_shared(
    out, tmp_path, flat, queries, kind, parameters, monkeypatch
):
    """Scores by a shared quantiser compare over shards, so three shards rank as one does."""
    monkeypatch.setattr("raysys.distributed.index.TRAINING_SAMPLE", 400)
    found = []
    for shards in (1, 3):
        run = run_with(
            tmp_path,
            f"index.kind={kind}",
            f"index.search_parameters={parameters}",
            f"index.shards={shards}",
        )
        index, _ = open_index(build(run, out), 1)
        try:
            # the whole ranking: Faiss takes any of several equal scores at the last place
            found.append(index.search(queries, NUM_ITEMS))
        finally:
            index.close()
    assert np.array_equal(found[0].item_idx, found[1].item_idx)
    assert np.array_equal(found[0].score, found[1].score)
    if kind == "IVF4,Flat":  # all lists are looked into
        assert np.array_equal(found[0].score, flat.search(queries, NUM_ITEMS).score)


@pytest.mark.parametrize(("items", "shards"), [(1, 1), (997, 3), (10, 10), (1_000_003, 7)])
def test_shards_are_balanced_and_contiguous(items, shards):
    ranges = balanced_ranges(items, shards)
    sizes = [stop - start for start, stop in ranges]
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
    assert sum(sizes) == items
    assert max(sizes) - min(sizes) <= 1


def test_more_shards_than_items_is_a_config_error(out, tmp_path):
    with pytest.raises(ConfigError, match=r"index\.shards: found 1000"):
        build(run_with(tmp_path, "index.shards=1000"), out)


def test_no_vectors_says_what_to_run(tmp_path, ray_cluster):
    with pytest.raises(ManifestError, match=r"run jobs/export\.py first"):
        build(run_with(tmp_path), Folder(tmp_path / "nothing"))
