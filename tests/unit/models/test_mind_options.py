"""MIND beyond the paper: every option and some of them together against the model in NumPy."""

import math
from typing import get_args

import numpy as np
import pytest
import torch

from raysys.data.sequences import SessionConfig
from raysys.errors import ConfigError
from raysys.models.mind import Mind, MindConfig
from raysys.nn.loss_inputs import AMONG_TARGETS, WITH_HARDNESS, LossName
from raysys.schema import PADDING_IDX
from tests.reference import mind as reference
from tests.reference.mind_model import Reference, assert_users_equal, build, doubled, shaken
from tests.reference.world import LENGTHS, last_columns, pad_left, small_batch, small_catalog, take_rows

LOSSES = get_args(LossName)
ALL_ON = {
    "recency": "gap",
    "residual": True,
    "squash_last": False,
    "latest_items": 2,
    "train_score": "served",
    "hard_negatives": 0.6,
    "routing_regularisation": 0.4,
    "routing_gradient": "all",
    "routing_start": "farthest_point",
    "learnt_quota": 0.3,
}
SINGLE = [
    {"recency": "slot"},
    {"recency": "gap"},
    {"residual": True},
    {"squash_last": False},
    {"latest_items": 1},
    {"latest_items": 9},
    {"train_score": "served"},
    {"hard_negatives": 0.7},
    {"routing_regularisation": 0.5, "routing_gradient": "all"},
    {"routing_start": "farthest_point", "routing_sigma": 3.0},
    {"routing_start": "position", "routing_sigma": 20.0, "adaptive_interests": False},
    {"routing_start": "position", "routing_sigma": 2.0},
    {"learnt_quota": 0.2},
]
COMBINED = [
    ALL_ON,
    {**ALL_ON, "recency": "slot", "routing_start": "gaussian", "adaptive_interests": False},
    {**ALL_ON, "normalize": True, "temperature": 0.2, "routing_gradient": "all", "profile_features": ()},
    {"learnt_quota": 0.2, "latest_items": 3, "adaptive_interests": False, "label_power": 2.0},
    {"train_score": "served", "residual": True, "num_interests": 1, "hidden_dims": ()},
]
each_variant = pytest.mark.parametrize("fields", SINGLE + COMBINED, ids=lambda fields: "-".join(fields)[:60])


def fitting(loss, fields):
    """The fields without the options that the loss refuses."""
    refused = {"hard_negatives"} if loss not in WITH_HARDNESS else set()
    refused |= {"next_items"} if loss in AMONG_TARGETS else set()
    return {name: value for name, value in fields.items() if name not in refused}


def with_next_items(batch, n=3):
    """Targets (B, n): the first is there always, of the others 0, 1 or 2."""
    rng = np.random.default_rng(0)
    more = torch.from_numpy(rng.integers(2, 24, (len(batch["target"]), n - 1)))
    for row in range(len(more)):
        more[row, row % n :] = PADDING_IDX
    return {**batch, "target": torch.cat([batch["target"][:, None], more], 1)}


@each_variant
def test_users_equal_the_reference(fields):
    model, batch = doubled(shaken(build(**fields)), small_batch())
    assert_users_equal(model, batch, LENGTHS, columns=9)


@each_variant
@pytest.mark.parametrize("loss", LOSSES)
def test_loss_equals_the_reference(fields, loss):
    model, batch = doubled(shaken(build(loss, **fitting(loss, fields))), small_batch())
    assert model(batch)["loss"].item() == pytest.approx(
        Reference(model, small_catalog()).loss(batch), abs=1e-9
    )


@each_variant
@pytest.mark.parametrize("columns", [1, 30])
def test_padding_changes_nothing(fields, columns):
    model, batch = doubled(shaken(build(**fields)), small_batch())
    padded = pad_left(batch, columns)
    for a, b in zip(model.encode_users(batch), model.encode_users(padded), strict=True):
        torch.testing.assert_close(a, b)
    assert model(batch)["loss"].item() == pytest.approx(model(padded)["loss"].item(), abs=1e-12)
    torch.testing.assert_close(model.couplings(padded)[:, columns:], model.couplings(batch))


@each_variant
def test_a_user_depends_on_neither_batch_nor_call(fields):
    model, batch = doubled(shaken(build(**fields)), small_batch())
    vectors, active = model.encode_users(batch)
    torch.manual_seed(99)
    assert torch.equal(model.encode_users(batch)[0], vectors)
    for row, length in enumerate(LENGTHS):
        alone = last_columns(take_rows(batch, [row]), max(1, min(length, 7)))
        own, own_active = model.encode_users(alone)
        torch.testing.assert_close(own, vectors[row : row + 1], atol=1e-12, rtol=0)
        assert torch.equal(own_active, active[row : row + 1])
    order = [5, 2, 0, 4, 1, 3]
    torch.testing.assert_close(model.encode_users(take_rows(batch, order))[0], vectors[order])
    assert model(take_rows(batch, order))["loss"].item() == pytest.approx(
        model(batch)["loss"].item(), abs=1e-12
    )


@each_variant
@pytest.mark.parametrize("lengths", [(0, 0, 2), (1, 1, 2)])
def test_short_and_empty_histories_train(fields, lengths):
    model = shaken(build(**fields))
    model(small_batch(lengths=lengths))["loss"].backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    no_columns = {name: value[:, :0] if name.startswith("history") else value
                  for name, value in small_batch(lengths=(0, 0)).items()}  # fmt: skip
    no_items = last_columns(small_batch(lengths=(0, 0)), 1)
    torch.testing.assert_close(model.encode_users(no_columns)[0], model.encode_users(no_items)[0])


@pytest.mark.parametrize("fields", [*SINGLE, ALL_ON, {**ALL_ON, "recency": "slot"}])
def test_every_parameter_learns(fields):
    model = build(**fields)
    model(small_batch(lengths=(4, 8, 9, 9, 7, 9)))["loss"].backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("fields", [ALL_ON, {**ALL_ON, "recency": "slot", "train_score": "label_aware"}])
@pytest.mark.parametrize("loss", LOSSES)
def test_bfloat16_and_autocast_are_finite(fields, loss):
    # two precisions may choose other seeds and other winners, so only the size is compared
    fields, batch = fitting(loss, fields), small_batch()
    exact = build(loss, **fields)(batch)["loss"].item()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model = build(loss, **fields)
        casted = model(batch)["loss"]
    rough_model = build(loss, **fields).to(torch.bfloat16)
    for which, value in ((model, casted), (rough_model, rough_model(batch)["loss"])):
        assert value.dtype == torch.float32
        assert value.item() == pytest.approx(exact, rel=0.2)
        value.backward()
        assert all(torch.isfinite(p.grad).all() for p in which.parameters())


@pytest.mark.parametrize("fields", [{}, ALL_ON, {**ALL_ON, "train_score": "label_aware", "label_power": 2.0}])
@pytest.mark.parametrize("loss", sorted(set(LOSSES) - AMONG_TARGETS))
def test_several_targets_share_the_weight_of_their_row(fields, loss):
    fields = {**fitting(loss, fields), "next_items": 3}
    model, batch = doubled(shaken(build(loss, **fields)), with_next_items(small_batch()))
    assert sorted((batch["target"] != 0).sum(1).tolist()) == [1, 1, 2, 2, 3, 3]
    expected = Reference(model, small_catalog()).loss(batch)
    assert model(batch)["loss"].item() == pytest.approx(expected, rel=1e-7)  # weights are float32


def test_one_of_several_targets_is_a_sample_of_one():
    batch = small_batch()
    alone = {**batch, "target": torch.nn.functional.pad(batch["target"][:, None], (0, 2))}
    one, several = build(), build(next_items=3)
    assert several(alone)["loss"].item() == pytest.approx(one(batch)["loss"].item(), abs=1e-6)
    shape = Mind.samples(MindConfig(next_items=3), SessionConfig())
    assert shape.next_items == 3


def test_the_penalties_are_reported_before_their_weight():
    model, batch = doubled(shaken(build(**ALL_ON)), small_batch())
    values = model(batch)
    users = [Reference(model, small_catalog()).user(batch, row) for row in range(len(LENGTHS))]
    variance = np.mean([reference.variance(user.weights) for user in users])
    gates = np.mean([sum(user.gates) for user in users])
    assert values["routing_regularisation"].item() == pytest.approx(variance, abs=1e-12)
    assert values["learnt_quota"].item() == pytest.approx(gates, abs=1e-12)
    assert set(values) == {"loss", "routing_regularisation", "learnt_quota"}
    assert set(build()(small_batch())) == {"loss"}


def test_routing_regularisation_makes_routing_more_even():
    batch, spread = small_batch(lengths=(8, 9, 7, 9)), {}
    for weight in (0.0, 50.0):
        model = build(routing_gradient="all", routing_regularisation=weight or 1e-12)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            optimizer.zero_grad()
            values = model(batch)
            values["loss"].backward()
            optimizer.step()
        spread[weight] = values["routing_regularisation"].item()
    assert spread[50.0] < 0.7 * spread[0.0]


def test_times_are_asked_for_by_gaps_alone_and_the_time_of_the_target_is_not_read():
    for recency, times in (("none", False), ("slot", False), ("gap", True)):
        assert Mind.samples(MindConfig(recency=recency), SessionConfig()).times == times
    model, batch = shaken(build(**ALL_ON)), small_batch()
    loss, vectors = model(batch)["loss"], model.encode_users(batch)[0]
    for target_at in (0, 1_600_000_001, 2_000_000_000):
        later = {**batch, "target_at": torch.full_like(batch["target"], target_at)}
        assert torch.equal(model(later)["loss"], loss)
        assert torch.equal(model.encode_users(later)[0], vectors)
    slower = {**batch, "history_at": batch["history_at"] - (batch["history_at"] < 1.6e9 - 1e5) * 10**7}
    assert not torch.equal(model.encode_users(slower)[0], vectors)


def test_recency_weighs_the_behaviours_of_its_slot():
    # with all slots but the latest at e^-30, a user is the latest item alone
    model, batch = doubled(build(recency="slot", adaptive_interests=False), small_batch())
    with torch.no_grad():
        model.recency.log_weight_AK[1:] = -30.0
    vectors = model.encode_users(batch)[0]
    alone = model.encode_users(last_columns(batch, 1))[0]
    torch.testing.assert_close(vectors[1:], alone[1:], atol=1e-9, rtol=0)


@pytest.mark.parametrize("fields", [{"learnt_quota": 0.1}, {**ALL_ON, "adaptive_interests": False}])
def test_closed_interests_are_zero_and_never_served(fields):
    model, batch = shaken(build(**fields)), small_batch(lengths=(8, 9, 9, 9, 9, 9))
    vectors, active = model.encode_users(batch)
    allowed = build(**{**fields, "learnt_quota": 0.0}).encode_users(batch)[1]
    assert active[:, 0].all()
    assert 6 < active.sum() < allowed.sum()
    assert vectors[~active].abs().sum() == 0
    assert (vectors[active].norm(dim=1) > 0).all()
    couplings = model.couplings(batch)
    assert couplings.transpose(1, 2)[~active].abs().sum() == 0
    real = torch.nn.functional.pad((batch["history"] != 0)[:, -7:], (2, 0))
    torch.testing.assert_close(couplings.sum(2), real.float())


def test_untrained_gates_change_no_vector():
    batch = small_batch()
    for a, b in zip(build(learnt_quota=0.1).encode_users(batch), build().encode_users(batch), strict=True):
        assert torch.equal(a, b)


def test_training_closes_the_interests_of_users_who_need_one():
    # every user has one target, so the first interest is enough: at a price the others close, and the
    # targets are found without them
    batch = take_rows(small_batch(num_negatives=40, lengths=(8, 9, 8, 9)), [0, 1, 2, 3])
    batch["target"] = torch.tensor([5, 9, 13, 17])
    model = build("full_softmax", learnt_quota=0.5, train_score="served", adaptive_interests=False)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    assert model.encode_users(batch)[1].sum() == 12
    for _ in range(200):
        optimizer.zero_grad()
        model(batch)["loss"].backward()
        optimizer.step()
    vectors, active = model.encode_users(batch)
    assert active.sum() < 8
    scores = (vectors @ model.encode_items(torch.arange(24)).T).masked_fill(~active[..., None], -torch.inf)
    assert scores.amax(1)[:, 2:].argmax(1).add(2).tolist() == [5, 9, 13, 17]


def dropped(batch, seed, probability):
    torch.manual_seed(seed)
    holes = torch.rand(batch["history"].shape) < probability
    return {**batch, "history": batch["history"].masked_fill(holes, PADDING_IDX)}


@pytest.mark.parametrize("fields", [{}, ALL_ON, {**ALL_ON, "recency": "slot", "routing_start": "gaussian"}])
def test_history_dropout_is_a_loss_of_holes_with_the_interests_of_the_whole_history(fields):
    batch = last_columns(small_batch(), 7)
    model, batch = doubled(shaken(build(history_dropout=0.4, **fields)), batch)
    lengths = (batch["history"] != 0).sum(1)
    expected = Reference(model, small_catalog())
    for seed in range(4):
        torch.manual_seed(seed)
        loss = model(batch)["loss"].item()
        holes = dropped(batch, seed, 0.4)
        assert ((holes["history"] != 0).sum(1) < lengths).any()
        assert loss == pytest.approx(expected.loss(holes, lengths), abs=1e-9)
        torch.manual_seed(seed)
        assert model(batch)["loss"].item() == loss


def test_history_dropout_is_of_training_alone():
    batch = small_batch()
    model, without = build(history_dropout=0.9), build()
    assert model(batch)["loss"].item() != model(batch)["loss"].item()
    assert torch.equal(model.encode_users(batch)[0], without.encode_users(batch)[0])
    assert torch.equal(model.couplings(batch), without.couplings(batch))
    assert torch.equal(model.eval()(batch)["loss"], without.eval()(batch)["loss"])


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("next_items", 0, "next_items: found 0, expected >= 1"),
        ("latest_items", -1, "latest_items: found -1, expected >= 0 and finite"),
        ("hard_negatives", -0.1, "hard_negatives: found -0.1, expected >= 0 and finite"),
        ("hard_negatives", math.inf, "hard_negatives: found inf, expected >= 0 and finite"),
        ("routing_regularisation", -1.0, "routing_regularisation: found -1.0, expected >= 0 and finite"),
        ("routing_regularisation", 1.0, "routing_regularisation: found 1.0, which has no gradient unless"),
        ("learnt_quota", math.nan, "learnt_quota: found nan, expected >= 0 and finite"),
        ("history_dropout", 1.0, r"history_dropout: found 1.0, expected in \[0, 1\)"),
        ("history_dropout", -0.1, r"history_dropout: found -0.1, expected in \[0, 1\)"),
    ],
)
def test_impossible_values_are_refused(field, value, message):
    with pytest.raises(ConfigError, match=message):
        MindConfig(**{field: value})
