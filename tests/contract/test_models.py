"""What every model of `MODELS` must do, whatever it is."""

import dataclasses
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest
import torch

from raysys import config
from raysys.data.interactions import Entries, Interactions
from raysys.errors import ConfigError
from raysys.models import MODELS, PRESETS, build_model, build_row_model, read_model_config
from raysys.nn.loss_inputs import LossName
from raysys.retrieval.candidates import rank_top_k
from raysys.retrieval.table import NeighbourTable
from tests.reference.world import LENGTHS, NUM_ITEMS, pad_left, small_batch, small_catalog, take_rows

LOSSES = get_args(LossName)
each_entry = pytest.mark.parametrize("name", sorted(MODELS))
each_model = pytest.mark.parametrize(
    "name", sorted(name for name in MODELS if MODELS[name].learns_by == "gradient")
)
each_row_model = pytest.mark.parametrize(
    "name", sorted(name for name in MODELS if MODELS[name].learns_by == "rows")
)
each_loss = pytest.mark.parametrize("loss", LOSSES)


def build(name, loss="sampled_softmax", seed=0, catalog=None):
    _, fields = read_model_config({"name": name, "embedding_dim": 8, "num_negatives": 11})
    return build_model(name, fields, catalog or small_catalog(), loss, seed)


def test_there_are_models():
    assert {"mind", "item_cf"} <= MODELS.keys()


@each_entry
def test_config_survives_a_round_trip_through_toml(name):
    for preset in PRESETS[name]:
        _, fields = read_model_config({"name": name, "preset": preset})
        tables = config.parse_toml(config.to_toml({"model": config.to_table(fields)}), "test")
        assert config.read(MODELS[name].config, tables["model"], "model") == fields
        assert read_model_config({"name": name, **tables["model"]}) == (name, fields)
        assert config.digest(fields) == config.digest(config.read(MODELS[name].config, tables["model"]))


@each_entry
def test_presets_name_fields_and_explicit_keys_win(name):
    assert {"paper", "recommended"} <= set(PRESETS[name])
    fields = {field.name for field in dataclasses.fields(MODELS[name].config)}
    for values in PRESETS[name].values():
        assert set(values) <= fields
    default, paper = (
        read_model_config({"name": name})[1],
        read_model_config({"name": name, "preset": "paper"})[1],
    )
    assert default == paper
    chosen = read_model_config({"name": name, "preset": "recommended", "history_length": 12})[1]
    assert chosen.history_length == 12


@each_entry
def test_every_field_is_documented(name):
    source = sys.modules[MODELS[name].config.__module__].__file__
    with open(source, encoding="utf-8") as file:
        lines = [line.strip() for line in file]
    for field in dataclasses.fields(MODELS[name].config):
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{field.name}: "))
        assert lines[at + 1].startswith('"""'), f"{name}.{field.name} has no docstring under it"


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, r"^model.name: missing; known: item_cf, mind"),
        ({"name": "mnd"}, r"^model.name: no model 'mnd'; did you mean mind\?"),
        ({"name": 3}, r"^model.name: no model 3; known: item_cf, mind"),
        (
            {"name": "mind", "preset": "papr"},
            r"^model.preset: no preset 'papr' of mind; did you mean paper\?",
        ),
        (
            {"name": "mind", "num_interest": 4},
            r"^model.num_interest: unknown key; did you mean model.num_interests\?",
        ),
        ({"name": "mind", "num_interests": 0}, r"^model.num_interests: found 0, expected >= 1"),
        (
            {"name": "mind", "num_interests": 2.5},
            r"^model.num_interests: found a number 2.5, expected an integer",
        ),
        ({"name": "mind", "routing_gradient": "none"}, r"^model.routing_gradient: found 'none'"),
    ],
)
def test_a_wrong_model_table_is_refused_by_key(table, message):
    with pytest.raises(ConfigError, match=message):
        read_model_config(table)


@each_model
def test_an_unknown_loss_or_model_is_refused(name):
    with pytest.raises(ConfigError, match="loss: found 'hinge'"):
        build(name, loss="hinge")
    with pytest.raises(ConfigError, match="no model 'nothing'"):
        build_model("nothing", None, small_catalog(), "full_softmax", 0)


@each_model
@each_loss
def test_shapes_and_types(name, loss):
    model, batch = build(name, loss), small_batch()
    value = model(batch)["loss"]
    assert value.shape == ()
    assert value.dtype == torch.float32
    vectors, active = model.encode_users(batch)
    rows, num_interests, dim = vectors.shape
    assert (rows, dim) == (len(LENGTHS), 8)
    assert active.shape == (rows, num_interests)
    assert active.dtype == torch.bool
    assert active.any(1).all()
    assert vectors.dtype == torch.float32
    items = model.encode_items(torch.arange(NUM_ITEMS))
    assert items.shape == (NUM_ITEMS, dim)
    assert items.dtype == torch.float32


@each_model
def test_inactive_vectors_are_zero(name):
    vectors, active = build(name).encode_users(small_batch())
    assert vectors[~active].abs().sum() == 0


@each_model
def test_couplings_sum_to_one_over_active_interests(name):
    model, batch = build(name), small_batch()
    if not hasattr(model, "couplings"):
        pytest.skip(f"{name} has no interests")
    weights = model.couplings(batch)
    _, active = model.encode_users(batch)
    assert weights.shape == (*batch["history"].shape, active.shape[1])
    torch.testing.assert_close(weights.sum(2), (batch["history"] != 0).float())
    assert weights.transpose(1, 2)[~active].abs().sum() == 0


@each_model
@each_loss
def test_gradients_are_finite_on_every_parameter(name, loss):
    model = build(name, loss)
    model(small_batch())["loss"].backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


@each_model
@each_loss
def test_save_and_load_give_equal_output(name, loss, tmp_path):
    model, batch = build(name, loss, seed=1).eval(), small_batch()
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = build(name, loss, seed=2).eval()
    assert not torch.equal(other.encode_users(batch)[0], model.encode_users(batch)[0])
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other.encode_users(batch)[0], model.encode_users(batch)[0])
    assert torch.equal(other.encode_items(torch.arange(9)), model.encode_items(torch.arange(9)))
    assert torch.equal(other(batch)["loss"], model(batch)["loss"])


@each_model
def test_start_depends_on_the_seed_alone(name):
    torch.manual_seed(0)
    state = build(name, seed=5).state_dict()
    torch.manual_seed(1)
    again = build(name, seed=5).state_dict()
    assert all(torch.equal(state[key], again[key]) for key in state)


@each_model
@each_loss
def test_an_empty_history_is_finite(name, loss):
    model, batch = build(name, loss), small_batch(lengths=(0, 0, 0, 4))
    assert torch.isfinite(model(batch)["loss"])
    assert torch.isfinite(model.encode_users(batch)[0]).all()
    nobody = take_rows(batch, [0, 1])
    assert torch.isfinite(model.encode_users(nobody)[0]).all()


@each_model
@each_loss
def test_unknown_items_and_an_unknown_user_are_finite(name, loss):
    model, batch = build(name, loss), small_batch(lengths=(1, 4, 9))
    batch["history"][batch["history"] > 0] = 1
    batch["profile_age"][:], batch["profile_likes"][:] = 1, 1
    assert torch.isfinite(model(batch)["loss"])
    vectors, active = model.encode_users(batch)
    assert (vectors[active].abs().sum(1) > 0).all()


@each_model
@each_loss
def test_padding_does_not_matter(name, loss):
    model, batch = build(name, loss).eval(), small_batch()
    padded = pad_left(batch, 6)
    torch.testing.assert_close(model.encode_users(padded)[0], model.encode_users(batch)[0])
    torch.testing.assert_close(model(padded)["loss"], model(batch)["loss"])


@each_model
@each_loss
def test_row_order_does_not_matter(name, loss):
    model, batch = build(name, loss).eval(), small_batch()
    order = [3, 5, 0, 1, 4, 2]
    turned = take_rows(batch, order)
    torch.testing.assert_close(model.encode_users(turned)[0], model.encode_users(batch)[0][order])
    torch.testing.assert_close(model(turned)["loss"], model(batch)["loss"])


@each_model
def test_a_catalog_without_features_is_enough(name):
    model = build(name, catalog=small_catalog(features=False))
    bare = {key: value for key, value in small_batch().items() if not key.startswith("profile_")}
    model(bare)["loss"].backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@each_model
def test_padding_is_the_zero_vector(name):
    assert build(name).encode_items(torch.tensor([0])).abs().sum() == 0


def small_matrix(seed=3, users=11, items=NUM_ITEMS):
    """Return a matrix with repeated events; some users and items have none."""
    random = np.random.default_rng(seed)
    cells = np.unique(random.integers(0, (users - 4) * (items - 5), 60))
    user_idx, item_idx = cells // (items - 5) + 2, cells % (items - 5) + 2
    count = random.integers(1, 4, len(cells))
    at = random.integers(0, 10**6, len(cells))
    kinds = (np.int32, np.int32, np.float64, np.int32, np.int64)
    columns = (user_idx, item_idx, count, count, at)
    entries = Entries(*(column.astype(kind) for column, kind in zip(columns, kinds, strict=True)))
    return Interactions.build(entries, users, items)


def small_table(name, **options):
    """Return a counting model, its weighted matrix and its whole table."""
    _, fields = read_model_config({"name": name, **options})
    model = build_row_model(name, fields)
    seen = model.weigh(small_matrix())
    count = len(seen.by_item if model.source == "item" else seen.by_user)
    return model, seen, NeighbourTable(*model.rows(seen, np.arange(count)))


@each_row_model
def test_rows_are_a_table_in_the_order_of_candidates(name):
    _, _, table = small_table(name)
    assert (table.item_idx[:2] == -1).all()  # the reserved sources
    assert (table.item_idx >= 0).any()
    ranked = rank_top_k(table.item_idx, table.score, table.item_idx.shape[1])
    np.testing.assert_array_equal(ranked.item_idx, table.item_idx)
    np.testing.assert_array_equal(ranked.score, table.score)
    assert not np.isin(table.item_idx, [0, 1]).any()


@each_row_model
def test_a_row_does_not_depend_on_its_block(name):
    model, seen, table = small_table(name)
    order = np.random.default_rng(0).permutation(len(table.item_idx))
    for size in (1, 5):
        for start in range(0, len(order), size):
            block = order[start : start + size]
            item_idx, score = model.rows(seen, block)
            np.testing.assert_array_equal(item_idx, table.item_idx[block])
            np.testing.assert_array_equal(score, table.score[block])


@each_row_model
def test_seeds_are_rows_of_the_table_and_padding_does_not_matter(name):
    model, _, table = small_table(name)
    batch = {key: value.numpy() for key, value in small_batch().items()}
    (offsets, rows), weights = model.seeds(batch)
    assert len(offsets) == len(LENGTHS) + 1
    assert offsets[1] == 0  # an empty history
    assert len(weights) == len(rows)
    assert np.isin(rows, np.arange(2, len(table.item_idx))).all()
    padded = {key: value.numpy() for key, value in pad_left(small_batch(), 6).items()}
    again = model.seeds(padded)
    np.testing.assert_array_equal(again[0][0], offsets)
    np.testing.assert_array_equal(again[0][1], rows)
    np.testing.assert_array_equal(again[1], weights)


def test_models_do_not_load_ray():
    code = "import sys, raysys.models; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
