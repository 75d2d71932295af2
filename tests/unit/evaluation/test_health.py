"""Interest health against plain loops (tests/reference/metrics.py, tolerance 1e-9) and hand-worked cases."""

import re
from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest

from raysys.errors import DataError, RetrievalError
from raysys.evaluation.health import (
    InterestHealth,
    alarm,
    collapse_signs,
    collapse_warning,
    interest_order,
    of_curve,
    to_curve,
    winning_interest,
)
from raysys.evaluation.metrics import hit_rate, recall
from raysys.models.mind_config import MindConfig
from raysys.retrieval.candidates import Candidates, Ragged, fold_interests
from raysys.training_config import TrainingConfig
from tests.reference.metrics import by_interests, mean_cosine, mean_entropy

B, T, K, D = 40, 6, 4, 5


def make_case(seed: int) -> tuple[np.ndarray, ...]:
    random = np.random.default_rng(seed)
    active = np.arange(K) < random.integers(1, K + 1, B)[:, None]
    vectors = random.standard_normal((B, K, D)).astype(np.float32)
    mask = random.random((B, T)) < 0.7
    couplings = np.where(active[:, None], random.random((B, T, K)), 0)
    couplings = np.where(mask[:, :, None], couplings / couplings.sum(axis=2, keepdims=True), 0)
    return vectors, active, couplings.astype(np.float32), mask, random.integers(-1, K, B)


def test_result_equals_loops():
    vectors, active, couplings, mask, winners = make_case(0)
    health = InterestHealth(K)
    health.add(vectors, active, couplings, mask, winners)
    result = health.result()
    assert list(result)[:4] == ["active_mean", "pairwise_cosine_mean", "routing_entropy_mean", "wins"]
    assert result["users"] == B
    assert result["active_mean"] == pytest.approx(active.sum() / B)
    assert result["pairwise_cosine_mean"] == pytest.approx(
        mean_cosine(vectors.tolist(), active.tolist()), abs=1e-9
    )
    # float32 couplings sum to one within a few roundings only, hence 1e-6.
    entropy = mean_entropy(couplings.tolist(), active.tolist(), mask.tolist())
    assert result["routing_entropy_mean"] == pytest.approx(entropy, abs=1e-6)
    wins = [int((winners == interest).sum()) / int((winners >= 0).sum()) for interest in range(K)]
    assert result["wins"] == pytest.approx(wins)


def test_parts_merge_to_the_whole():
    arrays = make_case(1)
    whole, left, right = InterestHealth(K), InterestHealth(K), InterestHealth(K)
    whole.add(*arrays)
    left.add(*(array[:13] for array in arrays))
    right.add(*(array[13:] for array in arrays))
    expected = whole.result()
    for merged in (left.merge(right).result(), right.merge(left).result()):
        assert merged["wins"] == expected["wins"]
        for key in ("active_mean", "pairwise_cosine_mean", "routing_entropy_mean"):
            assert merged[key] == pytest.approx(expected[key], rel=1e-12)


def test_hand_worked_case():
    vectors = np.array([[[1, 0], [0, 2], [9, 9]], [[3, 0], [-1, 0], [1, 0]]], np.float32)
    active = np.array([[True, True, False], [True, True, True]])
    couplings = np.array([[[0.5, 0.5, 0]], [[1, 0, 0]]], np.float32)
    health = InterestHealth(3)
    health.add(vectors, active, couplings, np.ones((2, 1), np.bool_), np.array([1, 1]))
    # Cosines: 0 for the first user; -1, 1 and -1 for the second. Entropies: log 2 / log 2 and 0.
    assert health.result() == {
        "active_mean": 2.5,
        "pairwise_cosine_mean": pytest.approx(-1 / 4),
        "routing_entropy_mean": pytest.approx(1 / 2),
        "wins": [0.0, 1.0, 0.0],
        "users": 2,
        "cutoff": 0,
        "recall_by_interests": [],
        "hit_rate_by_interests": [],
    }


def test_nothing_measured_is_none_and_never_nan():
    empty = InterestHealth(2)
    assert empty.result() == {
        "active_mean": None,
        "pairwise_cosine_mean": None,
        "routing_entropy_mean": None,
        "wins": [],
        "users": 0,
        "cutoff": 0,
        "recall_by_interests": [],
        "hit_rate_by_interests": [],
    }
    empty.add(np.zeros((3, 2, 4), np.float32), np.tile([True, False], (3, 1)))
    result = empty.result()
    assert result["active_mean"] == 1
    assert result["pairwise_cosine_mean"] is None
    zero = InterestHealth(2)
    zero.add(np.zeros((3, 2, 4), np.float32), np.ones((3, 2), np.bool_))
    assert zero.result()["pairwise_cosine_mean"] == 0


def test_winning_interest_is_the_best_active_one():
    vectors = np.array([[[1, 0], [5, 0]], [[1, 0], [5, 0]], [[2, 0], [2, 0]], [[1, 0], [1, 0]]], np.float32)
    active = np.array([[True, True], [True, False], [True, True], [False, False]])
    items = np.tile(np.array([[1, 0]], np.float32), (4, 1))
    assert winning_interest(vectors, active, items).tolist() == [1, 0, 0, -1]


# What the first interests find


def make_answers(seed: int, interests: int = K, width: int = 9) -> tuple[Candidates, Ragged, np.ndarray]:
    """Answers of every interest of B users, held-out items (none of every seventh user), and which count."""
    random = np.random.default_rng(seed)
    active = np.arange(interests) < random.integers(1, interests + 1, B)[:, None]
    item_idx = np.array([random.choice(np.arange(2, 32), width, replace=False) for _ in range(B * interests)])
    score = -np.sort(-random.integers(-9, 10, item_idx.shape), axis=1).astype(np.float32)
    order = np.lexsort((item_idx, -score))
    item_idx = np.take_along_axis(item_idx, order, 1)
    gone = ~active.reshape(-1, 1) | (random.random(item_idx.shape) < 0.1).cumsum(axis=1).astype(np.bool_)
    alone = Candidates(np.where(gone, -1, item_idx), np.where(gone, np.float32(-np.inf), score))
    truth = [
        random.choice(np.arange(2, 32), 1 + user % 3, replace=False) if user % 7 else [] for user in range(B)
    ]
    return alone, Ragged.of_rows(truth), active


def slow_orders(couplings: np.ndarray, mask: np.ndarray, active: np.ndarray) -> list[list[int]]:
    orders: list[list[int]] = []
    for weights, real, on in zip(couplings.tolist(), mask.tolist(), active.tolist(), strict=True):
        held = [
            sum(row[k] for row, there in zip(weights, real, strict=True) if there) for k in range(len(on))
        ]
        orders.append(sorted(range(len(on)), key=lambda k: (not on[k], -held[k] * on[k], k)))
    return orders


def test_interests_join_by_the_behaviours_that_they_hold():
    _, active, couplings, mask, _ = make_case(3)
    assert interest_order(couplings, mask, active).tolist() == slow_orders(couplings, mask, active)
    # one behaviour of three is padding; equal shares are ordered by number, inactive interests come last
    couplings = np.array([[[0.9, 0.1, 0.0]], [[0.4, 0.4, 0.2]], [[0.3, 0.3, 0.4]]], np.float32)
    active = np.array([[True, True, False], [True, True, True], [True, False, True]])
    shown = interest_order(couplings, np.array([[False], [True], [True]]), active)
    assert shown.tolist() == [[0, 1, 2], [0, 1, 2], [2, 0, 1]]


@pytest.mark.parametrize("cutoff", [1, 4, 9])
def test_what_the_first_interests_find_equals_loops(cutoff: int):
    alone, truth, active = make_answers(cutoff)
    _, _, couplings, mask, _ = make_case(3)
    order = interest_order(couplings, mask, active)
    health = InterestHealth(K, cutoff)
    health.add_answers(alone, order, truth)
    result = health.result()
    hits, recalls = by_interests(
        [
            list(zip(a, b, strict=True))
            for a, b in zip(alone.item_idx.tolist(), alone.score.tolist(), strict=True)
        ],
        slow_orders(couplings, mask, active),
        [truth.items[a:b].tolist() for a, b in zip(truth.offsets, truth.offsets[1:], strict=False)],
        cutoff,
    )
    assert result["hit_rate_by_interests"] == pytest.approx(hits, abs=1e-12)
    assert result["recall_by_interests"] == pytest.approx(recalls, abs=1e-12)
    assert health.judged == sum(user % 7 > 0 for user in range(B))
    # all interests together are the model itself
    whole = fold_interests(alone, K, active)
    assert hits[-1] == pytest.approx(np.nanmean(hit_rate(whole, truth, cutoff)), abs=1e-12)
    assert recalls[-1] == pytest.approx(np.nanmean(recall(whole, truth, cutoff)), abs=1e-12)


def test_a_single_interest_gives_the_metric_itself():
    alone, truth, active = make_answers(5, interests=1)
    health = InterestHealth(1, 6)
    health.add_answers(alone, np.zeros((B, 1), np.int64), truth)
    found = health.result()["recall_by_interests"]
    assert found == [pytest.approx(np.nanmean(recall(fold_interests(alone, 1, active), truth, 6)))]


def test_totals_with_answers_merge_and_travel_as_numbers():
    arrays = make_case(1)
    alone, truth, active = make_answers(1)
    order = interest_order(arrays[2], arrays[3], active)

    def measured(users: slice) -> InterestHealth:
        health = InterestHealth(K, 5)
        health.add(*(array[users] for array in arrays))
        rows = np.arange(B * K).reshape(B, K)[users].ravel()
        sets = Ragged.of_rows(
            truth.items[a:b].tolist()
            for a, b in zip(truth.offsets[:-1][users], truth.offsets[1:][users], strict=True)
        )
        health.add_answers(Candidates(alone.item_idx[rows], alone.score[rows]), order[users], sets)
        return health

    whole, left, right = (measured(users) for users in (slice(None), slice(0, 13), slice(13, None)))
    assert left.merge(right).sums() == pytest.approx(whole.sums(), rel=1e-12)
    assert right.merge(left).sums() == pytest.approx(whole.sums(), rel=1e-12)
    assert InterestHealth.of_sums(K, 5, whole.sums()).result() == whole.result()
    assert left.merge(InterestHealth(K, 5)).result() == left.result()  # a part without users


def test_a_health_comes_back_from_the_learning_curve():
    health = InterestHealth(K, 3)
    health.add(*make_case(2))
    alone, truth, active = make_answers(2)
    health.add_answers(alone, np.argsort(~active, axis=1, kind="stable"), truth)
    result = health.result()
    entry = to_curve(result)
    assert set(entry) == {"health/active", "health/pairwise_cosine", "health/routing_entropy"} | {
        f"health/{name}{place}" for name in ("wins_", "recall_with_") for place in range(1, K + 1)
    }
    assert entry["health/wins_2"] == result["wins"][1]
    kept = ("active_mean", "pairwise_cosine_mean", "routing_entropy_mean", "wins", "recall_by_interests")
    assert of_curve({"epoch": 1, "valid/mrr": 0.1, **entry}) == {name: result[name] for name in kept}
    assert of_curve({"valid/mrr": 0.1}) == {}
    assert to_curve(InterestHealth(2).result()) == {}


# Collapse

FINE = {
    "active_mean": 1.9,
    "pairwise_cosine_mean": 0.3,
    "routing_entropy_mean": 0.6,
    "wins": [0.4, 0.6],
}
CASES = [
    ({"pairwise_cosine_mean": 0.99}, "same_direction", "point the same way"),
    ({"routing_entropy_mean": 0.999}, "even_routing", "evenly"),
    ({"wins": [0.02, 0.98]}, "one_winner", "interest 2 finds the first item of 98%"),
    ({"wins": [0.5, 0.5, 0.0]}, "idle", "interest 3 hardly ever finds"),
    ({"wins": [0.5, 0.5, 0.0, 0.0]}, "idle", "interests 3, 4 hardly ever find"),
    ({"active_mean": 1.0, "wins": [1.0, 0.0]}, "one_active", "1.00 active interests"),
]


@pytest.mark.parametrize(("change", "name", "sign"), CASES)
def test_collapse_is_named_with_a_remedy(change: dict, name: str, sign: str):
    assert collapse_warning(FINE) is None
    assert list(collapse_signs(FINE | change)) == [name]
    text = collapse_warning(FINE | change)
    assert text is not None
    assert sign in text
    assert "try" in text


def test_remedies_are_keys_of_a_run_file():
    known = {f"model.{field.name}" for field in fields(MindConfig)}
    known |= {f"training.{field.name}" for field in fields(TrainingConfig)}
    known |= {"model.routing_start", "model.routing_regularisation"}
    for change, _, _ in CASES:
        named = re.findall(r"(?:model|training)\.\w+", collapse_warning(FINE | change) or "")
        assert named
        assert set(named) <= known


def test_every_sign_is_told():
    text = collapse_warning(FINE | {"pairwise_cosine_mean": 0.99, "wins": [1.0, 0.0]})
    assert text is not None
    assert "point the same way" in text
    assert "finds the first item" in text


def test_one_interest_or_nothing_measured_is_no_collapse():
    assert collapse_warning({"active_mean": 1.0, "pairwise_cosine_mean": None, "wins": [1.0]}) is None
    assert collapse_warning(InterestHealth(4).result()) is None
    assert collapse_warning({}) is None


def test_the_alarm_is_heard_when_it_begins_changes_and_ends():
    same = FINE | {"pairwise_cosine_mean": 0.99}
    closer = FINE | {"pairwise_cosine_mean": 0.995}
    both = closer | {"wins": [1.0, 0.0]}
    heard = [alarm(before, now) for before, now in pairwise([{}, FINE, same, closer, both, same, FINE, FINE])]
    assert [on for on, _ in heard] == [False, True, True, True, True, False, False]
    assert [text == "" for _, text in heard] == [True, False, True, False, False, False, True]
    assert "0.990" in heard[1][1]
    assert "finds the first item" in heard[3][1]
    assert "finds the first item" not in heard[4][1]
    assert heard[5][1] == "no longer collapsed (same_direction)"


def test_planted_vectors_ring_the_alarm_and_distinct_ones_do_not():
    random = np.random.default_rng(0)
    active, mask = np.ones((B, K), np.bool_), np.ones((B, T), np.bool_)
    one = np.repeat(random.standard_normal((B, 1, D)), K, axis=1).astype(np.float32)
    even = np.full((B, T, K), 1 / K, np.float32)
    collapsed = InterestHealth(K)
    collapsed.add(one, active, even, mask, np.zeros(B, np.int64))
    assert set(collapse_signs(collapsed.result())) == {"same_direction", "even_routing", "one_winner"}
    apart = np.tile(np.eye(K, D, dtype=np.float32), (B, 1, 1))
    sure = np.eye(K, dtype=np.float32)[random.integers(0, K, (B, T))]
    healthy = InterestHealth(K)
    healthy.add(apart, active, sure, mask, random.integers(0, K, B))
    assert collapse_signs(healthy.result()) == {}


def test_shapes_that_do_not_fit_are_refused():
    vectors, active, couplings, mask, _ = make_case(0)
    with pytest.raises(DataError, match="interests: vectors"):
        InterestHealth(3).add(vectors, active)
    with pytest.raises(DataError, match="couplings"):
        InterestHealth(K).add(vectors, active, couplings)
    with pytest.raises(DataError, match="couplings"):
        InterestHealth(K).add(vectors, active, couplings[:, :2], mask)
    with pytest.raises(DataError, match="do not merge"):
        InterestHealth(3).merge(InterestHealth(4))
    with pytest.raises(DataError, match="do not merge"):
        InterestHealth(3, 5).merge(InterestHealth(3, 10))
    alone, truth, _ = make_answers(0)
    for health in (InterestHealth(K), InterestHealth(K + 1, 5)):
        with pytest.raises(DataError, match="answers of 4 interests"):
            health.add_answers(alone, np.zeros((B, K), np.int64), truth)
    with pytest.raises(RetrievalError, match="rows of candidates"):
        InterestHealth(K, 5).add_answers(alone, np.zeros((B - 1, K), np.int64), truth)
