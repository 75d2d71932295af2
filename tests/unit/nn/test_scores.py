"""The largest score over the interests, against the sum over all of them that it does without."""

import numpy as np
import pytest
import torch

from raysys.nn.scores import fill_inactive, scores_of_items, scores_of_targets


def world(rows=5, interests=3, items=17, dim=4, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    user = torch.randn(rows, interests, dim, generator=generator, dtype=dtype)
    return user.requires_grad_(), torch.randn(items, dim, generator=generator, dtype=dtype).requires_grad_()


def slow(user, items):
    return np.array([[max(float(np.dot(u, e)) for u in row) for e in items] for row in user])


def naive(user, items):
    return (user @ items.T).max(1).values


@pytest.mark.parametrize("interests", [1, 2, 5])
def test_scores_equal_a_loop_over_interests(interests):
    user, items = world(interests=interests)
    expected = slow(user.detach().numpy(), items.detach().numpy())
    np.testing.assert_allclose(scores_of_items(user, items).detach().numpy(), expected, atol=1e-12)
    own = scores_of_targets(user, items[: len(user)]).detach().numpy()
    np.testing.assert_allclose(own, np.diag(expected), atol=1e-12)


def test_one_vector_is_a_user_of_one_interest():
    user, items = world(interests=1)
    flat, own = user[:, 0], items[: len(user)]
    torch.testing.assert_close(scores_of_items(user, items), scores_of_items(flat, items))
    torch.testing.assert_close(scores_of_targets(user, own), scores_of_targets(flat, own))
    torch.testing.assert_close(scores_of_items(flat, items), flat @ items.T)


@pytest.mark.parametrize("interests", [1, 3])
def test_the_gradient_is_that_of_the_maximum(interests):
    user, items = world(interests=interests)
    upstream = torch.randn(5, 17, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    got = torch.autograd.grad((scores_of_items(user, items) * upstream).sum(), (user, items))
    expected = torch.autograd.grad((naive(user, items) * upstream).sum(), (user, items))
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.autograd.gradcheck(scores_of_items, (user, items))
    assert torch.autograd.gradcheck(scores_of_targets, (user, items[:5]))


@pytest.mark.parametrize("wanted", ["user", "items"])
def test_a_gradient_may_be_asked_of_one_side_only(wanted):
    user, items = world()
    sides = {"user": user.detach(), "items": items.detach()}
    sides[wanted].requires_grad_()
    scores_of_items(sides["user"], sides["items"]).sum().backward()
    naive(user, items).sum().backward()
    torch.testing.assert_close(sides[wanted].grad, user.grad if wanted == "user" else items.grad)


@pytest.mark.parametrize("function", ["items", "targets"])
def test_of_equal_scores_the_first_interest_learns(function):
    user = torch.tensor([[[1.0, 0.0], [1.0, 5.0], [0.0, 0.0]]], requires_grad=True)
    item = torch.tensor([[2.0, 0.0]], requires_grad=True)
    score = scores_of_items(user, item) if function == "items" else scores_of_targets(user, item)
    score.sum().backward()
    assert score.flatten().tolist() == [2.0]
    assert user.grad.tolist() == [[[2.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
    assert item.grad.tolist() == [[1.0, 0.0]]


def test_more_interests_than_a_byte_counts():
    user, items = world(rows=2, interests=300, items=9)
    torch.testing.assert_close(scores_of_items(user, items), naive(user, items))
    got = torch.autograd.grad(scores_of_items(user, items).sum(), user)[0]
    torch.testing.assert_close(got, torch.autograd.grad(naive(user, items).sum(), user)[0])


@pytest.mark.parametrize("rows", [0, 4])
def test_no_items_and_no_rows(rows):
    user, items = world(rows=rows)
    scores = scores_of_items(user, items[:0])
    assert scores.shape == (rows, 0)
    scores.sum().backward()
    assert user.grad.abs().sum() == 0


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_bfloat16_is_finite_and_near_float32(scale):
    # 8 bits of mantissa in four products
    user, items = (x.detach() * scale for x in world(dtype=torch.float32))
    rough_user, rough_items = (x.to(torch.bfloat16).requires_grad_() for x in (user, items))
    rough = scores_of_items(rough_user, rough_items)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), naive(user, items), rtol=0.02, atol=0.05 * scale**2)
    rough.float().sum().backward()
    assert torch.isfinite(rough_user.grad).all()
    assert torch.isfinite(rough_items.grad).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_autocast_trains_float32_items_with_users_of_any_precision(dtype):
    # 8 bits of mantissa in scores and, in plain autograd, in the sums of the gradient
    user, items = world(dtype=torch.float32)
    user = user.detach().to(dtype).requires_grad_()
    gradients = []
    for function in (scores_of_items, naive):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = function(user, items).float().square().sum()
        gradients.append(torch.autograd.grad(loss, (user, items)))
    for got, expected in zip(*gradients, strict=True):
        assert got.dtype == expected.dtype
        torch.testing.assert_close(got, expected, rtol=0.02, atol=0.2)


def test_inactive_interests_take_the_first_one_and_change_no_maximum():
    user, items = world()
    active = torch.tensor([[1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 0, 1], [1, 0, 0]], dtype=torch.bool)
    filled = fill_inactive(user, active)
    for row in range(5):
        kept = user[row : row + 1, active[row]]
        torch.testing.assert_close(
            scores_of_items(filled, items)[row], scores_of_items(kept, items)[0], atol=1e-14, rtol=0
        )
        assert torch.equal(filled[row, ~active[row]], user[row, :1].expand(int((~active[row]).sum()), -1))
    scores_of_items(filled, items).sum().backward()
    assert user.grad[~active].abs().sum() == 0


def test_a_loss_keeps_no_scores_per_interest():
    # what the backward pass holds: vectors and one number per score, not K
    user, items = world(rows=64, interests=8, items=512, dtype=torch.float32)
    saved = []

    def keep(tensor):
        saved.append(tensor.numel() * tensor.element_size())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scores_of_items(user, items)
    assert sum(saved) == 4 * (user.numel() + items.numel() + 64 * 512)
