"""A sharded index with replicas answers as one flat index does, or not at all.

Its actors are played by objects of this process, so that any number of shards, replicas and losses can be
tried; test_index.py has real ones. Scores tie: coordinates are small whole numbers, vectors repeat, and some
are zero.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import ray
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.distributed.index import ShardActor, ShardedIndex, balanced_ranges, spread
from raysys.errors import RetrievalError
from raysys.retrieval.candidates import Ragged
from raysys.retrieval.index import ExactIndex, IndexConfig, build_index
from raysys.retrieval.vectors import VectorRetriever
from tests.reference.metrics import best_of, without

DIM = 3


class LocalHandle:
    """What a caller sees of an actor; a lost one shows when its answer is fetched."""

    def __init__(self, index, lost):
        self.actor = object.__new__(ShardActor)
        self.actor.index, self.lost, self.asked = index, lost, 0
        self.search = SimpleNamespace(remote=lambda queries, k: (self, queries, k))


def fetch(reference, timeout):
    handle, queries, k = reference
    handle.asked += 1
    if handle.lost:
        raise ray.exceptions.RayActorError
    return handle.actor.search(queries, k)


@pytest.fixture(scope="module", autouse=True)
def local_ray():
    played = SimpleNamespace(get=fetch, put=lambda value: value, exceptions=ray.exceptions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raysys.distributed.index.ray", played)
        yield


class FixedUsers:
    """A model whose users bring their vectors along."""

    def encode_users(self, batch):
        return batch["vectors"], batch["active"]


def sharded_index(kind, metric, vectors, shards, lost):
    handles = []
    for (start, stop), losses in zip(balanced_ranges(len(vectors), shards), lost, strict=True):
        index = build_index(IndexConfig(kind=kind), metric, DIM)
        index.add(np.arange(start, stop) + 2, vectors[start:stop])
        handles.append([LocalHandle(index, each) for each in losses])
    return ShardedIndex(handles, len(vectors))


def slow_answer(metric, vectors, users, active, seen, k):
    """The whole flat ranking of every interest, joined and freed of seen items by plain loops."""
    flat = ExactIndex(metric, DIM)
    flat.add(np.arange(len(vectors)) + 2, vectors)
    answers = []
    for user, on, items in zip(users, active, seen, strict=True):
        entries = []
        if on.any():
            found = flat.search(user[on], len(vectors))
            entries = list(zip(found.item_idx.ravel().tolist(), found.score.ravel().tolist(), strict=True))
        answers.append(without(best_of(entries, len(vectors)), set(items), k))
    return answers


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 40),
    st.integers(1, 9),
    st.integers(1, 3),
    st.sampled_from(["exact", "flat"]),
    st.sampled_from(["inner_product", "cosine", "l2"]),
    st.integers(1, 45),
    st.booleans(),
)
@settings(max_examples=60)
def test_any_shards_and_replicas_equal_flat_search(
    seed, items, shards, replicas, kind, metric, k, filter_seen
):
    random = np.random.default_rng(seed)
    vectors = random.integers(-2, 3, (items, DIM)).astype(np.float32)[random.integers(0, items, items)]
    users = random.integers(-2, 3, (4, 2, DIM)).astype(np.float32)
    active = random.random((4, 2)) < 0.7
    seen = [random.integers(2, items + 2, n) if filter_seen else [] for n in (0, 1, 5, 50)]
    shards = min(shards, items)
    lost = random.random((shards, replicas)) < 0.4
    lost[lost.all(axis=1), 0] = False
    index = sharded_index(kind, metric, vectors, shards, lost)
    retriever = VectorRetriever(FixedUsers(), index)
    batch = {"vectors": torch.from_numpy(users), "active": torch.from_numpy(active)}
    expected = slow_answer(metric, vectors, users, active, seen, k)
    for _ in range(replicas):  # another replica has its turn
        found = retriever.retrieve(batch, k, Ragged.of_rows(seen) if filter_seen else None)
        assert found.k == k
        for row, item_idx, score in zip(expected, found.item_idx, found.score, strict=True):
            real = item_idx >= 0
            assert list(zip(item_idx[real].tolist(), score[real].tolist(), strict=True)) == row
    if active.any():
        lost_shard = int(random.integers(shards))
        for handle in index.replicas[lost_shard]:
            handle.lost = True
        with pytest.raises(RetrievalError, match=f"shard {lost_shard} of {shards} gives no answer"):
            retriever.retrieve(batch, k)


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 6))
def test_copies_are_spread_over_the_nodes(shards, replicas, nodes):
    places = spread(shards, replicas, nodes)
    assert [len(copies) for copies in places] == [replicas] * shards
    for copies in places:
        assert len(set(copies)) == min(replicas, nodes)
    held = np.bincount(np.concatenate(places), minlength=nodes)
    if replicas <= nodes:
        assert held.max() - held.min() <= 1
    assert held.sum() == shards * replicas


def test_replicas_share_the_queries():
    vectors = np.random.default_rng(0).standard_normal((30, DIM)).astype(np.float32)
    index = sharded_index("exact", "cosine", vectors, 3, np.zeros((3, 2), bool))
    for _ in range(10):
        index.search(vectors[:4], 5)
    assert [[handle.asked for handle in copies] for copies in index.replicas] == [[5, 5]] * 3
