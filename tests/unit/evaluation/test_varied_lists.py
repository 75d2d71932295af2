"""Lists with variety as a run asks for them: the keys of `[evaluation]`, the categories, the curve's page."""

import numpy as np
import pytest

from raysys.distributed.measure import item_categories, make_curve, make_lists
from raysys.errors import ConfigError
from raysys.evaluation.metrics import EvaluationConfig
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.diversity import diversify
from tests.reference.world import small_catalog
from tests.unit.evaluation.sample_runs import finished_run
from tests.unit.evaluation.test_report import build

POINTS = [
    {"weight": 0.0, "hit_rate@5": 0.3, "recall@5": 0.3, "ndcg@5": 0.2, "diversity@5": 0.4, "settled@5": 1.0},
    {"weight": 0.5, "hit_rate@5": 0.2, "recall@5": 0.2, "ndcg@5": 0.1, "diversity@5": 0.9, "settled@5": 0.5},
]


def deep(queries=4, width=12):
    random = np.random.default_rng(0)
    item_idx = np.stack([random.permutation(22)[:width] + 2 for _ in range(queries)])
    return Candidates(item_idx, -np.sort(-random.random((queries, width), np.float32), axis=1))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"diversity_weight": -0.1}, "diversity_weight: found -0.1"),
        ({"max_per_category": -1}, "max_per_category: found -1"),
        ({"diversity_depth": 0}, "diversity_depth: found 0"),
        ({"diversity_curve": (0.1, 0.2)}, "rising numbers from 0"),
        ({"diversity_curve": (0.0, 0.2, 0.2)}, "rising numbers from 0"),
        ({"diversity_curve": (0.0, float("inf"))}, "up to 1e30"),
    ],
)
def test_values_out_of_range_are_refused(fields, words):
    with pytest.raises(ConfigError, match=words):
        EvaluationConfig(**fields)


def test_a_search_is_deeper_only_where_lists_are_chosen_from_it():
    assert EvaluationConfig(ks=(5,)).search_depth == 5
    assert EvaluationConfig(ks=(5,), diversity_weight=0.1).search_depth == 25
    assert EvaluationConfig(ks=(5,), max_per_category=2, diversity_depth=3).search_depth == 15
    assert EvaluationConfig(ks=(5,), diversity_curve=(0.0,)).search_depth == 25


def test_the_category_is_the_first_value_of_the_named_feature():
    catalog = small_catalog(24)
    assert item_categories(catalog, "").tolist() == catalog.item_values["cate"].tolist()
    assert item_categories(catalog, "tags").tolist() == catalog.item_values["tags"][:, 0].tolist()


@pytest.mark.parametrize("name", ["price.usd", "colour"])
def test_a_category_that_is_a_number_or_unknown_is_named(name):
    with pytest.raises(ConfigError, match=rf"diversity_category: found '{name}'.*cate, tags"):
        item_categories(small_catalog(24), name)


def test_items_without_categories_are_said():
    with pytest.raises(ConfigError, match=r"no categorical feature.*\[data.items\]"):
        item_categories(small_catalog(24, features=False), "")


def test_lists_are_the_first_ones_or_those_of_the_merge():
    catalog, found = small_catalog(24), deep()
    plain = make_lists(found, catalog, EvaluationConfig(ks=(3,), diversity_depth=4))
    assert plain.item_idx.tolist() == found.item_idx[:, :3].tolist()
    config = EvaluationConfig(ks=(3,), diversity_weight=0.4, max_per_category=1, diversity_depth=4)
    varied = make_lists(found, catalog, config)
    expected = diversify(found, catalog.item_values["cate"], 3, 0.4, 1)
    assert varied.item_idx.tolist() == expected.item_idx.tolist()
    assert varied.item_idx.tolist() != plain.item_idx.tolist()


def test_a_curve_is_made_only_if_asked_for_and_starts_with_the_plain_lists():
    catalog, found = small_catalog(24), deep()
    truth = np.arange(5), found.item_idx[:, 2].copy()
    assert make_curve(found, catalog, truth, EvaluationConfig(ks=(3,))) is None
    config = EvaluationConfig(ks=(3,), diversity_curve=(0.0, 5.0), diversity_depth=4)
    curve = make_curve(found, catalog, truth, config)
    assert curve is not None
    first, last = curve.points()
    assert first["hit_rate@3"] == 1.0
    assert last["diversity@3"] >= first["diversity@3"]


def test_the_page_draws_and_tells_the_curve(tmp_path):
    page, markdown = build(tmp_path, finished_run(tmp_path / "mind", diversity_curve=POINTS))
    assert "Relevance and diversity" in page
    assert "takes hit_rate@5 from 0.3000 to 0.2000" in markdown
    assert "from 0.4000 to 0.9000" in markdown
    assert "| 0.5 | 0.2000 | 0.2000 | 0.1000 | 0.9000 | 0.5000 |" in markdown


def test_a_run_that_did_not_ask_has_no_such_part(tmp_path):
    page, _ = build(tmp_path, finished_run(tmp_path / "mind"))
    assert "Relevance and diversity" not in page
