import math

import numpy as np
import pytest
import torch

from raysys.nn.losses import full_softmax, sampled_softmax
from raysys.nn.negatives import NegativeSampler
from tests.reference import mind as reference

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
    expected = np.mean(
        [
            reference.sampled_softmax(
                user[b].detach().numpy(),
                items.detach().numpy(),
                int(target[b]),
                negatives,
                log_expected.astype(np.float64),
                temperature,
            )
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
