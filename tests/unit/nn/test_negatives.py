import math
import subprocess
import sys

import numpy as np
import pytest

from raysys.errors import ConfigError
from raysys.nn.negatives import NegativeSampler

COUNTS = np.array([0, 0, 900, 400, 100, 25, 9, 4, 1, 0, 0], dtype=np.int64)
KINDS = ("uniform", "log_uniform", "popularity")


def expected_prob(kind, power=0.75):
    ranks = range(len(COUNTS) - 2)
    if kind == "uniform":
        weights = [1.0 for _ in ranks]
    elif kind == "log_uniform":
        weights = [math.log(r + 2) - math.log(r + 1) for r in ranks]
    else:
        weights = [max(int(COUNTS[r + 2]), 1) ** power for r in ranks]
    return np.array(weights) / sum(weights)


@pytest.mark.parametrize("kind", KINDS)
def test_probabilities_are_those_of_the_formula_and_sum_to_one(kind):
    prob = NegativeSampler(kind, COUNTS, 4).prob(np.arange(2, len(COUNTS)))
    np.testing.assert_allclose(prob, expected_prob(kind), rtol=1e-12)
    assert prob.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_frequencies_follow_the_probabilities(kind):
    # chi-square with 8 degrees of freedom: above 27.9 has probability 0.0005
    draws = 200_000
    item_idx, _ = NegativeSampler(kind, COUNTS, draws, seed=11).draw(0)
    observed = np.bincount(item_idx, minlength=len(COUNTS))
    assert observed[:2].sum() == 0
    expected = expected_prob(kind) * draws
    assert ((observed[2:] - expected) ** 2 / expected).sum() < 27.9


@pytest.mark.parametrize("kind", KINDS)
def test_log_expected_is_the_log_of_the_expected_count(kind):
    item_idx, log_expected = NegativeSampler(kind, COUNTS, 50, seed=2).draw(3)
    assert item_idx.dtype == np.int64
    assert log_expected.dtype == np.float32
    assert item_idx.shape == log_expected.shape == (50,)
    np.testing.assert_allclose(
        log_expected, np.log(50 * expected_prob(kind)[item_idx - 2]), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_draw_is_a_function_of_seed_and_step(kind):
    sampler = NegativeSampler(kind, COUNTS, 40, seed=5)
    first = sampler.draw(7)
    sampler.draw(8)
    for again in (sampler.draw(7), NegativeSampler(kind, COUNTS, 40, seed=5).draw(7)):
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
    assert not np.array_equal(first[0], sampler.draw(8)[0])
    assert not np.array_equal(first[0], NegativeSampler(kind, COUNTS, 40, seed=6).draw(7)[0])


def test_power_shapes_popularity():
    ratio = {}
    for power in (0.0, 0.5, 1.0):
        prob = NegativeSampler("popularity", COUNTS, 4, power=power).prob(np.array([2, 3]))
        ratio[power] = prob[0] / prob[1]
    assert ratio == pytest.approx({0.0: 1.0, 0.5: 1.5, 1.0: 2.25})


def test_an_item_without_events_is_drawn_like_one_with_a_single_event():
    prob = NegativeSampler("popularity", COUNTS, 4).prob(np.array([8, 9, 10]))
    assert prob[0] == pytest.approx(prob[1]) == pytest.approx(prob[2])
    assert prob[1] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_catalogue_of_one_item(kind):
    item_idx, log_expected = NegativeSampler(kind, np.array([0, 0, 3]), 5).draw(0)
    assert item_idx.tolist() == [2] * 5
    np.testing.assert_allclose(log_expected, math.log(5), rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_of_the_unit_interval_stay_inside(kind, monkeypatch):
    class Ends:
        def random(self, size):
            return np.array([0.0, np.nextafter(1.0, 0.0)])[:size]

    monkeypatch.setattr("raysys.nn.negatives.generator", lambda *labels: Ends())
    assert NegativeSampler(kind, COUNTS, 2).draw(0)[0].tolist() == [2, len(COUNTS) - 1]
    for num_items in (*range(3, 300), 1_000_002):
        counts = np.broadcast_to(np.int64(1), num_items)
        item_idx, log_expected = NegativeSampler(kind, counts, 2).draw(0)
        assert item_idx[0] == 2
        assert num_items - 2 <= item_idx[1] <= num_items - 1  # by rounding it may be the last but one
        assert np.isfinite(log_expected).all()


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (("zipf", COUNTS, 3), {}, "sampler: found 'zipf', expected one of uniform, log_uniform, popularity"),
        (("uniform", COUNTS, 0), {}, "num_negatives: found 0, expected >= 1"),
        (("uniform", COUNTS[:2], 3), {}, "counts: found no real item"),
        (("popularity", COUNTS, 3), {"power": -1.0}, "power: found -1.0, expected >= 0"),
    ],
)
def test_impossible_options_are_refused(arguments, options, message):
    with pytest.raises(ConfigError, match=message):
        NegativeSampler(*arguments, **options)


def test_a_data_worker_can_sample_without_torch():
    code = "import sys, raysys.nn.negatives; print('torch' in sys.modules, 'ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
