"""Routing beyond the paper: weighted behaviours, no last squash, a start from behaviours that lie far
apart."""

import numpy as np
import pytest
import torch

from raysys.nn.capsule import BehaviourToInterestRouting, farthest_point_logits
from tests.reference import mind as reference

LENGTHS = (0, 1, 3, 4, 7, 8, 12)
WIDTH = 12


def layer(**options):
    options = {"num_interests": 3, "history_length": WIDTH, **options}
    return BehaviourToInterestRouting(5, 4, **options).double()


def behaviours(lengths=LENGTHS, width=WIDTH, dim=4, seed=0, distinct=0):
    """Mapped behaviours and their mask; with `distinct`, of as many different items."""
    generator = torch.Generator().manual_seed(seed)
    vectors = torch.randn(len(lengths), width, dim, generator=generator, dtype=torch.float64)
    if distinct:
        vectors = vectors[:, torch.randint(0, distinct, (width,), generator=generator)]
    mask = torch.arange(width)[None] >= width - torch.tensor(lengths)[:, None]
    return torch.where(mask[..., None], vectors, 0.0), mask


def factors(rows=7):
    return torch.rand(rows, 3, WIDTH, generator=torch.Generator().manual_seed(3)).double() * 3 + 0.01


def expected_of(routing, vectors, mask, weight=None, lengths=None):
    """(interests, weights) of the reference, in the padded layout; the map is the identity."""
    interests = np.zeros((len(vectors), routing.num_interests, vectors.shape[2]))
    weights = np.zeros((*mask.shape, routing.num_interests))
    for row in range(len(vectors)):
        low, columns = vectors[row, mask[row]].numpy(), np.flatnonzero(mask[row])
        n = len(low) if lengths is None else int(lengths[row])
        k = reference.num_active(n, routing.num_interests) if routing.adaptive else routing.num_interests
        if routing.start == "farthest_point":
            start = routing.sigma * np.array(reference.farthest_points(low, k) if len(low) else [])
        elif routing.start == "position":
            ages = [int(mask.shape[1]) - 1 - int(column) for column in columns]
            start = np.array(reference.positions(ages, routing.num_interests, routing.sigma))
        else:
            start = routing.start_TK.numpy()[mask.shape[1] - 1 - columns]
        own = None if weight is None else weight[row].T.numpy()[columns]
        interests[row, :k], weights[row, columns, :k] = reference.route(
            low, np.eye(4), start, routing.iterations, k, own, routing.squash_last
        )
    return interests, weights


@pytest.mark.parametrize("rounds", [1, 2, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("squash_last", [True, False])
@pytest.mark.parametrize("start", ["gaussian", "farthest_point", "position"])
def test_routing_equals_the_reference(rounds, weighted, squash_last, start):
    routing = layer(iterations=rounds, squash_last=squash_last, start=start, sigma=2.0)
    vectors, mask = behaviours()
    weight = factors() if weighted else None
    interests, _, weights = routing.route(vectors, mask, weight_BKT=weight)
    expected = expected_of(routing, vectors, mask, weight)
    np.testing.assert_allclose(interests.numpy(), expected[0], atol=1e-12)
    np.testing.assert_allclose(weights.numpy(), expected[1], atol=1e-12)


@pytest.mark.parametrize("gradient", ["last", "all"])
def test_factors_of_one_change_nothing_and_factors_learn(gradient):
    routing = layer(gradient=gradient)
    vectors, mask = behaviours()
    ones = torch.ones(1, 3, WIDTH, dtype=torch.float64).requires_grad_()
    weighted = routing.route(vectors, mask, weight_BKT=ones)
    for a, b in zip(weighted, routing.route(vectors, mask), strict=True):
        assert torch.equal(a, b)
    weighted[0].square().sum().backward()
    assert (ones.grad.abs() > 0).all()


@pytest.mark.parametrize("start", ["gaussian", "farthest_point", "position"])
def test_gradient_all_with_factors_is_the_whole_derivative(start):
    # but for the starting logits, which are constants
    routing = layer(gradient="all", squash_last=False, start=start)
    vectors, mask = behaviours(lengths=(3, 8))
    fixed = routing._start(vectors, mask)
    routing._start = lambda *_: fixed

    def interests(mapped, weight):
        return routing.route(mapped, mask, weight_BKT=weight)[0]

    weight = factors(rows=2).requires_grad_()
    assert torch.autograd.gradcheck(interests, (vectors.requires_grad_(), weight))


def test_padding_learns_no_factor():
    routing = layer(gradient="all")
    vectors, mask = behaviours()
    weight = factors().requires_grad_()
    routing.route(vectors, mask, weight_BKT=weight)[0].square().sum().backward()
    assert weight.grad.transpose(1, 2)[~mask].abs().sum() == 0


def test_without_the_last_squash_an_interest_keeps_the_length_of_its_sum():
    vectors, mask = behaviours(lengths=(WIDTH,))
    squashed, _, weights = layer(iterations=2).route(10 * vectors, mask)
    sums, _, same = layer(iterations=2, squash_last=False).route(10 * vectors, mask)
    assert torch.equal(weights, same)
    assert (sums.norm(dim=2) > 1).any()
    length = sums.norm(dim=2, keepdim=True)
    torch.testing.assert_close(squashed, sums * length / (1 + length**2))


def test_the_number_of_interests_may_come_from_another_length():
    routing = layer()
    vectors, mask = behaviours()
    lengths = torch.tensor([12, 8, 0, 1, 4, 12, 2])
    interests, active, _ = routing.route(vectors, mask, length_B=lengths)
    assert active.sum(1).tolist() == [3, 3, 1, 1, 2, 3, 1]
    np.testing.assert_allclose(
        interests.numpy(), expected_of(routing, vectors, mask, lengths=lengths)[0], atol=1e-12
    )
    all_of_them = layer(adaptive=False).route(vectors, mask, length_B=lengths)[1]
    assert all_of_them.all()


@pytest.mark.parametrize("num_interests", [1, 2, 5, 14])
@pytest.mark.parametrize("distinct", [0, 1, 2, 4])
def test_farthest_points_equal_the_reference(num_interests, distinct):
    vectors, mask = behaviours(distinct=distinct)
    logits = farthest_point_logits(vectors, mask, num_interests)
    assert logits.shape == (len(LENGTHS), num_interests, WIDTH)
    assert logits.transpose(1, 2)[~mask].abs().sum() == 0
    for row, length in enumerate(LENGTHS):
        if length:
            expected = reference.farthest_points(vectors[row, mask[row]].numpy(), num_interests)
            got = logits[row, :, WIDTH - length :].T.numpy()
            np.testing.assert_allclose(got, expected, atol=1e-12)


def test_farthest_points_by_hand():
    # the latest is at 0 degrees; 170 degrees is the farthest from it, then 80 lies between the two
    degrees = torch.tensor([[10.0, 80.0, 170.0, 0.0]], dtype=torch.float64)
    vectors = torch.stack([degrees.deg2rad().cos(), degrees.deg2rad().sin()], dim=2)
    vectors = vectors * torch.tensor([1.0, 5.0, 0.1, 2.0])[None, :, None]  # lengths do not matter
    logits = farthest_point_logits(vectors, torch.ones(1, 4, dtype=torch.bool), 3)
    expected = [(degrees - seed).deg2rad().cos() for seed in (0.0, 170.0, 80.0)]
    torch.testing.assert_close(logits, torch.stack(expected, 1))


def test_holes_in_a_history_are_no_behaviours():
    vectors, mask = behaviours(lengths=(8,))
    holes = mask.clone()
    holes[0, [5, 11]] = False
    logits = farthest_point_logits(vectors, holes, 3)
    expected = reference.farthest_points(vectors[0, holes[0]].numpy(), 3)
    np.testing.assert_allclose(logits[0, :, holes[0]].T.numpy(), expected, atol=1e-12)
    assert logits[0, :, ~holes[0]].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("distinct", [1, 2, 3])
def test_more_interests_than_distinct_items_start_from_the_oldest(dtype, distinct):
    # after one seed per distinct item all behaviours have distance 0, whatever the rounding of a cosine
    generator = torch.Generator().manual_seed(4)
    items = torch.randn(200, distinct, 33, generator=generator).to(dtype)
    order = [j % distinct for j in range(9)]
    logits = farthest_point_logits(items[:, order], torch.ones(200, 9, dtype=torch.bool), distinct + 3)
    oldest = items[:, :1].double()
    cosines = torch.nn.functional.cosine_similarity(oldest, items[:, order].double(), dim=2)
    for k in range(distinct, distinct + 3):
        torch.testing.assert_close(logits[:, k].double(), cosines, atol=0.02, rtol=0)


@pytest.mark.parametrize("options", [{}, {"squash_last": False}, {"adaptive": False}])
@pytest.mark.parametrize("distinct", [0, 2])
def test_a_user_depends_neither_on_padding_nor_batch_nor_call(options, distinct):
    routing = layer(start="farthest_point", **options)
    vectors, mask = behaviours(distinct=distinct)
    weight = factors()
    together = routing.route(vectors, mask, weight_BKT=weight)
    for a, b in zip(together, routing.route(vectors, mask, weight_BKT=weight), strict=True):
        assert torch.equal(a, b)
    for row, length in enumerate(LENGTHS):
        first = WIDTH - length
        alone = routing.route(
            vectors[row : row + 1, first:], mask[row : row + 1, first:], weight_BKT=weight[row, :, first:]
        )
        for a, b in zip(together, alone, strict=True):
            got = a[row : row + 1, first:] if a.shape[1] == WIDTH else a[row : row + 1]
            torch.testing.assert_close(got, b, atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("squash_last", [True, False])
def test_empty_histories_are_zero_and_finite(dtype, squash_last):
    routing = layer(start="farthest_point", squash_last=squash_last, gradient="all").to(dtype)
    vectors, mask = behaviours(lengths=(0, 0, 6))
    vectors = vectors.to(dtype).requires_grad_()
    interests, active, weights = routing.route(vectors, mask, weight_BKT=factors(rows=3).to(dtype))
    assert interests.dtype == weights.dtype == dtype
    assert interests[:2].abs().sum() == 0
    assert active.sum(1).tolist() == [1, 1, 2]
    interests.float().square().sum().backward()
    assert torch.isfinite(vectors.grad).all()


def test_histories_without_columns_are_empty():
    routing = layer(start="farthest_point")
    vectors, mask = behaviours(lengths=(0, 0))
    interests, active, weights = routing.route(vectors[:, :0], mask[:, :0])
    assert interests.abs().sum() == 0
    assert active.sum(1).tolist() == [1, 1]
    assert weights.shape == (2, 0, 3)


def test_an_identity_map_starts_interests_among_their_behaviours():
    routing = BehaviourToInterestRouting(
        4, 4, num_interests=1, history_length=WIDTH, map_start="identity", squash_last=False
    ).double()
    vectors, mask = behaviours()
    interests, _, _ = routing(vectors, mask)
    torch.testing.assert_close(interests[:, 0], vectors.sum(1), atol=1e-12, rtol=0)
    torch.testing.assert_close(layer(map_start="identity").map_LD, torch.eye(5, 4, dtype=torch.float64))
    assert not torch.equal(layer().map_LD, torch.eye(5, 4, dtype=torch.float64))
    assert layer(map_start="identity").map_LD.requires_grad
