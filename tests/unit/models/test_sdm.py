"""SDM against a slow reference written from the paper (`tests/reference/sdm.py`), in float64 to 1e-10."""

from typing import get_args

import numpy as np
import pytest
import torch

from raysys.data.sequences import SessionConfig
from raysys.data.splits import SplitConfig
from raysys.errors import ConfigError
from raysys.models.contract import FusionModel, GradientModel, InterestModel, VectorModel
from raysys.models.sdm import Sdm
from raysys.models.sdm_config import SdmConfig
from raysys.nn.loss_inputs import AMONG_TARGETS, LossName
from tests.reference.mind_model import array, doubled
from tests.reference.sdm import Reference
from tests.reference.world import LENGTHS, NUM_ITEMS, pad_left, small_batch, small_catalog, take_rows

SMALL = {"embedding_dim": 6, "num_heads": 3, "long_features": ("item", "cate", "event_store")}
VARIANTS = [
    {},
    {"event_features": ("store",), "scaled_attention": True},
    {"lstm_layers": 3, "lstm_residual": 1, "num_heads": 1},
    {"layer_norm": True, "attention_residual": True, "item_features": ("tags",)},
    {"self_attention": False, "layer_norm": True, "normalize": True, "temperature": 0.1},
    {"user_attention": False, "profile_features": ()},
    {"profile_features": (), "item_features": (), "residual": True},
    {"fusion": "concat", "long_features": ("item",), "set_query": "session"},
    {"set_query": "session", "lstm_layers": 2},
    {"fusion": "short", "event_features": ("store",)},
    {"fusion": "long", "long_features": ("cate", "tags")},
    {"fusion": "short", "user_attention": False},
    {"train_positions": "every", "residual": True, "scaled_attention": True},
    {"train_positions": "every", "fusion": "short", "user_attention": False},
]
each_variant = pytest.mark.parametrize("fields", VARIANTS)


def build(loss="sampled_softmax", seed=0, catalog=None, **fields):
    return Sdm(SdmConfig(**{**SMALL, **fields}), catalog or small_catalog(), loss=loss, seed=seed)


def batch_with_sets(**options):
    """Return `small_batch` with a set of tags, as of a feature of several values."""
    batch = small_batch(**options)
    return {**batch, "long_tags": torch.clamp(batch["long_cate"] + 1, max=5) * (batch["long_cate"] > 0)}


@each_variant
def test_users_weights_and_gate_equal_the_reference(fields):
    model, batch = doubled(build(**fields), batch_with_sets())
    expected = Reference(model, small_catalog())
    vectors, active = model.encode_users(batch)
    assert active.all()
    found = model.fusion(batch)
    for row in range(len(LENGTHS)):
        vector, weights, gate = expected.user(batch, row)
        np.testing.assert_allclose(array(vectors[row, 0]), vector, atol=1e-10)
        assert {name for name in found if name != "gate"} == set(weights)
        for name, wanted in weights.items():
            real = batch[name][row] != 0
            np.testing.assert_allclose(array(found[name][row][real]), wanted, atol=1e-10)
            assert found[name][row][~real].abs().sum() == 0
        if gate is not None:
            assert found["gate"][row].item() == pytest.approx(gate.mean(), abs=1e-10)
    items = model.encode_items(torch.arange(NUM_ITEMS))
    np.testing.assert_allclose(array(items), expected.items, atol=1e-10)


@each_variant
@pytest.mark.parametrize("loss", get_args(LossName))
@pytest.mark.parametrize("next_items", [1, 3])
def test_loss_equals_the_reference(fields, loss, next_items):
    config = SdmConfig(**{**SMALL, **fields, "next_items": next_items})
    if loss in AMONG_TARGETS and not config.one_target:
        with pytest.raises(ConfigError, match=r"model\.next_items"):
            config.check(loss, SplitConfig())
        return
    model, batch = doubled(build(loss, **fields, next_items=next_items), batch_with_sets())
    if next_items > 1:
        more = torch.tensor([[3, 0], [4, 9], [0, 0], [5, 6], [7, 7], [8, 0]])
        batch["target"] = torch.cat([batch["target"][:, None], more], dim=1)
    expected = Reference(model, small_catalog()).loss(batch)
    tolerance = 1e-9 if config.one_target else 1e-6  # weights of several targets are float32
    assert model(batch)["loss"].item() == pytest.approx(expected, abs=tolerance)


@each_variant
def test_float32_equals_the_reference(fields):
    model, batch = build(**fields), batch_with_sets()
    expected = Reference(model, small_catalog())
    vectors, _ = model.encode_users(batch)
    for row in range(len(LENGTHS)):
        np.testing.assert_allclose(array(vectors[row, 0]), expected.user(batch, row)[0], atol=1e-5)


@each_variant
def test_padding_and_the_rest_of_the_batch_do_not_matter(fields):
    model, batch = doubled(build(**fields), batch_with_sets())
    vectors, _ = model.encode_users(batch)
    padded, _ = model.encode_users(pad_left(batch, 5))
    torch.testing.assert_close(padded, vectors, atol=1e-12, rtol=0)
    for row in range(len(LENGTHS)):
        alone, _ = model.encode_users(take_rows(batch, [row]))
        torch.testing.assert_close(alone[0], vectors[row], atol=1e-12, rtol=0)
    torch.testing.assert_close(model(pad_left(batch, 5))["loss"], model(batch)["loss"], atol=1e-12, rtol=0)


@each_variant
def test_the_order_of_a_set_does_not_matter_and_that_of_the_session_does(fields):
    model, batch = doubled(build(**fields), batch_with_sets())
    vectors, _ = model.encode_users(batch)
    turned = {name: value.flip(1) if name.startswith("long_") else value for name, value in batch.items()}
    torch.testing.assert_close(model.encode_users(turned)[0], vectors, atol=1e-12, rtol=0)
    if model.has_short:
        turned = {name: value.flip(1) if name.startswith("short") else value for name, value in batch.items()}
        assert (model.encode_users(turned)[0] - vectors).abs().max() > 1e-4


@each_variant
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [(0, 0), (0, 1, 9), (3, 3)])  # nothing at all, some, and no long term
def test_empty_sessions_and_sets_are_finite(fields, kind, lengths):
    model, batch = build(**fields).to(kind), batch_with_sets(lengths=lengths)
    batch = {key: value.to(kind) if value.is_floating_point() else value for key, value in batch.items()}
    loss = model(batch)["loss"]
    loss.backward()
    assert torch.isfinite(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all(), name
    vectors, _ = model.encode_users(batch)
    assert torch.isfinite(vectors).all()
    assert all(torch.isfinite(found).all() for found in model.fusion(batch).values())


@pytest.mark.parametrize("next_items", [1, 2])
def test_every_step_sees_only_what_came_before_it(next_items):
    """A step's vector is that of a user whose session ends there."""
    model, batch = doubled(build(train_positions="every", next_items=next_items), batch_with_sets())
    steps = model._users(batch, None, every=True)
    for row, length in enumerate(LENGTHS):
        session = batch["short"][row][batch["short"][row] > 0]
        assert len(session) == min(length, 4)
        for step in range(1, len(session) + 1):
            one = take_rows(batch, [row])
            short = torch.cat([torch.zeros(4 - step, dtype=torch.int64), session[:step]])
            alone, _ = model.encode_users({**one, "short": short[None]})
            torch.testing.assert_close(steps[row, step - 1], alone[0, 0], atol=1e-12, rtol=0)


def test_dropped_items_leave_no_gap():
    """A session with gaps gives what the session without them gives."""
    model, batch = doubled(build(event_features=("store",)), batch_with_sets(lengths=(9,)))
    gap = batch["short"].clone()
    gap[0, 1] = 0
    closed = torch.cat([torch.zeros(1, 1, dtype=torch.int64), batch["short"][:, [0, 2, 3]]], dim=1)
    stores = batch["short_store"][:, [1, 0, 2, 3]]
    with_gap, _ = model.encode_users({**batch, "short": gap})
    without, _ = model.encode_users({**batch, "short": closed, "short_store": stores})
    torch.testing.assert_close(with_gap, without, atol=1e-12, rtol=0)


def test_history_dropout_keeps_the_latest_item_and_serves_everything():
    model, batch = build(history_dropout=0.9), batch_with_sets()
    torch.manual_seed(0)
    dropped = model._with_dropped_items(batch)
    assert torch.equal(dropped["short"][:, -1], batch["short"][:, -1])
    assert (dropped["short"] == 0).sum() > (batch["short"] == 0).sum()
    assert (dropped["long_item"] == 0).sum() > (batch["long_item"] == 0).sum()
    assert model.eval()._with_dropped_items(batch) is batch


def test_features_share_the_tables_of_the_item_vectors():
    model = build(long_features=("item", "cate", "event_store"), item_features=("cate",))
    assert set(model.tables) == {"event_store"}
    assert set(build(long_features=("item", "cate"), item_features=()).tables) == {"cate"}


def test_what_is_read_of_a_sample():
    session = SessionConfig(last_n=5)
    shape = Sdm.samples(SdmConfig(**SMALL, event_features=("store",), history_length=30), session)
    assert shape.session is session
    assert shape.reach == 30
    assert shape.long_features == ("item", "cate", "event_store")
    assert shape.event_features == ("store",)
    assert Sdm.samples(SdmConfig(**SMALL, fusion="short"), session).long_features == ()


def test_protocols():
    model = build()
    assert isinstance(model, GradientModel)
    assert isinstance(model, VectorModel)
    assert isinstance(model, FusionModel)
    assert not isinstance(model, InterestModel)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_heads": 4}, r"num_heads: found 4, expected a divisor of embedding_dim = 6"),
        ({"num_heads": 0}, r"num_heads: found 0, expected >= 1"),
        ({"lstm_residual": 2}, r"lstm_residual: found 2, expected 0 to lstm_layers = 1"),
        ({"temperature": 0.0}, r"temperature: found 0.0"),
        ({"dropout": 1.0}, r"dropout: found 1.0"),
        ({"hard_negatives": -1.0}, r"hard_negatives: found -1.0"),
        ({"long_features": ()}, r"long_features: found \[\], expected one at least"),
        ({"long_features": ("item", "item")}, r"long_features: .* expected each once"),
        (
            {"set_query": "session", "fusion": "short"},
            r"set_query: found \"session\" with fusion = \"short\"",
        ),
        ({"train_positions": "every", "fusion": "long"}, r"train_positions: found \"every\""),
    ],
)
def test_wrong_fields_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        SdmConfig(**{**SMALL, **fields})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"long_features": ("cat",)}, r"long_features: no feature 'cat' in the catalog; did you mean cate\?"),
        ({"long_features": ("price.usd",)}, r"long_features: feature 'price.usd' is of kind 'number'"),
        ({"long_features": ("event_shop",)}, r"event_features: no feature 'event_shop' in the catalog"),
        ({"event_features": ("shop",)}, r"event_features: no feature 'event_shop' in the catalog"),
        ({"item_features": ("brand",)}, r"item_features: no feature 'brand'"),
    ],
)
def test_unknown_features_are_refused(fields, message):
    with pytest.raises(ConfigError, match=message):
        build(**fields)
