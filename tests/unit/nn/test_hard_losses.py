"""Losses of users with several vectors, of weighted rows and with hard negatives."""

from typing import get_args

import numpy as np
import pytest
import torch

from raysys.nn.loss_inputs import AMONG_TARGETS, WITH_HARDNESS, LossName
from raysys.nn.losses import training_loss
from tests.reference import losses as reference
from tests.unit.nn.test_losses import named

NUM_ITEMS = 30
LOSSES = get_args(LossName)
HARD = sorted(WITH_HARDNESS)


def world(rows=6, interests=3, num_negatives=20, dtype=torch.float64, seed=0):
    """Users, items and a batch; rows 0 and 3 share their target, and a negative is the last row's."""
    generator = torch.Generator().manual_seed(seed)
    rng = np.random.default_rng(seed)
    shape = (rows, interests, 4) if interests else (rows, 4)
    user = torch.randn(shape, generator=generator, dtype=dtype).requires_grad_()
    items = torch.randn(NUM_ITEMS, 4, generator=generator, dtype=dtype).requires_grad_()
    target, negatives = rng.integers(2, NUM_ITEMS, rows), rng.integers(2, NUM_ITEMS, num_negatives)
    target[3:4] = target[0]
    negatives[:1] = target[-1]
    batch = {
        "target": torch.from_numpy(target),
        "negatives": torch.from_numpy(negatives),
        "log_expected": torch.from_numpy(np.log(rng.uniform(0.1, 3.0, num_negatives))).to(dtype),
        "target_log_expected": torch.from_numpy(np.log(rng.uniform(0.1, 3.0, rows))).to(dtype),
        "gbce_beta": torch.tensor(0.3, dtype=dtype),
    }
    return user, items, batch


def row_losses(name, user, items, batch, temperature=1.0, hardness=0.0):
    users, vectors = user.detach().numpy(), items.detach().numpy()
    return [
        reference.row_loss(name, users[row], vectors, target, batch, row, temperature, hardness)
        for row, target in enumerate(batch["target"].tolist())
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("interests", [1, 2, 5])
@pytest.mark.parametrize("name", LOSSES)
def test_several_vectors_are_scored_by_the_largest(name, interests, temperature):
    user, items, batch = world(interests=interests)
    loss = named(name, user, items, batch, temperature)
    assert loss.item() == pytest.approx(
        np.mean(row_losses(name, user, items, batch, temperature)), rel=1e-10, abs=1e-12
    )


@pytest.mark.parametrize("hardness", [0.0, 0.8])
@pytest.mark.parametrize("name", LOSSES)
def test_one_vector_is_a_user_of_one_interest(name, hardness):
    hardness = hardness if name in WITH_HARDNESS else 0.0
    user, items, batch = world(interests=1)
    several = named(name, user, items, batch, 0.5, hardness=hardness)
    flat = user.detach()[:, 0].requires_grad_()
    one = named(name, flat, items, batch, 0.5, hardness=hardness)
    assert several.item() == pytest.approx(one.item(), abs=1e-12)
    got, expected = torch.autograd.grad(several, (user, items)), torch.autograd.grad(one, (flat, items))
    torch.testing.assert_close(got[0][:, 0], expected[0])
    torch.testing.assert_close(got[1], expected[1])


@pytest.mark.parametrize("name", LOSSES)
def test_the_gradient_of_several_vectors_is_the_slope_of_the_reference(name):
    # central differences with step 1e-6: errors of about 1e-9 in float64, and no two scores that near
    user, items, batch = world()
    gradients = torch.autograd.grad(named(name, user, items, batch, 0.5), (user, items))
    rng = np.random.default_rng(1)
    for side, gradient in zip((user, items), gradients, strict=True):
        for _ in range(8):
            place = tuple(int(rng.integers(size)) for size in side.shape)
            values = []
            for step in (1e-6, -1e-6):
                with torch.no_grad():
                    side[place] += step
                values.append(np.mean(row_losses(name, user, items, batch, 0.5)))
                with torch.no_grad():
                    side[place] -= step
            slope = (values[0] - values[1]) / 2e-6
            assert gradient[place].item() == pytest.approx(slope, abs=1e-7), place


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("interests", [0, 3])
def test_weights_of_rows(name, interests):
    user, items, batch = world(interests=interests)
    weights = torch.tensor([0.5, 0.0, 2.0, 0.1, 0.3, 1.0], dtype=torch.float64)
    expected = np.dot(row_losses(name, user, items, batch), weights.numpy())
    assert named(name, user, items, batch, weight_B=weights).item() == pytest.approx(expected, rel=1e-10)
    equal = torch.full_like(weights, 1 / 6)
    mean = named(name, user, items, batch)
    assert named(name, user, items, batch, weight_B=equal).item() == pytest.approx(mean.item(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(set(LOSSES) - {"in_batch", "mixed"}))
@pytest.mark.parametrize("interests", [0, 3])
def test_targets_may_share_a_user(name, interests):
    user, items, batch = world(rows=2, interests=interests)
    row, target = torch.tensor([0, 0, 1]), torch.tensor([4, 7, 4])
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)

    def loss(users, **rows):
        vectors = {"negative_vec_ND": items[batch["negatives"]], "item_table_VD": items}
        given = {**vectors, "target_B": target, "weight_B": weights, **rows}
        return training_loss(name, users, items[target], batch, 0.5, **given)

    expected = row_losses(name, user[row], items, {**batch, "target": target}, 0.5)
    assert loss(user, row_B=row).item() == pytest.approx(np.dot(expected, weights.numpy()), rel=1e-10)
    once = torch.autograd.grad(loss(user, row_B=row), (user, items))
    twice = torch.autograd.grad(loss(user[row]), (user, items))
    torch.testing.assert_close(once, twice)


@pytest.mark.parametrize("name", sorted(AMONG_TARGETS))
def test_targets_that_are_candidates_share_no_user(name):
    user, items, batch = world(rows=2)
    vectors = {"negative_vec_ND": items[batch["negatives"]], "item_table_VD": items}
    with pytest.raises(AssertionError, match=f"{name} needs a user vector for each target"):
        training_loss(name, user, items[batch["target"]], batch, 1.0, row_B=torch.tensor([0, 1]), **vectors)


@pytest.mark.parametrize("temperature", [1.0, 0.3])
@pytest.mark.parametrize("hardness", [0.1, 1.0, 5.0])
@pytest.mark.parametrize("interests", [0, 3])
@pytest.mark.parametrize("name", HARD)
def test_hardness_equals_the_reference(name, interests, hardness, temperature):
    user, items, batch = world(interests=interests)
    loss = named(name, user, items, batch, temperature, hardness=hardness)
    expected = np.mean(row_losses(name, user, items, batch, temperature, hardness))
    assert loss.item() == pytest.approx(expected, rel=1e-10)
    assert loss.item() > named(name, user, items, batch, temperature).item()  # as weights rise with scores


@pytest.mark.parametrize("name", HARD)
def test_no_hardness_is_hardness_zero_and_its_limit(name):
    user, items, batch = world()
    without = named(name, user, items, batch).item()
    assert named(name, user, items, batch, hardness=0.0).item() == without
    assert named(name, user, items, batch, hardness=1e-9).item() == pytest.approx(without, abs=1e-7)


@pytest.mark.parametrize("name", HARD)
def test_equal_scores_are_equally_hard(name):
    user, items, batch = world()
    flat = named(name, user * 0, items, batch, hardness=3.0)
    assert flat.item() == pytest.approx(named(name, user * 0, items, batch).item(), abs=1e-12)


@pytest.mark.parametrize("name", HARD)
def test_the_weights_of_hardness_are_constants_to_the_gradient(name):
    # h_j exp(s_j) / m_j with h_j from the reference is a softmax with other expected counts
    user, items, batch = world(rows=1, num_negatives=12)
    users, vectors = user.detach().numpy(), items.detach().numpy()
    target, score = int(batch["target"]), lambda j: reference.score(users[0], vectors, j, 1.0)
    drawn, logs = {
        "full_softmax": (list(range(2, NUM_ITEMS)), [0.0] * (NUM_ITEMS - 2)),
        "in_batch": ([], []),
    }.get(name, (batch["negatives"].tolist(), batch["log_expected"].tolist()))
    kept = [(j, log) for j, log in zip(drawn, logs, strict=True) if j != target]
    weighted = dict(batch)
    if kept:
        weights = reference.hard_weights([score(j) for j, _ in kept], [np.exp(m) for _, m in kept], 0.7)
        weighted["negatives"] = torch.tensor([j for j, _ in kept])
        weighted["log_expected"] = torch.tensor(
            [m - np.log(h) for (_, m), h in zip(kept, weights, strict=True)]
        )
    got = named(name, user, items, batch, hardness=0.7)
    expected = named("in_batch" if name == "in_batch" else "sampled_softmax", user, items, weighted)
    assert got.item() == pytest.approx(expected.item(), abs=1e-12)
    for a, b in zip(
        torch.autograd.grad(got, (user, items)), torch.autograd.grad(expected, (user, items)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("interests", [0, 3])
def test_hard_negatives_over_every_item_once_are_the_full_softmax(interests):
    user, items, batch = world(interests=interests)
    every = torch.arange(2, NUM_ITEMS)
    once = {**batch, "negatives": every, "log_expected": torch.zeros(len(every), dtype=torch.float64)}
    sampled = named("sampled_softmax", user, items, once, 0.5, hardness=0.9)
    full = named("full_softmax", user, items, batch, 0.5, hardness=0.9)
    assert sampled.item() == pytest.approx(full.item(), abs=1e-12)
    for a, b in zip(
        torch.autograd.grad(sampled, (user, items)), torch.autograd.grad(full, (user, items)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


def test_copies_of_a_hard_negative_share_its_weight():
    # c copies, each with c times the expected count, stand for the same items
    user, items, batch = world()
    copies = {
        **batch,
        "negatives": batch["negatives"].repeat(4),
        "log_expected": (batch["log_expected"] + np.log(4)).repeat(4),
    }
    losses = [named("sampled_softmax", user, items, which, hardness=2.0).item() for which in (batch, copies)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["in_batch", "mixed", "sampled_softmax"])
def test_rows_with_accidental_hits_only_are_finite_with_hardness(name, dtype):
    user, items, batch = world(rows=2, num_negatives=3, dtype=dtype)
    batch["target"][:], batch["negatives"][:] = 5, 5
    loss = named(name, user, items, batch, hardness=2.0)
    assert loss.item() == 0.0
    for gradient in torch.autograd.grad(loss, (user, items)):
        assert gradient.abs().sum() == 0


@pytest.mark.parametrize("scale", [1.0, 1e3])
@pytest.mark.parametrize("name", HARD)
def test_hardness_of_large_scores_in_half_precision_is_finite(name, scale):
    user, items, batch = world(dtype=torch.float32)
    rough = (user.detach() * scale).to(torch.bfloat16).requires_grad_()
    loss = named(name, rough, items.detach().to(torch.bfloat16), batch, 0.5, hardness=5.0)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, rough)[0]).all()


@pytest.mark.parametrize("name", sorted(set(LOSSES) - set(HARD)))
def test_losses_without_hardness_say_so(name):
    with pytest.raises(AssertionError, match=f"{name} has no hardness"):
        named(name, *world(), hardness=0.5)
