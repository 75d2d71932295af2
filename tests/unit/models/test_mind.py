import math
from typing import get_args

import numpy as np
import pytest
import torch

from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.errors import ConfigError
from raysys.models.contract import GradientModel, InterestModel, VectorModel
from raysys.models.mind import Mind, MindConfig
from raysys.nn.embedding import ItemEncoder
from raysys.nn.loss_inputs import LossName
from tests.reference.mind_model import Reference, array, assert_users_equal, build, doubled
from tests.reference.world import (
    LENGTHS,
    NUM_ITEMS,
    last_columns,
    pad_left,
    small_batch,
    small_catalog,
    take_rows,
)

LOSSES = get_args(LossName)

VARIANTS = [
    {},
    {"adaptive_interests": False, "routing_iterations": 1},
    {"routing_iterations": 5, "item_features": ("tags",), "profile_features": ()},
    {"normalize": True, "temperature": 0.1, "hidden_dims": ()},
    {"label_power": 0.0},
    {"label_power": 0.5, "routing_gradient": "all"},
    {"label_power": 3.0, "num_interests": 1, "item_features": ()},
]


@pytest.mark.parametrize("fields", VARIANTS)
def test_users_equal_the_reference(fields):
    model, batch = doubled(build(**fields), small_batch())
    assert_users_equal(model, batch, LENGTHS, columns=9)


@pytest.mark.parametrize("fields", VARIANTS)
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_equals_the_reference(fields, loss):
    catalog = small_catalog()
    model, batch = doubled(build(loss, **fields), small_batch())
    assert model(batch)["loss"].item() == pytest.approx(Reference(model, catalog).loss(batch), abs=1e-9)


@pytest.mark.parametrize("fields", VARIANTS)
def test_float32_equals_the_reference(fields):
    # three rounds of routing in float32; entries are of order one
    catalog = small_catalog()
    model, batch = build(**fields), small_batch()
    expected = Reference(model, catalog)
    vectors, _ = model.encode_users(batch)
    for row in range(len(LENGTHS)):
        np.testing.assert_allclose(array(vectors[row]), expected.user(batch, row).vectors, atol=1e-5)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_two_ways_to_look_items_up_agree(normalize, monkeypatch):
    # nine copies of a negative, each with nine times the expected count, are the same loss in more slots
    model, batch = doubled(build(catalog=small_catalog(90), normalize=normalize), small_batch(90))
    more = {
        **batch,
        "negatives": batch["negatives"].repeat(9),
        "log_expected": (batch["log_expected"] + math.log(9)).repeat(9),
    }
    tables = []
    original = ItemEncoder.table
    monkeypatch.setattr(ItemEncoder, "table", lambda self: tables.append(self) or original(self))
    by_slot = model(batch)["loss"]
    assert not tables
    by_table = model(more)["loss"]
    assert tables
    assert by_slot.item() == pytest.approx(by_table.item(), abs=1e-12)
    parameters = list(model.parameters())
    for a, b in zip(
        torch.autograd.grad(by_slot, parameters), torch.autograd.grad(by_table, parameters), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_satisfies_the_protocols():
    model = build()
    assert isinstance(model, GradientModel)
    assert isinstance(model, VectorModel)
    assert isinstance(model, InterestModel)


def test_asks_for_next_items_with_the_features_that_it_reads():
    shape = Mind.samples(MindConfig(history_length=7, profile_features=("age",)), SessionConfig())
    assert shape == SampleShape(kind="next_item", history_length=7, profile_features=("age",))
    assert shape.columns == shape.query_columns == ("item_idx", "role", "cut")


def test_pitfall_mind_01_a_user_does_not_depend_on_the_batch():
    model, batch = doubled(build(), small_batch())
    vectors, active = model.encode_users(batch)
    order = [5, 2, 0, 4]
    some_vectors, some_active = model.encode_users(take_rows(batch, order))
    torch.testing.assert_close(some_vectors, vectors[order])
    assert torch.equal(some_active, active[order])


@pytest.mark.parametrize("loss", LOSSES)
def test_row_order_changes_nothing(loss):
    model, batch = doubled(build(loss), small_batch())
    turned = take_rows(batch, [4, 1, 5, 0, 3, 2])
    assert model(batch)["loss"].item() == pytest.approx(model(turned)["loss"].item(), abs=1e-12)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("columns", [1, 30])
def test_pitfall_mind_08_padding_changes_nothing(columns, loss):
    model, batch = doubled(build(loss), small_batch())
    padded = pad_left(batch, columns)
    for a, b in zip(model.encode_users(batch), model.encode_users(padded), strict=True):
        torch.testing.assert_close(a, b)
    assert model(batch)["loss"].item() == pytest.approx(model(padded)["loss"].item(), abs=1e-12)
    torch.testing.assert_close(model.couplings(padded)[:, columns:], model.couplings(batch))
    short = take_rows(last_columns(batch, 5), [0, 1, 2, 3, 4])
    torch.testing.assert_close(model.encode_users(short)[0], model.encode_users(batch)[0][:5])


def test_items_older_than_the_history_length_do_not_count():
    model, batch = doubled(build(), small_batch())
    older = {**batch, "history": batch["history"].clone()}
    older["history"][-1, :2] = torch.tensor([9, 8])
    assert not torch.equal(older["history"], batch["history"])
    torch.testing.assert_close(model.encode_users(older)[0], model.encode_users(batch)[0])
    assert model.couplings(older)[-1, :2].abs().sum() == 0


def test_pitfall_mind_10_inactive_interests_are_zero_and_change_no_loss():
    model, batch = doubled(build(), small_batch())
    vectors, active = model.encode_users(batch)
    assert active.sum(1).tolist() == [1, 1, 1, 1, 2, 2]  # the last history is cut to 7
    assert vectors[~active].abs().sum() == 0
    assert (vectors[active].norm(dim=1) > 0).all()


@pytest.mark.parametrize("power", [0.3, 2.0, 100.0])
def test_pitfall_mind_11_fractional_and_large_powers_train(power):
    model, batch = build(label_power=power), small_batch()
    model(batch)["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_pitfall_mind_13_same_vectors_at_every_call_and_after_a_rebuild(tmp_path):
    batch = small_batch()
    model = build(seed=3, dropout=0.4).eval()
    vectors, _ = model.encode_users(batch)
    torch.manual_seed(99)
    assert torch.equal(model.encode_users(batch)[0], vectors)
    assert torch.equal(build(seed=3, dropout=0.4).eval().encode_users(batch)[0], vectors)
    other = build(seed=4, dropout=0.4).eval()
    assert not torch.equal(other.encode_users(batch)[0], vectors)
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    assert torch.equal(other.encode_users(batch)[0], vectors)


def test_pitfall_mind_13_training_leaves_the_starting_logits_alone():
    model, batch = build(), small_batch()
    before = model.routing.start_TK.clone()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    model(batch)["loss"].backward()
    optimizer.step()
    assert torch.equal(model.routing.start_TK, before)


def test_fields_reach_their_parts():
    batch = small_batch()
    with_dropout = build(dropout=0.5)
    assert with_dropout(batch)["loss"].item() != with_dropout(batch)["loss"].item()
    with_dropout.eval()
    assert with_dropout(batch)["loss"].item() == build().eval()(batch)["loss"].item()
    ratio = build(routing_sigma=5.0).routing.start_TK / build(routing_sigma=0.5).routing.start_TK
    torch.testing.assert_close(ratio, torch.full_like(ratio, 10.0))
    gradients = []
    for option in ("last", "all"):
        model = build(routing_gradient=option)
        model(batch)["loss"].backward()
        gradients.append(model.routing.map_LD.grad)
    assert (gradients[0] - gradients[1]).abs().max() > 1e-6


def test_pitfall_mind_14_every_item_of_the_history_matters():
    model, batch = doubled(build(), small_batch())
    vectors, _ = model.encode_users(batch)
    for column in range(2, 9):
        changed = {**batch, "history": batch["history"].clone()}
        changed["history"][-1, column] = 2 + (int(batch["history"][-1, column]) + 3) % (NUM_ITEMS - 2)
        moved = (model.encode_users(changed)[0] - vectors).abs().amax(dim=(1, 2))
        assert moved[-1] > 1e-6
        assert moved[:-1].max() == 0


@pytest.mark.parametrize("rounds", [1, 2, 3, 4, 5])
def test_pitfall_mind_05_gradient_reaches_every_parameter(rounds):
    model, batch = build(routing_iterations=rounds), small_batch()
    model(batch)["loss"].backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize(
    "fields", [{}, {"normalize": True}, {"label_power": 2.0}, {"adaptive_interests": False}]
)
def test_empty_history_without_profile_is_finite(fields):
    # such a user is the zero vector at the start: its loss is finite and trains nothing wild
    model, batch = build(profile_features=(), **fields), small_batch(lengths=(0, 0, 2))
    vectors, active = model.encode_users(batch)
    assert vectors[:2].abs().sum() == 0
    assert active[:2, 0].all()
    model(batch)["loss"].backward()
    assert all(p.grad.abs().max() < 1e3 for p in model.parameters())


def test_a_new_user_is_answered_from_the_profile():
    vectors, active = build().encode_users(small_batch())
    assert active[0].tolist() == [True, False, False]
    assert vectors[0, 0].abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_is_finite_and_near_float32(loss):
    # 8 bits of mantissa through routing, layers and softmax
    batch = small_batch()
    exact = build(loss)(batch)["loss"].item()
    model = build(loss).to(torch.bfloat16)
    rough = model(batch)["loss"]
    assert rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact, rel=0.05)
    rough.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert torch.isfinite(model.encode_users(batch)[0]).all()


def test_autocast_is_finite():
    model, batch = build(), small_batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(batch)["loss"]
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_unknown_items_have_a_vector_and_padding_has_none():
    vectors = build().encode_items(torch.tensor([0, 1, 2]))
    assert vectors[0].abs().sum() == 0
    assert vectors[1].abs().sum() > 0


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("power", [math.inf, 2.0])
def test_overfits_four_rows(loss, power):
    # oracle: four users with distinct items must rank their own target first, by the score that is served,
    # among the items that the loss has among its candidates
    batch = take_rows(small_batch(num_negatives=40, lengths=(1, 3, 5, 8)), [0, 1, 2, 3])
    batch["target"] = torch.tensor([5, 9, 13, 17])
    model = build(loss, label_power=power)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(120):
        optimizer.zero_grad()
        model(batch)["loss"].backward()
        optimizer.step()
    vectors, active = model.encode_users(batch)
    scores = torch.einsum("bkd,vd->bkv", vectors, model.encode_items(torch.arange(NUM_ITEMS)))
    served = scores.masked_fill(~active[..., None], -torch.inf).amax(1)
    candidates = torch.arange(2, NUM_ITEMS)
    if loss == "in_batch":
        candidates = batch["target"]
    elif loss != "full_softmax":
        candidates = torch.cat([batch["target"], batch["negatives"]])
    assert candidates[served[:, candidates].argmax(1)].tolist() == [5, 9, 13, 17]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("num_interests", 0, "num_interests: found 0, expected >= 1"),
        ("embedding_dim", 0, "embedding_dim: found 0, expected >= 1"),
        ("routing_iterations", 0, "routing_iterations: found 0, expected >= 1"),
        ("history_length", -1, "history_length: found -1, expected >= 1"),
        ("num_negatives", 0, "num_negatives: found 0, expected >= 1"),
        ("routing_sigma", 0.0, "routing_sigma: found 0.0, expected above 0"),
        ("temperature", 0.0, "temperature: found 0.0, expected above 0"),
        ("temperature", math.inf, "temperature: found inf, expected above 0 and finite"),
        ("label_power", -0.5, "label_power: found -0.5, expected >= 0 or inf"),
        ("dropout", 1.0, r"dropout: found 1.0, expected in \[0, 1\)"),
        ("hidden_dims", (8, 0), r"hidden_dims: found \[8, 0\], expected widths >= 1"),
    ],
)
def test_impossible_values_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        MindConfig(**{field: value})


def test_unknown_features_and_losses_are_refused():
    with pytest.raises(ConfigError, match=r"item_features: no feature 'tag' .*did you mean tags\?"):
        build(item_features=("tag",))
    with pytest.raises(
        ConfigError, match="loss: found 'hinge', expected one of sampled_softmax, full_softmax"
    ):
        build(loss="hinge")
