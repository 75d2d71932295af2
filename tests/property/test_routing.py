"""Properties of routing and attention over drawn sizes, histories and weights."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from raysys.nn.attention import label_aware_attention
from raysys.nn.capsule import BehaviourToInterestRouting, num_active_interests, squash
from tests.reference import mind as reference

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True)
WIDTH = 10


@st.composite
def routings(draw):
    """A routing layer with behaviours of left-padded histories, in float64."""
    num_interests, dim = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    routing = BehaviourToInterestRouting(
        dim,
        draw(st.integers(1, 5)),
        num_interests=num_interests,
        history_length=WIDTH,
        iterations=draw(st.integers(1, 5)),
        sigma=draw(st.floats(0.01, 5.0)),
        adaptive=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    ).double()
    lengths = torch.tensor(draw(st.lists(st.integers(0, WIDTH), min_size=1, max_size=5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 1000)))
    scale = draw(st.sampled_from([0.0, 1e-3, 1.0, 10.0]))
    vectors = scale * torch.randn(len(lengths), WIDTH, dim, generator=generator, dtype=torch.float64)
    mask = torch.arange(WIDTH)[None] >= WIDTH - lengths[:, None]
    return routing, vectors, mask


@SETTINGS
@given(routings())
def test_weights_sum_to_one_over_interests_and_vanish_on_padding(drawn):
    routing, vectors, mask = drawn
    _, active, weights = routing(vectors, mask)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(2), mask.double())
    assert weights.transpose(1, 2)[~active].abs().sum() == 0


@SETTINGS
@given(routings())
def test_interests_are_shorter_than_one_and_zero_where_inactive(drawn):
    routing, vectors, mask = drawn
    interests, active, _ = routing(vectors, mask)
    assert torch.isfinite(interests).all()
    assert (interests.norm(dim=2) < 1).all()
    assert interests[~active].abs().sum() == 0
    assert active[:, 0].all()


@SETTINGS
@given(routings(), st.integers(0, 5))
def test_what_is_behind_the_mask_does_not_matter(drawn, seed):
    routing, vectors, mask = drawn
    noise = torch.randn(vectors.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    noisy = torch.where(mask[..., None], vectors, noise)
    torch.testing.assert_close(routing(vectors, mask)[0], routing(noisy, mask)[0])


@SETTINGS
@given(routings())
def test_routing_equals_the_reference(drawn):
    routing, vectors, mask = drawn
    interests = routing(vectors, mask)[0].detach().numpy()
    for row in range(len(vectors)):
        low = vectors[row, mask[row]].numpy()
        n, k = len(low), routing.num_interests
        k = reference.num_active(n, k) if routing.adaptive else k
        start = routing.start_TK.numpy()[:n][::-1]
        expected, _ = reference.route(low, routing.map_LD.detach().numpy(), start, routing.iterations, k)
        np.testing.assert_allclose(interests[row, :k], expected, atol=1e-9)


@SETTINGS
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=8))
def test_squash_keeps_the_direction_and_equals_the_reference(values):
    out = squash(torch.tensor(values, dtype=torch.float64)).numpy()
    assert np.linalg.norm(out) < 1
    np.testing.assert_allclose(out, reference.squash(values), atol=1e-12)


@SETTINGS
@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=8), st.integers(1, 70))
def test_number_of_interests_equals_the_reference(lengths, num_interests):
    got = num_active_interests(torch.tensor(lengths), num_interests).tolist()
    assert got == [reference.num_active(n, num_interests) for n in lengths]


@SETTINGS
@given(
    st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=6),
    st.integers(0, 5),
    st.floats(0.0, 120.0) | st.just(math.inf),
)
def test_attention_is_a_finite_distribution_that_never_falls_with_the_score(scores, inactive, power):
    count = len(scores)
    padded = torch.tensor([[*scores, *([7.0] * inactive)]])
    active = torch.arange(count + inactive)[None] < count
    interests = padded[..., None].clone().requires_grad_()
    vectors, weights = label_aware_attention(interests, torch.ones(1, 1), active, power)
    assert torch.isfinite(vectors).all()
    assert weights[~active].abs().sum() == 0
    torch.testing.assert_close(weights.sum(1), torch.ones(1))
    ranked = weights[0, :count][padded[0, :count].argsort(stable=True)]
    if power != math.inf:  # at inf one of several equals is chosen
        assert (ranked.diff() >= -1e-6).all()
    vectors.sum().backward()
    assert torch.isfinite(interests.grad).all()
