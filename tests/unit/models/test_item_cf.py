"""Item neighbours against plain loops over the formulas, and cases small enough to work out by hand."""

import numpy as np
import pytest

from raysys.data.sequences import SessionConfig
from raysys.errors import ConfigError
from raysys.models import item_cf, read_model_config
from raysys.models.contract import RowModel
from raysys.models.item_cf import ItemCf
from raysys.models.item_cf_config import ItemCfConfig
from raysys.retrieval.table import NeighbourTable, TableRetriever
from tests.reference.item_cf import matrix, scores_of, similarities_of


def some_counts(seed=0, items=14, users=12):
    random = np.random.default_rng(seed)
    counts = random.integers(1, 4, (items, users)) * (random.random((items, users)) < 0.35)
    counts[:2] = counts[:, :2] = 0
    counts[-1] = 0  # an item without events
    counts[-2] = counts[-3]  # two items alike
    return counts


def table_of(counts, **options):
    model = ItemCf(ItemCfConfig(**options))
    return NeighbourTable(*model.rows(model.weigh(matrix(counts)), np.arange(len(counts))))


def as_rows(table):
    """Return per source {neighbour: similarity}."""
    rows = zip(table.item_idx.tolist(), table.score.tolist(), strict=True)
    return [{i: s for i, s in zip(*row, strict=True) if i >= 0} for row in rows]


OPTIONS = [
    {"similarity": "cosine"},
    {"similarity": "tf_idf"},
    {"similarity": "bm25"},
    {"similarity": "bm25", "bm25_k1": 0.0, "bm25_b": 0.3},
    {"similarity": "bm25", "bm25_k1": 100.0, "bm25_b": 1.0},
]


def test_it_is_a_row_model():
    assert isinstance(ItemCf(ItemCfConfig()), RowModel)
    shape = ItemCf.samples(ItemCfConfig(history_length=7), SessionConfig())
    assert (shape.history_length, shape.profile_features, shape.kind) == (7, (), "next_item")


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("pieces", [2**20, 7])
def test_rows_equal_the_formulas(options, pieces, monkeypatch):
    monkeypatch.setattr(item_cf, "_TERMS", pieces)
    counts = some_counts()
    reference = {key.removeprefix("bm25_"): value for key, value in options.items()}
    expected = similarities_of(counts, **reference)
    for source, row in enumerate(as_rows(table_of(counts, **options))):
        wanted = {item: s for item, s in enumerate(expected[source]) if s > 0}
        assert row.keys() == wanted.keys()
        for item, similarity in row.items():
            assert similarity == pytest.approx(wanted[item], rel=1e-6)


@pytest.mark.parametrize("similarity", ["cosine", "tf_idf", "bm25"])
def test_the_best_are_kept_beside_the_item_itself(similarity):
    counts = some_counts(seed=4)
    whole = as_rows(table_of(counts, similarity=similarity))
    short = table_of(counts, similarity=similarity, num_neighbours=2)
    assert short.item_idx.shape == (len(counts), 3)
    for source, row in enumerate(as_rows(short)):
        others = {item: s for item, s in whole[source].items() if item != source}
        best = sorted(others, key=lambda item: (-others[item], item))[:2]
        assert row == {item: whole[source][item] for item in [*best, source] if item in whole[source]}


def test_cosines_by_hand():
    counts = np.zeros((6, 5), int)
    counts[2, 2:5] = 1, 1, 0
    counts[3, 2:5] = 1, 0, 0
    counts[4, 2:5] = 2, 0, 1
    rows = as_rows(table_of(counts))
    half = np.sqrt(0.5)
    assert rows[2] == pytest.approx({2: 1.0, 3: half, 4: 2 / np.sqrt(10)})
    assert rows[3] == pytest.approx({3: 1.0, 4: 2 / np.sqrt(5), 2: half})
    assert rows[5] == {5: 1.0}  # nobody had it: it is like itself alone
    assert rows[0] == rows[1] == {}
    assert table_of(counts).item_idx[3].tolist()[:4] == [3, 4, 2, -1]


def test_items_alike_are_as_near_as_the_item_itself_and_the_first_comes_first():
    counts = np.zeros((5, 4), int)
    counts[2:5, 2:4] = [[1, 2], [1, 2], [1, 2]]
    found = table_of(counts)
    assert found.item_idx[3].tolist()[:3] == [2, 3, 4]
    assert found.score[3].tolist()[:3] == [1.0, 1.0, 1.0]


def test_an_answer_is_the_decayed_sum_over_the_latest_events():
    counts = some_counts(seed=1)
    model = ItemCf(ItemCfConfig(history_length=4, decay=0.5))
    found = table_of(counts)
    histories = [[5, 3, 3, 2], [7], [], [1, 9]]
    batch = np.zeros((4, 4), np.int64)
    for query, history in enumerate(histories):
        batch[query, 4 - len(history) :] = history
    seeds, weights = model.seeds({"history": batch})
    assert weights.tolist() == [0.125, 0.25, 0.5, 1.0, 1.0, 1.0]
    answer = TableRetriever(found).retrieve(seeds, weights, 20)
    rows = dict(enumerate(as_rows(found)))
    for query, history in enumerate(histories):
        scores = scores_of(rows, history, 0.5)
        ranked = sorted(scores, key=lambda item: (-np.float32(scores[item]), item))
        got = answer.item_idx[query]
        assert got[got >= 0].tolist() == ranked
        np.testing.assert_allclose(answer.score[query, : len(ranked)], [scores[i] for i in ranked], rtol=1e-6)


def test_the_latest_event_answers_first_where_repeats_are_allowed():
    counts = np.zeros((6, 6), int)
    counts[2:6, 2:6] = np.eye(4, dtype=int)  # no two items share a user
    seeds, weights = ItemCf(ItemCfConfig()).seeds({"history": np.array([[2, 5, 4]])})
    answer = TableRetriever(table_of(counts)).retrieve(seeds, weights, 4)
    assert answer.item_idx.tolist() == [[4, 5, 2, -1]]
    np.testing.assert_allclose(answer.score[0, :3], [1.0, 0.9, 0.81], rtol=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("similarity", "jaccard", "model.similarity: found 'jaccard', expected one of cosine, tf_idf, bm25"),
        ("num_neighbours", 0, "model.num_neighbours: found 0, expected >= 1"),
        ("history_length", 0, "model.history_length: found 0, expected >= 1"),
        ("decay", 0, "model.decay: found 0.0, expected above 0 and at most 1"),
        ("decay", 1.1, "model.decay: found 1.1, expected above 0 and at most 1"),
        ("bm25_k1", -1, "model.bm25_k1: found -1.0, expected >= 0 and finite"),
        ("bm25_k1", float("inf"), "model.bm25_k1: found inf, expected >= 0 and finite"),
        ("bm25_b", 1.5, "model.bm25_b: found 1.5, expected in [0, 1]"),
        ("embedding_dim", 8, "model.embedding_dim: unknown key"),
    ],
)
def test_a_wrong_value_is_refused_by_key(key, value, message):
    with pytest.raises(ConfigError) as caught:
        read_model_config({"name": "item_cf", key: value})
    assert str(caught.value).startswith(message)
