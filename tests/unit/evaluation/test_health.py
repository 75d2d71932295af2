"""Interest health against plain loops (tests/reference/metrics.py, tolerance 1e-9) and hand-worked cases."""

import numpy as np
import pytest

from raysys.errors import DataError
from raysys.evaluation.health import InterestHealth, collapse_warning, winning_interest
from tests.reference.metrics import mean_cosine, mean_entropy

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
    assert list(result) == ["active_mean", "pairwise_cosine_mean", "routing_entropy_mean", "wins"]
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
    }


def test_nothing_measured_is_none_and_never_nan():
    empty = InterestHealth(2)
    assert empty.result() == {
        "active_mean": None,
        "pairwise_cosine_mean": None,
        "routing_entropy_mean": None,
        "wins": [],
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


@pytest.mark.parametrize(
    ("change", "sign"),
    [
        ({"pairwise_cosine_mean": 0.99}, "point the same way"),
        ({"routing_entropy_mean": 0.999}, "evenly"),
        ({"wins": [0.02, 0.98]}, "interest 1 wins 98%"),
        ({"wins": [0.5, 0.5, 0.0]}, "interests 2 hardly ever win"),
        ({"active_mean": 1.0}, "one active interest"),
    ],
)
def test_collapse_is_named_with_a_remedy(change: dict, sign: str):
    fine = {
        "active_mean": 1.9,
        "pairwise_cosine_mean": 0.3,
        "routing_entropy_mean": 0.6,
        "wins": [0.4, 0.6],
    }
    assert collapse_warning(fine) is None
    text = collapse_warning(fine | change)
    assert text is not None
    assert sign in text
    assert "try" in text


def test_one_interest_or_nothing_measured_is_no_collapse():
    assert collapse_warning({"active_mean": 1.0, "pairwise_cosine_mean": None, "wins": [1.0]}) is None
    assert collapse_warning(InterestHealth(4).result()) is None


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
