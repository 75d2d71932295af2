"""Bytes of models that were not built; the oracle is the model, built, and the optimiser after a step."""

import dataclasses

import pytest
import torch

from raysys.models import MODELS, build_model, read_model_config
from raysys.planning.parameters import model_size
from raysys.training import build_optimizer
from tests.reference.line import run_of
from tests.reference.world import small_batch, small_catalog

GRADIENT = sorted(name for name in MODELS if MODELS[name].learns_by == "gradient")


def planned(name, catalog, num_items=None):
    run = run_of("nothing.parquet", model={"name": name, "embedding_dim": 8, "num_negatives": 11})
    return run, model_size(run, catalog, num_items or catalog.num_items)


@pytest.mark.parametrize("name", GRADIENT)
def test_bytes_are_those_of_the_real_model_and_its_optimiser(name):
    catalog = small_catalog()
    run, size = planned(name, catalog)
    model = build_model(name, run.model, catalog, run.training.loss, 0)
    real = dict(model.named_parameters())
    assert {p.name: p.shape for p in size.parameters} == {n: tuple(v.shape) for n, v in real.items()}
    assert size.parameter_bytes == sum(v.numel() * v.element_size() for v in real.values())
    assert size.buffer_bytes == sum(b.numel() * b.element_size() for b in model.buffers())
    optimizer = build_optimizer(model, run.training)
    model(small_batch())["loss"].backward()
    for parameter in real.values():  # what the batch did not reach has no gradient, and no state yet
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
    optimizer.step()
    tensors = [value for state in optimizer.state.values() for value in state.values()]
    assert size.optimizer_bytes == sum(value.numel() * value.element_size() for value in tensors)


@pytest.mark.parametrize("name", GRADIENT)
def test_tables_are_named_and_those_of_items_grow_with_them(name):
    catalog = small_catalog()
    _, small = planned(name, catalog)
    _, large = planned(name, catalog, 10**9)
    tables = [parameter for parameter in small.parameters if parameter.is_table]
    assert "items.item" in {table.name for table in tables}
    assert all(table.shape[1] == 8 for table in tables)
    of_items = {p.name for p in small.parameters if p.shape[:1] == (catalog.num_items,)}
    for one, other in zip(small.parameters, large.parameters, strict=True):
        assert other.shape == ((10**9, *one.shape[1:]) if one.name in of_items else one.shape)
    # 10^9 items of 8 float32 each, and nothing of it was allocated
    assert large.parameter_bytes > 32 * 10**9


def test_a_counting_model_has_no_parameters():
    run = run_of("nothing.parquet", model={"name": "item_cf"})
    assert model_size(run, small_catalog(), 10).parameter_bytes == 0
    assert dataclasses.replace(run, model=read_model_config({"name": "item_cf"})[1]).learns_by == "rows"
