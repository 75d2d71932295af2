import math

import numpy as np
import pytest
import torch

from raysys.nn.attention import LARGEST_POWER, label_aware_attention
from tests.reference import mind as reference


def inputs(batch=7, num_interests=4, dim=5, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    interests = torch.randn(batch, num_interests, dim, generator=generator, dtype=dtype)
    target = torch.randn(batch, dim, generator=generator, dtype=dtype)
    active = torch.arange(num_interests)[None] < torch.arange(1, batch + 1).clamp(max=num_interests)[:, None]
    return interests.masked_fill(~active[..., None], 0.0), target, active


def of_scores(scores, power):
    """Weights where the scores are given: interests on one axis, target one."""
    scores = torch.tensor([scores], requires_grad=True)
    active = torch.ones(scores.shape, dtype=torch.bool)
    _, weights = label_aware_attention(scores[..., None], torch.ones(1, 1, dtype=scores.dtype), active, power)
    return scores, weights


@pytest.mark.parametrize("power", [0.0, 0.3, 0.5, 1.0, 2.0, 3.7, math.inf])
def test_equals_the_reference(power):
    interests, target, active = inputs()
    vectors, weights = label_aware_attention(interests, target, active, power)
    for row in range(len(interests)):
        k = int(active[row].sum())
        vector, expected = reference.label_aware(interests[row, :k].numpy(), target[row].numpy(), power)
        np.testing.assert_allclose(weights[row, :k].numpy(), expected, atol=1e-12)
        np.testing.assert_allclose(vectors[row].numpy(), vector, atol=1e-12)
    assert weights[~active].abs().sum() == 0


@pytest.mark.parametrize("power", [0.3, 1.0, 2.0, 3.7])
def test_gradient_equals_finite_differences(power):
    interests, target, active = inputs(batch=4)
    interests.requires_grad_()
    target.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda v, e: label_aware_attention(v, e, active, power)[0], (interests, target)
    )


def test_power_zero_is_uniform_over_active_interests():
    interests, target, active = inputs()
    _, weights = label_aware_attention(interests, target, active, 0.0)
    torch.testing.assert_close(weights, active / active.sum(1, keepdim=True).double())


def test_power_inf_is_the_best_interest_and_trains_only_it():
    interests, target, active = inputs()
    interests.requires_grad_()
    vectors, weights = label_aware_attention(interests, target, active, math.inf)
    best = [int(np.argmax((interests[r] @ target[r]).tolist()[: int(active[r].sum())])) for r in range(7)]
    assert weights.argmax(1).tolist() == best
    assert weights.sum(1).tolist() == [1.0] * 7
    vectors.sum().backward()
    touched = interests.grad.abs().sum(2) > 0
    assert touched.sum(1).tolist() == [1] * 7
    assert [int(row.nonzero()) for row in touched] == best


def test_power_inf_never_takes_an_inactive_interest():
    interests = torch.tensor([[[-1.0], [0.0], [0.0]]])
    active = torch.tensor([[True, False, False]])
    vectors, weights = label_aware_attention(interests, torch.ones(1, 1), active, math.inf)
    assert vectors.tolist() == [[-1.0]]
    assert weights.tolist() == [[1.0, 0.0, 0.0]]


def test_a_large_power_approaches_the_hard_choice():
    interests, target, active = inputs()
    interests, target = interests * 2, target * 2
    some_positive = ((interests @ target[..., None]).squeeze(2) > 1.5).any(1)
    assert int(some_positive.sum()) >= 3
    hard = label_aware_attention(interests, target, active, math.inf)[0]
    soft = label_aware_attention(interests, target, active, 64.0)[0]
    torch.testing.assert_close(soft[some_positive], hard[some_positive], atol=1e-9, rtol=0)


def test_pitfall_mind_10_inactive_interests_are_not_attended():
    interests, target, active = inputs()
    loud = torch.where(active[..., None], interests, 50.0 * target[:, None])
    for power in (0.0, 0.5, 1.0, 2.0, math.inf):
        a, _ = label_aware_attention(interests, target, active, power)
        b, _ = label_aware_attention(loud, target, active, power)
        torch.testing.assert_close(a, b)
    # a loud one must not become the reference of the others' powers either, where the cap would flatten them
    interests = torch.tensor([[[1.0], [0.5], [1000.0]]])
    _, weights = label_aware_attention(interests, torch.ones(1, 1), torch.tensor([[True, True, False]]), 2.0)
    torch.testing.assert_close(weights[0, :2], torch.tensor([1.0, 0.25]).softmax(0))


@pytest.mark.parametrize("power", [0.5, 1.7, 2.0, 100.0])
def test_pitfall_mind_11_negative_scores_count_as_zero(power):
    scores, weights = of_scores([-0.9, 0.5, -3.0], power)
    positive = math.exp(0.5**power)
    expected = [[1 / (2 + positive), positive / (2 + positive), 1 / (2 + positive)]]
    torch.testing.assert_close(weights, torch.tensor(expected))
    weights[0, 1].backward()
    assert torch.isfinite(scores.grad).all()


@pytest.mark.parametrize("power", [0.5, 2.0, 100.0])
def test_only_negative_scores_give_equal_weights(power):
    scores, weights = of_scores([-0.9, -0.5, -3.0], power)
    torch.testing.assert_close(weights, torch.full((1, 3), 1 / 3))
    weights[0, 1].backward()
    assert scores.grad.abs().sum() == 0


def test_pitfall_mind_12_power_100_does_not_choose_the_opposed_interest():
    _, weights = of_scores([-0.9, 0.5, 0.3], 100.0)
    torch.testing.assert_close(weights, torch.full((1, 3), 1 / 3))  # 0.5^100 is nothing: no interest wins
    _, weights = of_scores([-2.0, 1.3, 1.2], 100.0)
    assert weights.tolist() == [[0.0, 1.0, 0.0]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("power", [0.01, 0.5, 1.0, 2.0, 7.3, 100.0, 1000.0])
@pytest.mark.parametrize("scale", [1e-38, 1e-20, 1e-6, 1.0, 2.5, 1e3, 1e15])
def test_pitfall_mind_12_finite_for_every_power_and_size(scale, power, dtype):
    scores = (torch.tensor([[1.0, 0.999, 0.5, 0.0, -1.0, 1.0]]) * scale).to(dtype)[..., None].requires_grad_()
    target = torch.ones(1, 1, dtype=dtype, requires_grad=True)
    active = torch.ones(1, 6, dtype=torch.bool)
    _, weights = label_aware_attention(scores, target, active, power)
    assert torch.isfinite(weights).all()
    assert weights.sum().item() == pytest.approx(1.0, abs=0.02)
    assert int(weights.argmax()) in (0, 1, 5) or scale < 1.0
    weights.square().sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert torch.isfinite(target.grad).all()


def test_the_cap_only_softens_near_ties():
    # at 2^60 the true softmax is one-hot; from 0.2 % / p apart so is the capped one
    _, weights = of_scores([2.0, 2.0 * (1 - 0.0001 / 60)], 60.0)
    assert 0.5 < weights[0, 0].item() < 0.9
    _, weights = of_scores([2.0, 2.0 * (1 - 0.002 / 60)], 60.0)
    assert weights[0, 0].item() == pytest.approx(1.0, abs=1e-6)
    _, weights = of_scores([LARGEST_POWER, LARGEST_POWER - 1.0], 1.0)
    assert weights[0, 0].item() == pytest.approx(1 / (1 + math.exp(-1.0)), abs=1e-3)
