"""Losses, samplers and corrections: none is under false suspicion, and planted faults are found."""

from unittest import mock

import numpy as np
import pytest
import torch

from raysys.nn import losses
from raysys.nn.negatives import NegativeSampler
from tests.integration.doctor.runs import checks_of, copied, sign

LOSSES = ("sampled_softmax", "mixed", "in_batch", "gbce", "bpr", "full_softmax")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("score", ["label_aware", "served"])
def test_no_loss_is_under_false_suspicion(mind, tmp_path, loss, score):
    """Weights of another loss: what a loss scores and leaves out does not depend on them."""
    path, out = copied(mind, tmp_path)
    text = (out / "checkpoint" / "run.toml").read_text()
    text = text.replace('loss = "sampled_softmax"', f'loss = "{loss}"')
    text = text.replace("temperature = 1.0", "temperature = 0.5").replace("label_aware", score)
    (out / "checkpoint" / "run.toml").write_text(text)
    sign(out / "checkpoint")
    found = checks_of((path, out))
    untold = loss == "full_softmax" or (loss == "gbce" and score == "label_aware")
    assert found["accidental_hits"].state == ("not checked" if loss == "full_softmax" else "ok")
    no_single = untold and score == "label_aware"
    assert found["training_similarity"].state == ("not checked" if no_single else "ok")
    corrects = loss in ("sampled_softmax", "mixed")
    assert found["logq_correction"].state == ("ok" if corrects else "not checked")


@pytest.mark.parametrize("loss", ["sampled_softmax", "in_batch", "mixed"])
def test_a_loss_without_its_mask_is_found(mind, tmp_path, loss):
    path, out = copied(mind, tmp_path)
    text = (out / "checkpoint" / "run.toml").read_text()
    (out / "checkpoint" / "run.toml").write_text(text.replace('"sampled_softmax"', f'"{loss}"'))
    sign(out / "checkpoint")

    def unmasked(positive, scores, less, accidental, hardness):
        return own(positive, scores, less, torch.zeros_like(accidental), hardness)

    own = losses._softmax_losses
    with mock.patch.object(losses, "_softmax_losses", unmasked):
        check = checks_of((path, out))["accidental_hits"]
    assert check.state == "fault"
    assert check.figures["hits"] > 0
    assert "losses.py" in check.remedy


def test_accidental_hits_are_as_many_as_the_sampler_makes_expect(mind):
    figures = checks_of(mind)["accidental_hits"].figures
    # a Poisson count within six of its standard deviations
    assert abs(figures["hits"] - figures["expected_hits"]) < 6 * figures["expected_hits"] ** 0.5


@pytest.mark.parametrize("sampler", ["uniform", "log_uniform", "popularity"])
def test_no_sampler_is_under_false_suspicion_and_one_by_id_is(mind, tmp_path, sampler):
    path, out = copied(mind, tmp_path)
    text = (out / "checkpoint" / "run.toml").read_text()
    text = text.replace('sampler = "popularity"', f'sampler = "{sampler}"')
    (out / "checkpoint" / "run.toml").write_text(text)
    sign(out / "checkpoint")
    found = checks_of((path, out))
    assert found["sampler_order"].state == found["logq_correction"].state == "ok"
    if sampler != "log_uniform":
        return

    def by_id(self, step):
        item_idx, expected = own(self, step)
        return self.num_candidates + 3 - item_idx, expected

    own = NegativeSampler.draw
    with mock.patch.object(NegativeSampler, "draw", by_id):
        found = checks_of((path, out))
    assert found["sampler_order"].state == "fault"
    assert found["sampler_order"].figures["rank_correlation"] < 0
    assert found["logq_correction"].state == "ok"


def test_a_correction_that_is_not_what_was_drawn_is_found(mind):
    def uncorrected(self, step):
        item_idx, expected = own(self, step)
        return item_idx, np.zeros_like(expected)

    own = NegativeSampler.draw
    with mock.patch.object(NegativeSampler, "draw", uncorrected):
        found = checks_of(mind)
    assert found["logq_correction"].state == "fault"
    assert found["sampler_order"].state == "ok"


def test_a_correction_with_the_wrong_sign_is_found(mind):
    def turned(positive, scores, less, accidental, hardness):
        return own(positive, scores, None if less is None else -less, accidental, hardness)

    own = losses._softmax_losses
    with mock.patch.object(losses, "_softmax_losses", turned):
        check = checks_of(mind)["logq_correction"]
    assert check.state == "fault"
    assert check.figures["shift"] == pytest.approx(-1.0, abs=1e-3)
