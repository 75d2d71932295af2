"""What a model has learnt, and what its stages were made from: the oracle is the plant."""

import json

import numpy as np
import pytest

from jobs import evaluate, index
from raysys.distributed.checkpoints import catalog_of
from raysys.manifest import read_manifest
from raysys.models import build_model
from raysys.run import load_run
from raysys.storage import Folder
from tests.integration.doctor.runs import (
    checks_of,
    copied,
    edit_weights,
    rewrite,
    sign,
    with_vectors,
)


def test_shuffled_vectors_are_at_chance(broken):
    path, out = broken

    def shuffled(vectors):
        return np.random.default_rng(0).permutation(vectors)

    rewrite(out, "vectors/items.parquet", lambda table: with_vectors(table, shuffled))
    for job in (index, evaluate):
        assert job.main(["--run", str(path), "--out", str(out)]) == 0
    found = checks_of(broken)
    assert found["vectors_find_targets"].state == "fault"
    assert found["chance_level"].state == "fault"
    assert found["chance_level"].figures["low"] < found["vectors_find_targets"].figures["chance"] + 0.1


def test_an_untrained_model_is_told_from_a_trained_one(broken):
    path, out = broken
    run, features = load_run(str(path)), Folder(out / "features")
    catalog = catalog_of(features, read_manifest(features, "features", "prepare"))
    model = build_model("mind", run.model, catalog, run.training.loss, run.training.seed)
    edit_weights(out, lambda weights: weights.update(model.state_dict()))
    check = checks_of(broken)["untrained_self"]
    assert check.state == "fault"
    assert check.figures["moved"] == 0
    assert "jobs/train.py" in check.remedy


def test_interests_that_are_one_are_found(broken):
    _, out = broken

    def equal(weights):
        last = max(name for name in weights if name.startswith("layers.weights."))
        weights[last].zero_()  # what is left is the bias, the same for every interest

    edit_weights(out, equal)
    check = checks_of(broken)["collapsed_interests"]
    assert check.state == "fault"
    assert check.figures["pairwise_cosine_mean"] == pytest.approx(1.0, abs=1e-5)
    assert "model." in check.remedy


def test_a_gate_that_is_open_for_everyone_is_a_warning(sdm, tmp_path):
    path, out = copied(sdm, tmp_path)

    def opened(weights):
        weights[max(name for name in weights if name.startswith("gate.biases"))].fill_(50.0)

    edit_weights(out, opened)
    check = checks_of((path, out))["saturated_gate"]
    assert check.state == "warning"
    assert check.figures["open"] == 1.0


def test_a_loss_that_is_not_finite_is_found(broken):
    _, out = broken
    state = json.loads((out / "checkpoint" / "state.json").read_text())
    state["curve"][-1]["train/loss"] = float("nan")
    (out / "checkpoint" / "state.json").write_text(json.dumps(state))
    sign(out / "checkpoint")
    check = checks_of(broken)["learning_curve"]
    assert check.state == "fault"
    assert "not finite" in check.found


def test_stages_of_other_inputs_are_found(broken):
    _, out = broken
    assert checks_of(broken, "training.seed=9")["stages_fit"].state == "warning"
    edit_weights(out, lambda weights: None)
    manifest = json.loads((out / "checkpoint" / "manifest.json").read_text())
    manifest["info"]["epochs"] = 99
    (out / "checkpoint" / "manifest.json").write_text(json.dumps(manifest))
    check = checks_of(broken)["stages_fit"]
    assert check.state == "fault"
    assert "vectors/ was made from another checkpoint/" in check.found
    assert "jobs/export.py" in check.remedy
