"""Vectors, index and similarity: the oracle is the plant, in the files of a run or in the code."""

from unittest import mock

import numpy as np
import torch

from jobs import index
from raysys.models import sdm as sdm_model
from raysys.models.mind import Mind
from tests.integration.doctor.runs import checks_of, edit_weights, rewrite, with_vectors


def unit_length(vectors):
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_vectors_of_length_one_for_a_model_of_inner_products_are_found(broken):
    _, out = broken
    rewrite(out, "vectors/items.parquet", lambda table: with_vectors(table, unit_length))
    found = checks_of(broken)
    assert found["exported_vectors"].state == "fault"
    assert found["exported_vectors"].figures["differ"] == 60
    assert found["training_similarity"].state == "fault"
    assert "model.normalize" in found["training_similarity"].remedy


def test_an_index_that_compares_otherwise_than_the_loss_is_found(broken):
    path, out = broken
    flags = ["--run", str(path), "--out", str(out)]
    assert index.main([*flags, "--set", 'index.metric="cosine"']) == 0
    check = checks_of(broken)["index_order"]
    assert check.state == "fault"
    assert 'index.metric = "model"' in check.remedy


def test_a_damaged_shard_is_found(broken):
    _, out = broken
    shard = out / "index" / "shard-00001.faiss"
    data = bytearray(shard.read_bytes())
    data[-40] ^= 1
    shard.write_bytes(data)
    check = checks_of(broken)["index_order"]
    assert check.state == "fault"
    assert "jobs/index.py" in check.remedy


def test_a_model_that_gives_no_numbers_is_found(broken):
    _, out = broken
    edit_weights(
        out,
        lambda weights: [value.fill_(float("nan")) for name, value in weights.items() if "layers" in name],
    )
    found = checks_of(broken)
    assert found["same_user_same_vectors"].state == "fault"
    assert found["vectors_find_targets"].state == "fault"
    assert found["index_order"].state == "not checked"


def test_an_approximate_index_is_no_fault(broken):
    path, out = broken
    assert index.main(["--run", str(path), "--out", str(out), "--set", 'index.kind="HNSW8"']) == 0
    assert checks_of(broken, 'index.kind="HNSW8"')["index_order"].state in ("ok", "warning")


def test_vectors_that_depend_on_the_batch_are_found(mind):
    def shared(self, batch):
        vectors, active = own(self, batch)
        return vectors + vectors.mean(0, keepdim=True), active

    def drawn(self, batch):
        vectors, active = own(self, batch)
        return vectors + torch.randn_like(vectors), active

    own = Mind.encode_users
    for encode, way in ((shared, "alone"), (drawn, "asked_twice")):
        with mock.patch.object(Mind, "encode_users", encode):
            check = checks_of(mind)["same_user_same_vectors"]
        assert check.state == "fault"
        assert check.figures[way] > 1e-2


def test_padding_that_takes_part_is_found(sdm):
    def unmasked(query, vectors, mask):
        return own(query, vectors, torch.ones_like(mask))

    own = sdm_model.attend
    with mock.patch.object(sdm_model, "attend", unmasked):
        check = checks_of(sdm)["same_user_same_vectors"]
    assert check.state == "fault"
    assert check.figures["with_more_padding"] > 1e-2
