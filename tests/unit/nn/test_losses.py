import math
from typing import get_args

import numpy as np
import pytest
import torch

from raysys.nn.loss_inputs import WITH_NEGATIVES, LossInputs, LossName
from raysys.nn.losses import full_softmax, sampled_softmax, training_loss
from raysys.nn.negatives import NegativeSampler
from tests.reference import losses as reference

NUM_ITEMS = 30


def world(batch=6, dim=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    user = torch.randn(batch, dim, generator=generator, dtype=dtype).requires_grad_()
    items = torch.randn(NUM_ITEMS, dim, generator=generator, dtype=dtype).requires_grad_()
    target = torch.randint(2, NUM_ITEMS, (batch,), generator=generator)
    return user, items, target


def sampled(user, items, target, negatives, log_expected, temperature=1.0):
    negatives = torch.as_tensor(negatives)
    log_expected = torch.as_tensor(log_expected, dtype=torch.float32)
    return sampled_softmax(
        user, items[target], items[negatives], target, negatives, log_expected, temperature
    )


@pytest.mark.parametrize("temperature", [1.0, 0.1, 3.0])
def test_full_softmax_equals_the_reference(temperature):
    user, items, target = world()
    expected = np.mean(
        [
            reference.full_softmax(
                user[b].detach().numpy(), items.detach().numpy(), int(target[b]), temperature
            )
            for b in range(len(user))
        ]
    )
    assert full_softmax(user, items, target, temperature).item() == pytest.approx(expected, abs=1e-12)


def test_full_softmax_leaves_padding_and_unknown_out():
    user, items, target = world()
    before = full_softmax(user, items, target, 1.0).item()
    with torch.no_grad():
        items[:2] = 100.0
    loss = full_softmax(user, items, target, 1.0)
    assert loss.item() == before
    loss.backward()
    assert items.grad[:2].abs().sum() == 0


def test_full_softmax_of_equal_scores_is_the_log_of_the_number_of_items():
    user, items, target = world()
    assert full_softmax(user * 0, items, target, 1.0).item() == pytest.approx(math.log(NUM_ITEMS - 2))


@pytest.mark.parametrize("temperature", [1.0, 0.1, 3.0])
def test_sampled_softmax_equals_the_reference(temperature):
    user, items, target = world()
    rng = np.random.default_rng(1)
    negatives = np.concatenate([rng.integers(2, NUM_ITEMS, 20), target[:2].numpy()])
    log_expected = np.log(rng.uniform(0.1, 3.0, 22)).astype(np.float32)
    candidates = negatives, log_expected.astype(np.float64)
    users, vectors = user.detach().numpy(), items.detach().numpy()
    expected = np.mean(
        [
            reference.softmax(users[b], vectors, int(target[b]), *candidates, temperature)
            for b in range(len(user))
        ]
    )
    got = sampled(user, items, target, negatives, log_expected, temperature).item()
    assert got == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("temperature", [1.0, 0.2])
def test_sampled_softmax_over_every_item_once_is_the_full_softmax(temperature):
    # each item stands for itself: expected count one; the accidental hit is the target, counted already
    user, items, target = world()
    full = full_softmax(user, items, target, temperature)
    every = np.arange(2, NUM_ITEMS)
    got = sampled(user, items, target, every, np.zeros(len(every)), temperature)
    assert got.item() == pytest.approx(full.item(), abs=1e-12)
    expected = torch.autograd.grad(full, (user, items))
    for a, b in zip(torch.autograd.grad(got, (user, items)), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", ["uniform", "log_uniform", "popularity"])
def test_sampled_softmax_converges_to_the_full_softmax(kind):
    # 200,000 draws estimate a sum over 28 items to about 1 %, which the logarithm passes on
    user, items, target = world()
    counts = np.concatenate([[0, 0], np.linspace(300, 30, NUM_ITEMS - 2).astype(np.int64)])
    negatives, log_expected = NegativeSampler(kind, counts, 200_000, seed=1).draw(0)
    full = full_softmax(user, items, target, 0.7)
    got = sampled(user, items, target, negatives, log_expected, 0.7)
    assert got.item() == pytest.approx(full.item(), abs=0.01)
    expected = torch.autograd.grad(full, (user, items))
    for a, b in zip(torch.autograd.grad(got, (user, items)), expected, strict=True):
        torch.testing.assert_close(a, b, atol=0.005, rtol=0.02)


def test_correction_is_not_divided_by_the_temperature():
    user, items, target = torch.ones(1, 1), torch.zeros(4, 1), torch.tensor([2])
    got = sampled(user, items, target, [3], [math.log(0.25)], temperature=0.1)
    assert got.item() == pytest.approx(math.log(1 + 1 / 0.25), abs=1e-6)


def test_only_accidental_hits_give_zero_loss_and_zero_gradient():
    user, items, _ = world(batch=1)
    target = torch.tensor([5])
    loss = sampled(user, items, target, [5, 5], [0.0, 0.0])
    assert loss.item() == 0.0
    for gradient in torch.autograd.grad(loss, (user, items)):
        assert gradient.abs().sum() == 0


@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_half_precision_gives_a_finite_float32_loss(scale):
    user, items, target = (x.detach() for x in world(dtype=torch.float32))
    user = (user * scale).to(torch.bfloat16).requires_grad_()
    items = items.to(torch.bfloat16)
    negatives, log_expected = np.arange(2, 20), np.zeros(18)
    for loss in (
        full_softmax(user, items, target, 0.5),
        sampled(user, items, target, negatives, log_expected, 0.5),
    ):
        assert loss.dtype == torch.float32
        assert torch.isfinite(loss)
        assert torch.isfinite(torch.autograd.grad(loss, user)[0]).all()


NEW = ("in_batch", "mixed", "gbce", "bpr")


def batch_of(target, num_negatives=20, seed=1):
    """Inputs of every loss in float64; some negatives are targets, and target 0 is that of row 3 too."""
    rng = np.random.default_rng(seed)
    negatives = rng.integers(2, NUM_ITEMS, num_negatives)
    target = target.clone()
    if len(target) > 3:
        target[3] = target[0]
    negatives[:1] = target[-1]
    return {
        "target": target,
        "negatives": torch.from_numpy(negatives),
        "log_expected": torch.from_numpy(np.log(rng.uniform(0.1, 3.0, num_negatives))),
        "target_log_expected": torch.from_numpy(np.log(rng.uniform(0.1, 3.0, len(target)))),
        "gbce_beta": torch.tensor(0.3, dtype=torch.float64),
    }


def named(name, user, items, batch, temperature=1.0, **options):
    return training_loss(
        name,
        user,
        items[batch["target"]],
        batch,
        temperature,
        negative_vec_ND=items[batch["negatives"]],
        item_table_VD=items,
        **options,
    )


def expected_loss(name, user, items, batch, temperature):
    targets = enumerate(batch["target"].tolist())
    losses = [
        reference.row_loss(name, user[row], items, target, batch, row, temperature) for row, target in targets
    ]
    return float(np.mean(losses))


@pytest.mark.parametrize("name", get_args(LossName))
@pytest.mark.parametrize("temperature", [1.0, 0.1, 3.0])
@pytest.mark.parametrize("num_negatives", [1, 20])
def test_every_loss_and_its_gradient_equal_the_reference(name, temperature, num_negatives):
    # central differences of the reference with step 1e-6: errors of about 1e-9 in float64
    user, items, target = world()
    batch = batch_of(target, num_negatives)
    loss = named(name, user, items, batch, temperature)
    arrays = {"user": user.detach().numpy().copy(), "items": items.detach().numpy().copy()}

    def expected():
        return expected_loss(name, arrays["user"], arrays["items"], batch, temperature)

    assert loss.item() == pytest.approx(expected(), abs=1e-10)
    gradients = torch.autograd.grad(loss, (user, items))
    rng = np.random.default_rng(2)
    targets = batch["target"].tolist()
    rows = {"user": [0, 1, 3], "items": [targets[0], targets[1], int(batch["negatives"][-1]), 0]}
    for gradient, (key, array) in zip(gradients, arrays.items(), strict=True):
        for row in rows[key]:
            column = rng.integers(array.shape[1])
            before = array[row, column]
            array[row, column] = before + 1e-6
            above = expected()
            array[row, column] = before - 1e-6
            below = expected()
            array[row, column] = before
            slope = (above - below) / 2e-6
            assert gradient[row, column].item() == pytest.approx(slope, abs=1e-7), (key, row)


@pytest.mark.parametrize("name", ["in_batch", "mixed"])
def test_softmax_with_in_batch_candidates_converges_to_the_full_softmax(name):
    # 100,000 rows drawn from the training counts estimate a sum over 28 items to about 1 %
    user, items, _ = world()
    counts = np.concatenate([[0, 0], np.linspace(300, 30, NUM_ITEMS - 2).astype(np.int64)])
    q = counts / counts.sum()
    target = np.random.default_rng(4).choice(NUM_ITEMS, 100_000, p=q)
    inputs = LossInputs(name, counts, 50_000, sampler="uniform", seed=1)
    arrays = inputs.arrays(0, {"target": target})
    batch = {key: torch.from_numpy(value) for key, value in arrays.items()}
    batch["target"] = torch.from_numpy(target)
    shown = 4
    # the loss of the first rows alone, with all rows as candidates: the gathered batch of a small rank
    few = {**batch, "target": batch["target"][:shown]}
    drawn = [batch["target"][shown:]]
    logs = [batch["target_log_expected"][shown:]]
    if name == "mixed":
        drawn.append(batch["negatives"])
        logs.append(batch["log_expected"])
    few["negatives"], few["log_expected"] = torch.cat(drawn), torch.cat(logs)
    few["target_log_expected"] = batch["target_log_expected"][:shown]
    full = full_softmax(user[:shown], items, few["target"], 0.7)
    got = named("mixed", user[:shown], items, few, 0.7)
    assert got.item() == pytest.approx(full.item(), abs=0.02)
    expected = torch.autograd.grad(full, (user, items))
    for a, b in zip(torch.autograd.grad(got, (user, items)), expected, strict=True):
        torch.testing.assert_close(a, b, atol=0.005, rtol=0.03)


@pytest.mark.parametrize("num_negatives", [0, 2])
def test_the_sum_over_candidates_is_right_in_expectation(num_negatives):
    # every batch of 3 rows over 4 items with its probability, target of row 0 fixed, exactly:
    # E = sum over j != t of ((B - 1) q_j + N p_j) / (B q_j + N p_j) exp(s_j), the row itself being no draw
    generator = torch.Generator().manual_seed(3)
    user = torch.randn(1, 3, generator=generator, dtype=torch.float64)
    items = torch.randn(6, 3, generator=generator, dtype=torch.float64)
    q, p, rows = np.array([0.4, 0.3, 0.2, 0.1]), np.array([0.1, 0.2, 0.3, 0.4]), 3
    log_expected = torch.from_numpy(np.log(rows * q + num_negatives * p))
    exponentials = (items[2:] @ user[0]).exp().numpy()
    total = 0.0
    for code in np.ndindex(*[4] * (rows - 1 + num_negatives)):
        others, drawn = list(code[: rows - 1]), list(code[rows - 1 :])
        weight = np.prod(q[others]) * np.prod(p[drawn])
        target = torch.tensor([1, *others]) + 2
        batch = {
            "target": target,
            "target_log_expected": log_expected[target - 2],
            "negatives": torch.tensor(drawn, dtype=torch.int64) + 2,
            "log_expected": log_expected[drawn],
        }
        users = torch.cat([user, torch.zeros(rows - 1, 3, dtype=torch.float64)])
        name = "mixed" if num_negatives else "in_batch"
        loss = rows * named(name, users, items, batch)
        for row in range(1, rows):  # users of zeros have scores of zero
            logs = [batch["target_log_expected"][c] for c in range(rows) if target[c] != target[row]]
            logs += [e for j, e in zip(drawn, log_expected[drawn], strict=True) if j + 2 != target[row]]
            loss = loss - math.log(1.0 + sum(math.exp(-e) for e in logs))
        total += weight * (math.exp(loss.item()) - 1.0) * exponentials[1]
    share = ((rows - 1) * q + num_negatives * p) / (rows * q + num_negatives * p)
    expected = sum(share[j] * exponentials[j] for j in (0, 2, 3))
    assert total == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", ["in_batch", "mixed", "sampled_softmax", "bpr"])
def test_rows_with_accidental_hits_only_have_zero_loss_and_zero_gradient(name):
    user, items, _ = world(batch=2)
    batch = batch_of(torch.tensor([5, 5]), 2)
    batch["negatives"][:] = 5
    loss = named(name, user, items, batch)
    assert loss.item() == 0.0
    for gradient in torch.autograd.grad(loss, (user, items)):
        assert gradient.abs().sum() == 0


def test_gbce_with_accidental_hits_only_is_the_positive_alone():
    user, items, _ = world(batch=1)
    batch = batch_of(torch.tensor([5]), 0)
    batch["negatives"] = torch.tensor([5, 5])
    positive = torch.nn.functional.logsigmoid(user[0] @ items[5]).item()
    assert named("gbce", user, items, batch).item() == pytest.approx(-0.3 * positive, abs=1e-12)


@pytest.mark.parametrize("name", NEW)
def test_an_accidental_hit_changes_nothing(name):
    user, items, _ = world(batch=2)
    batch = batch_of(torch.tensor([5, 9]), 3)
    batch["negatives"][:] = torch.tensor([7, 8, 7])
    more = {
        **batch,
        "negatives": torch.tensor([7, 5, 8, 7]),
        "log_expected": torch.cat([batch["log_expected"][:1], batch["log_expected"]]),
    }
    more["log_expected"][1:2] = 0.4
    more["log_expected"][2:] = batch["log_expected"][1:]
    # row 0 has target 5; row 1 has not
    row_only = [torch.autograd.grad(named(name, user, items, b), user)[0][0] for b in (batch, more)]
    torch.testing.assert_close(row_only[0], row_only[1], atol=1e-12, rtol=0)


def test_gbce_with_power_one_is_the_binary_cross_entropy():
    user, items, _ = world(batch=1)
    batch = {
        **batch_of(torch.tensor([5]), 0),
        "negatives": torch.tensor([7, 8]),
        "gbce_beta": torch.tensor(1.0),
    }
    logits = items[[5, 7, 8]] @ user[0]
    labels = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels).item()
    assert named("gbce", user, items, batch).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", get_args(LossName))
@pytest.mark.parametrize("temperature", [1e-4, 1e4])
def test_extreme_temperatures_are_finite(name, temperature):
    user, items, target = (x.detach() for x in world(dtype=torch.float32))
    user.requires_grad_()
    loss = named(name, user, items, batch_of(target), temperature)
    assert torch.isfinite(loss)
    assert torch.isfinite(torch.autograd.grad(loss, user)[0]).all()


@pytest.mark.parametrize("name", get_args(LossName))
@pytest.mark.parametrize("scale", [1.0, 1e3])
def test_every_loss_in_half_precision_is_finite_and_near_float32(name, scale):
    # 8 bits of mantissa in scores of the order of `scale`
    user, items, target = (x.detach() for x in world(dtype=torch.float32))
    batch = {key: x.float() if x.is_floating_point() else x for key, x in batch_of(target).items()}
    exact = named(name, user * scale, items, batch, 0.5)
    rough_user = (user * scale).to(torch.bfloat16).requires_grad_()
    rough = named(name, rough_user, items.to(torch.bfloat16), batch, 0.5)
    assert exact.dtype == rough.dtype == torch.float32
    assert rough.item() == pytest.approx(exact.item(), rel=0.05)
    assert torch.isfinite(torch.autograd.grad(rough, rough_user)[0]).all()


def test_losses_with_negatives_say_so():
    user, items, target = world()
    batch = batch_of(target)
    for name in get_args(LossName):
        without = {key: value for key, value in batch.items() if key != "negatives"}
        if name in WITH_NEGATIVES:
            with pytest.raises(KeyError, match="negatives"):
                training_loss(name, user, items[target], without, 1.0, negative_vec_ND=items)
        else:
            vectors = items[batch["target"]]
            assert torch.isfinite(training_loss(name, user, vectors, without, 1.0, item_table_VD=items))


@pytest.mark.parametrize("lead", [-200.0, -40.0, 0.0, 40.0, 80.0])
def test_a_lead_of_the_target_leaves_a_loss_and_a_gradient_as_exact_as_the_type(lead: float) -> None:
    """Where the target leads, the loss is close to exp(-lead), which ln(1 + exp(-lead)) would round to 0."""
    user = torch.tensor([[1.0, 0.0]], requires_grad=True)
    target, negatives = torch.tensor([[lead, 0.0]], requires_grad=True), torch.zeros(3, 2)
    expected = torch.zeros(3)
    loss = sampled_softmax(user, target, negatives, torch.tensor([2]), torch.tensor([3, 4, 5]), expected, 1.0)
    loss.backward()
    assert target.grad is not None
    others = math.log(3.0) - lead
    exact = math.log1p(math.exp(others)) if others < 50 else others
    assert float(loss.detach()) == pytest.approx(exact, rel=1e-6)
    assert float(target.grad[0, 0]) == pytest.approx(-1.0 / (1.0 + math.exp(-others)), rel=1e-6)


def test_a_row_whose_negatives_are_all_the_target_has_neither_loss_nor_gradient() -> None:
    user = torch.randn(1, 4, requires_grad=True)
    target, same = torch.randn(1, 4), torch.randn(2, 4)
    loss = sampled_softmax(user, target, same, torch.tensor([7]), torch.tensor([7, 7]), torch.zeros(2), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert user.grad is not None
    assert user.grad.abs().max() == 0.0
