"""Indexes against brute force in float64 with the same tie rule; exact kinds must agree bit by bit."""

import json
import pickle
from pathlib import Path

import faiss
import numpy as np
import pytest

from raysys import config
from raysys.errors import ConfigError, RetrievalError
from raysys.retrieval import exact
from raysys.retrieval.candidates import Candidates, merge_top_k
from raysys.retrieval.exact import Metric, Product, comparable, pair_scores, score_error, vector_norms
from raysys.retrieval.index import FaissIndex, IndexConfig, build_index, load_index, set_search_threads
from raysys.storage import Folder

METRICS: list[Metric] = ["inner_product", "l2", "cosine"]
PRODUCTS: list[Product] = ["inner_product", "l2"]


@pytest.fixture(autouse=True)
def one_thread():
    set_search_threads(1)


def normal(seed: int, rows: int, dim: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)


def brute_force(queries: np.ndarray, vectors: np.ndarray, k: int, metric: Metric) -> np.ndarray:
    """Ranked rows by float64 scores, ties by row; good for inputs whose float32 scores are exact."""
    q, x = queries.astype(np.float64), vectors.astype(np.float64)
    if metric == "cosine":
        q, x = (v / np.maximum(np.sqrt((v**2).sum(axis=1)), 1e-300)[:, None] for v in (q, x))
    score = -((q[:, None] - x[None]) ** 2).sum(axis=2) if metric == "l2" else q @ x.T
    return np.argsort(-score, axis=1, kind="stable")[:, :k]


@pytest.mark.parametrize("metric", PRODUCTS)
@pytest.mark.parametrize("kind", ["exact", "flat", "Flat"])
def test_answers_equal_brute_force_with_ties(kind: str, metric: Metric):
    vectors = np.random.default_rng(0).integers(-2, 3, (500, 4)).astype(np.float32)
    queries = np.random.default_rng(1).integers(-2, 3, (40, 4)).astype(np.float32)
    index = build_index(IndexConfig(kind=kind), metric, 4)
    index.add(np.arange(2, 502), vectors)
    found = index.search(queries, 30)
    np.testing.assert_array_equal(found.item_idx, brute_force(queries, vectors, 30, metric) + 2)
    assert (np.diff(found.score, axis=1) <= 0).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("shape", ["plain", "whole numbers", "hardly different"])
def test_exact_kinds_agree_bit_by_bit_whatever_the_blocks_and_shards(metric: Metric, shape: str, monkeypatch):
    vectors, queries = normal(0, 3000, 17), normal(1, 70, 17)
    if shape == "whole numbers":
        vectors, queries = np.rint(vectors), np.rint(queries)
    if (
        shape == "hardly different"
    ):  # float32 products cannot tell these apart, so rounding decides their order
        vectors = np.float32(3) + np.float32(1e-6) * vectors
    exact_index, flat = (build_index(IndexConfig(kind=kind), metric, 17) for kind in ("exact", "flat"))
    order = np.random.default_rng(2).permutation(3000)
    for index in (exact_index, flat):
        index.add(order[:1000] + 2, vectors[order[:1000]])
        index.add(order[1000:] + 2, vectors[order[1000:]])
    first, second = exact_index.search(queries, 25), flat.search(queries, 25)
    alone = [exact_index.search(queries[[row]], 25) for row in range(70)]
    shards: list[Candidates] = []
    for part in np.array_split(np.arange(3000), 7):
        shard = build_index(IndexConfig(), metric, 17)
        shard.add(part + 2, vectors[part])
        shards.append(shard.search(queries, 25))
    monkeypatch.setattr(exact, "_FIRST_ITEM_BLOCK", 128)
    monkeypatch.setattr(exact, "_SCORE_BLOCK", 4096)
    monkeypatch.setattr(exact, "_QUERY_BLOCK", 16)
    others = [second, exact_index.search(queries, 25), merge_top_k(shards, 25)]
    others.append(
        Candidates(np.concatenate([a.item_idx for a in alone]), np.concatenate([a.score for a in alone]))
    )
    for other in others:
        np.testing.assert_array_equal(first.item_idx, other.item_idx)
        np.testing.assert_array_equal(first.score, other.score)
    if shape == "plain" or (shape == "whole numbers" and metric != "cosine"):  # float64 breaks other ties
        np.testing.assert_array_equal(first.item_idx, brute_force(queries, vectors, 25, metric) + 2)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["exact", "flat"])
def test_equal_vectors_are_taken_by_item_idx(kind: str, metric: Metric):
    vectors = np.repeat(normal(0, 1, 8), 600, axis=0)
    index = build_index(IndexConfig(kind=kind), metric, 8)
    index.add(np.arange(601, 1, -1), vectors)
    found = index.search(np.concatenate([normal(1, 2, 8), np.zeros((1, 8), np.float32)]), 5)
    assert found.item_idx.tolist() == [[2, 3, 4, 5, 6]] * 3


@pytest.mark.parametrize("metric", PRODUCTS)
@pytest.mark.parametrize("dim", [1, 2, 7, 64, 129])
def test_pair_scores_are_close_to_float64_and_the_same_in_every_batch(metric: Product, dim: int):
    queries, vectors = normal(0, 20, dim), normal(1, 300, dim) * 3
    rows, columns = (
        np.random.default_rng(2).integers(0, 20, 5000),
        np.random.default_rng(3).integers(0, 300, 5000),
    )
    scores = pair_scores(queries, vectors, rows, columns, metric)
    q, x = queries[rows].astype(np.float64), vectors[columns].astype(np.float64)
    slow = (q * x).sum(axis=1) if metric == "inner_product" else -((q - x) ** 2).sum(axis=1)
    bound = score_error(vector_norms(queries), float(vector_norms(vectors).max()), dim, metric)[rows]
    assert (np.abs(scores - slow) <= bound / 2).all()
    alone = [pair_scores(queries, vectors, rows[[p]], columns[[p]], metric)[0] for p in range(0, 5000, 97)]
    np.testing.assert_array_equal(scores[::97], alone)


@pytest.mark.parametrize("kind", ["exact", "flat", "IVF4,Flat"])
def test_k_beyond_the_items_is_padded(kind: str):
    index = build_index(IndexConfig(kind=kind), "inner_product", 3)
    index.train(normal(5, 200, 3))
    index.add(np.array([7, 4]), normal(0, 2, 3))
    found = index.search(normal(1, 6, 3), 5)
    assert found.k == 5
    assert (found.item_idx[:, 2:] == -1).all()
    assert np.isneginf(found.score[:, 2:]).all()


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("kind", ["exact", "flat", "IVF8,Flat", "HNSW16", "PCA4,SQ8", "PQ4x4"])
def test_saved_index_answers_the_same_and_faiss_reads_it(kind: str, metric: Metric, tmp_path: Path):
    index = build_index(IndexConfig(kind=kind), metric, 8)
    index.add(np.arange(100, 600), normal(0, 500, 8))
    index.save(Folder(tmp_path), "shard.faiss")
    loaded = load_index(Folder(tmp_path), "shard.faiss")
    before, after = index.search(normal(1, 30, 8), 10), loaded.search(normal(1, 30, 8), 10)
    assert (loaded.kind, loaded.metric, loaded.dim, loaded.num_items) == (kind, metric, 8, 500)
    np.testing.assert_array_equal(before.item_idx, after.item_idx)
    np.testing.assert_array_equal(before.score, after.score)
    stored = faiss.read_index(str(tmp_path / "shard.faiss"))
    _, found = stored.search(comparable(normal(1, 30, 8), metric), 1)
    np.testing.assert_array_equal(found[:, 0], before.item_idx[:, 0])
    loaded.add(np.array([600]), normal(2, 1, 8))
    assert loaded.num_items == 501


@pytest.mark.parametrize("kind", ["exact", "flat"])
def test_cosine_ignores_lengths_and_zero_vectors_score_0(kind: str, tmp_path: Path):
    """Lengths that are powers of two leave no trace, so the answer is that of unit vectors bit by bit."""
    random = np.random.default_rng(4)
    vectors, queries = normal(0, 400, 6), normal(1, 20, 6)
    vectors[[7, 8, 300]], queries[3] = 0, 0
    plain, scaled = (build_index(IndexConfig(kind=kind), "cosine", 6) for _ in range(2))
    plain.add(np.arange(2, 402), vectors)
    scaled.add(np.arange(2, 402), vectors * np.exp2(random.integers(-40, 40, (400, 1))).astype(np.float32))
    found = plain.search(queries, 400)
    assert np.isfinite(found.score).all()
    assert np.abs(found.score).max() <= 1 + 1e-6
    assert (found.score[3] == 0).all()
    assert found.item_idx[3].tolist() == list(range(2, 402))
    assert (found.score[np.isin(found.item_idx, [9, 10, 302])] == 0).all()
    for item_idx, row, score in zip(found.item_idx[:3] - 2, queries, found.score, strict=False):
        q, x = row.astype(np.float64), vectors[item_idx].astype(np.float64)
        lengths = np.sqrt((x**2).sum(axis=1)) * np.sqrt((q**2).sum())
        np.testing.assert_allclose(score, (x @ q) / np.where(lengths > 0, lengths, 1), atol=1e-6)
    plain.save(Folder(tmp_path), "a.faiss")
    others = [scaled.search(queries, 400), plain.search(queries * np.float32(1024), 400)]
    for other in [*others, load_index(Folder(tmp_path), "a.faiss").search(queries, 400)]:
        np.testing.assert_array_equal(found.item_idx, other.item_idx)
        np.testing.assert_array_equal(found.score, other.score)


@pytest.mark.parametrize("size", ["tiny", "huge"])
def test_cosine_of_extreme_lengths(size: str):
    vectors = normal(0, 50, 4) * np.float32({"tiny": 1e-38, "huge": 1e14}[size])
    index = build_index(IndexConfig(), "cosine", 4)
    index.add(np.arange(2, 52), vectors)
    found = index.search(vectors, 1)
    assert found.item_idx[:, 0].tolist() == list(range(2, 52))
    np.testing.assert_allclose(found.score, 1, atol=1e-6)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("kind", "parameters", "least"),
    [
        ("IVF16,Flat", "nprobe=16", 1.0),
        ("IVF16,Flat", "nprobe=8", 0.8),
        ("HNSW16", "efSearch=64", 0.9),
        ("PQ8x6", "", 0.3),
        ("IVF4,PQ8x6", "nprobe=4", 0.3),
    ],
)
def test_approximate_kinds_find_most_of_what_exact_search_finds(
    kind: str, parameters: str, least: float, metric: Metric
):
    vectors, queries = normal(0, 2000, 8) * normal(3, 2000, 1), normal(1, 50, 8)
    exact_index = build_index(IndexConfig(), metric, 8)
    index = build_index(IndexConfig(kind=kind, search_parameters=parameters), metric, 8)
    for one in (exact_index, index):
        one.add(np.arange(2, 2002), vectors)
    truth, found = exact_index.search(queries, 20), index.search(queries, 20)
    same = [len(np.intersect1d(a, b)) for a, b in zip(truth.item_idx, found.item_idx, strict=True)]
    assert np.mean(same) / 20 >= least


def test_damaged_files_are_refused(tmp_path: Path):
    folder = Folder(tmp_path)
    index = build_index(IndexConfig(kind="flat"), "l2", 4)
    index.add(np.arange(2, 12), normal(0, 10, 4))
    index.save(folder, "a.faiss")
    data = folder.read_bytes("a.faiss")
    for broken in (data[:-3], data[:-1] + bytes([data[-1] ^ 1])):
        folder.write_bytes("a.faiss", broken)
        with pytest.raises(RetrievalError, match=r"a\.faiss.*index again"):
            load_index(folder, "a.faiss")
    folder.write_bytes("a.faiss", data)
    header = json.loads((tmp_path / "a.faiss.json").read_text())
    folder.write_json("a.faiss.json", header | {"format": 99})
    with pytest.raises(RetrievalError, match="format 99"):
        load_index(folder, "a.faiss")


def test_a_trained_empty_index_can_be_copied_to_shards():
    trained = build_index(IndexConfig(kind="IVF4,Flat", search_parameters="nprobe=4"), "inner_product", 6)
    assert isinstance(trained, FaissIndex)
    trained.train(normal(0, 400, 6))
    copy = pickle.loads(pickle.dumps(trained))
    assert copy.is_trained
    copy.add(np.arange(2, 102), normal(1, 100, 6))
    whole = build_index(IndexConfig(), "inner_product", 6)
    whole.add(np.arange(2, 102), normal(1, 100, 6))
    # nprobe=4 of 4 lists looks everywhere, so the parameter has reached the copy.
    np.testing.assert_array_equal(
        copy.search(normal(2, 9, 6), 10).item_idx, whole.search(normal(2, 9, 6), 10).item_idx
    )


@pytest.mark.parametrize("kind", ["exact", "flat"])
def test_pitfall_padding_is_never_indexed(kind: str):
    index = build_index(IndexConfig(kind=kind), "inner_product", 2)
    with pytest.raises(RetrievalError, match="padding and unknown"):
        index.add(np.array([0, 1, 2]), np.ones((3, 2), np.float32))


@pytest.mark.parametrize("kind", ["exact", "flat"])
def test_wrong_use_is_refused(kind: str):
    index = build_index(IndexConfig(kind=kind), "inner_product", 4)
    with pytest.raises(RetrievalError, match="no items to add"):
        index.add(np.zeros(0, np.int64), np.zeros((0, 4), np.float32))
    with pytest.raises(RetrievalError, match="without items"):
        index.search(normal(0, 1, 4), 3)
    with pytest.raises(RetrievalError, match=r"expects \(rows, 4\)"):
        index.add(np.array([2]), normal(0, 1, 5))
    with pytest.raises(RetrievalError, match="expected float32"):
        index.add(np.array([2]), np.zeros((1, 4)))
    with pytest.raises(RetrievalError, match=r"expected \(2,\) integers"):
        index.add(np.array([2]), normal(0, 2, 4))
    with pytest.raises(RetrievalError, match="diverged"):
        index.add(np.array([2]), np.full((1, 4), np.nan, np.float32))
    index.add(np.array([5, 3]), normal(0, 2, 4))
    for again in ([4, 4], [6, 3]):
        with pytest.raises(RetrievalError, match="1 item_idx added twice"):
            index.add(np.array(again), normal(0, 2, 4))
    with pytest.raises(RetrievalError, match=r"queries of shape \(1, 3\)"):
        index.search(normal(0, 1, 3), 3)
    with pytest.raises(RetrievalError, match="k is 0"):
        index.search(normal(0, 1, 4), 0)


def test_config_accepts_every_kind_and_refuses_the_rest():
    for kind in ("exact", "flat", "Flat", "IVF1024,Flat", "HNSW32", "OPQ16,IVF64,PQ16", "PQ48", "LSH"):
        assert config.read(IndexConfig, {"kind": kind}, "index").kind == kind
    for kind in ("exakt", "IVFx,Flat", "", "IDMap,Flat", "IVF99999999,Flat"):
        with pytest.raises(ConfigError, match=r"^index\.kind: "):
            config.read(IndexConfig, {"kind": kind}, "index")
    for table, key in [
        ({"shards": 0}, "shards"),
        ({"replicas": 0}, "replicas"),
        ({"metric": "dot"}, "metric"),
        ({"search_parameters": "nprobe=4"}, "search_parameters"),
        ({"kind": "IVF4,Flat", "search_parameters": "nprobe=0"}, "search_parameters"),
    ]:
        with pytest.raises(ConfigError, match=rf"^index\.{key}: "):
            config.read(IndexConfig, table, "index")


def test_kinds_that_do_not_suit_are_refused_when_built():
    with pytest.raises(ConfigError, match=r"index\.kind: 'PQ48' .* 64 dimensions"):
        build_index(IndexConfig(kind="PQ48"), "l2", 64)
    with pytest.raises(ConfigError, match=r"index\.kind: 'LSH'"):
        build_index(IndexConfig(kind="LSH"), "inner_product", 64)
    with pytest.raises(ConfigError, match=r"index\.search_parameters: 'depth=3'"):
        build_index(IndexConfig(kind="IVF4,Flat", search_parameters="depth=3"), "l2", 8)
    with pytest.raises(RetrievalError, match="cannot be trained"):
        build_index(IndexConfig(kind="IVF40,Flat"), "l2", 8).train(normal(0, 5, 8))
    with pytest.raises(RetrievalError, match="threads"):
        set_search_threads(0)
