import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

from raysys.errors import ConfigError
from raysys.nn.loss_inputs import WITH_NEGATIVES, LossInputs, LossName, gbce_beta
from raysys.nn.negatives import NegativeSampler

COUNTS = np.array([0, 0, 900, 400, 100, 25, 9, 4, 1, 0, 0], dtype=np.int64)
TARGET = np.array([2, 3, 2, 8, 10])
BATCH = {"target": TARGET}
KEYS = {
    "sampled_softmax": {"negatives", "log_expected"},
    "full_softmax": set(),
    "in_batch": {"target_log_expected"},
    "mixed": {"negatives", "log_expected", "target_log_expected"},
    "gbce": {"negatives", "log_expected", "gbce_beta"},
    "bpr": {"negatives", "log_expected"},
}


@pytest.mark.parametrize("loss", get_args(LossName))
def test_each_loss_gets_what_it_needs(loss):
    arrays = LossInputs(loss, COUNTS, 7, seed=3).arrays(5, BATCH, 2)
    assert set(arrays) == KEYS[loss]
    assert (loss in WITH_NEGATIVES) == ("negatives" in arrays)
    for name, array in arrays.items():
        assert array.dtype == (np.int64 if name == "negatives" else np.float32)
        assert np.isfinite(array).all()
    if "negatives" in arrays:
        drawn, expected = NegativeSampler("popularity", COUNTS, 7, seed=3).draw(5)
        np.testing.assert_array_equal(arrays["negatives"], drawn)
        if loss != "mixed":
            np.testing.assert_array_equal(arrays["log_expected"], expected)


def test_in_batch_candidates_are_expected_as_often_as_their_share_of_the_batch():
    # 1,441 events, of which two are those that items without events count as
    arrays = LossInputs("in_batch", COUNTS).arrays(0, BATCH, 2)
    expected = 10 * np.array([900, 400, 900, 1, 1]) / 1441
    np.testing.assert_allclose(np.exp(arrays["target_log_expected"]), expected, rtol=1e-6)


def test_mixed_candidates_are_expected_from_both_sources():
    inputs = LossInputs("mixed", COUNTS, 7, sampler="uniform", seed=1)
    arrays = inputs.arrays(4, BATCH, 2)
    events = np.maximum(COUNTS, 1)
    for name, item_idx in (("target_log_expected", TARGET), ("log_expected", arrays["negatives"])):
        expected = 10 * events[item_idx] / 1441 + 7 / 9
        np.testing.assert_allclose(np.exp(arrays[name]), expected, rtol=1e-6)


def test_losses_without_in_batch_candidates_need_no_targets():
    for loss in ("sampled_softmax", "full_softmax", "gbce", "bpr"):
        assert LossInputs(loss, COUNTS, 3).arrays(0, {}).keys() == KEYS[loss]


def test_in_batch_losses_need_no_negatives():
    assert LossInputs("in_batch", COUNTS, 0).arrays(0, BATCH).keys() == KEYS["in_batch"]


@pytest.mark.parametrize(
    ("negatives", "items", "calibration", "beta"),
    [
        (256, 1025, 0.0, 1.0),
        (256, 1025, 1.0, 0.25),
        (256, 1025, 0.75, 0.25 * (0.75 * (1 - 1 / 0.25) + 1 / 0.25)),
        (5000, 1025, 0.75, 1.0),
        (1, 1, 0.75, 1.0),
    ],
)
def test_beta_is_that_of_the_formula(negatives, items, calibration, beta):
    assert gbce_beta(negatives, items, calibration) == pytest.approx(beta, abs=1e-15)
    counts = np.concatenate([[0, 0], np.ones(items, dtype=np.int64)])
    arrays = LossInputs("gbce", counts, negatives, calibration=calibration).arrays(0, BATCH)
    assert float(arrays["gbce_beta"]) == pytest.approx(beta, rel=1e-6)


def test_an_impossible_calibration_is_refused():
    with pytest.raises(ConfigError, match=r"gbce_t: found 1.5, expected in \[0, 1\]"):
        LossInputs("gbce", COUNTS, 3, calibration=1.5)


def test_a_run_file_is_read_without_torch():
    code = "import sys, raysys.nn.loss_inputs, raysys.training_config; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
