"""Attention against loops over users and heads in NumPy (`tests/reference/sdm.py`), in float64 to 1e-12."""

import math

import numpy as np
import pytest
import torch

from raysys.nn.self_attention import MultiHeadSelfAttention, attend, attend_to_prefixes, masked_softmax
from tests.reference import sdm as reference

LENGTHS = (0, 1, 2, 4, 5)
DIM = 6


def inputs(dtype=torch.float64):
    """Queries, keys and a mask that leaves out the first row and what follows the real positions."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(len(LENGTHS), DIM, generator=generator, dtype=dtype)
    keys = torch.randn(len(LENGTHS), 5, DIM, generator=generator, dtype=dtype)
    return query, keys, torch.arange(5) < torch.tensor(LENGTHS)[:, None]


def heads(num_heads=3, dtype=torch.float64, **options):
    return MultiHeadSelfAttention(DIM, num_heads, seed=1, **options).to(dtype)


def test_masked_softmax_equals_the_loop_and_is_zero_without_entries():
    _, keys, mask = inputs()
    found = masked_softmax(keys[..., 0] * 3, mask)
    for row, length in enumerate(LENGTHS):
        expected = reference.softmax((keys[row, :length, 0] * 3).tolist()) if length else []
        np.testing.assert_allclose(found[row, :length].numpy(), expected, atol=1e-12)
        assert found[row, length:].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("size", [0.0, 1.0, 3e4])
def test_masked_softmax_and_its_gradient_are_finite(size, dtype):
    logits = (torch.tensor([[1.0, -1.0, 0.5], [-1.0, -1.0, -1.0]]) * size).to(dtype).requires_grad_()
    mask = torch.tensor([[[True, True, False], [False, False, False]], [[False, True, True], [True] * 3]])
    found = masked_softmax(logits[:, None], mask)
    torch.testing.assert_close(found.sum(-1), mask.any(-1).to(dtype), atol=1e-2, rtol=0)
    assert found[~mask].abs().sum() == 0
    found.square().sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_attend_equals_the_reference():
    query, keys, mask = inputs()
    vectors, weights = attend(query, keys, mask)
    for row, length in enumerate(LENGTHS):
        vector, expected = reference.attend(query[row].numpy(), list(keys[row, :length].numpy()))
        np.testing.assert_allclose(vectors[row].numpy(), vector, atol=1e-12)
        np.testing.assert_allclose(weights[row, :length].numpy(), expected, atol=1e-12)
        assert weights[row, length:].abs().sum() == 0


def test_real_positions_may_lie_anywhere():
    query, keys, mask = inputs()
    order = torch.tensor([3, 0, 4, 2, 1])
    vectors, weights = attend(query, keys[:, order], mask[:, order])
    expected, in_order = attend(query, keys, mask)
    torch.testing.assert_close(vectors, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(weights, in_order[:, order], atol=1e-12, rtol=0)


def test_padding_is_ignored_however_loud():
    query, keys, mask = inputs()
    loud = torch.where(mask[..., None], keys, 50.0 * query[:, None])
    for function in (attend, attend_to_prefixes):
        found, expected = function(query, loud, mask), function(query, keys, mask)
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    for causal in (False, True):
        layer = heads(causal=causal)
        found, expected = layer(loud, mask), layer(keys, mask)
        torch.testing.assert_close(found[mask], expected[mask], atol=1e-12, rtol=0)


def test_prefixes_equal_attention_to_each_prefix():
    query, keys, mask = inputs()
    found = attend_to_prefixes(query, keys, mask)
    for row, length in enumerate(LENGTHS):
        for last in range(length):
            vector, _ = reference.attend(query[row].numpy(), list(keys[row, : last + 1].numpy()))
            np.testing.assert_allclose(found[row, last].numpy(), vector, atol=1e-12)
    assert found[0].abs().sum() == 0


@pytest.mark.parametrize("num_heads", [1, 2, 3, 6])
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("causal", [False, True])
def test_self_attention_equals_the_reference(num_heads, scaled, causal):
    _, keys, mask = inputs()
    layer = heads(num_heads, scaled=scaled, causal=causal)
    inner, output = layer.inner.detach().numpy(), layer.output.detach().numpy()
    found = layer(keys, mask).detach().numpy()
    for row, length in enumerate(LENGTHS):
        steps = list(keys[row, :length].numpy())
        expected = reference.self_attention(steps, inner, output, num_heads, scaled, causal)
        np.testing.assert_allclose(found[row, :length], np.reshape(expected, (length, DIM)), atol=1e-12)


def test_hand_worked_heads():
    """Two heads of one number each, maps that are the identity: head h weighs x_h by exp(x_h x'_h)."""
    layer = MultiHeadSelfAttention(2, 2).double()
    with torch.no_grad():
        layer.inner.copy_(torch.eye(2).repeat(3, 1))
        layer.output.copy_(torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    x = torch.tensor([[[1.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    found = layer(x, torch.ones(1, 2, dtype=torch.bool))
    first, second = math.e / (math.e + 1), math.exp(4.0) / (math.exp(4.0) + 1)
    expected = [[[1.0, first], [2 * second, 0.5]]]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), atol=1e-12, rtol=0)


def test_gradients_equal_finite_differences():
    query, keys, mask = inputs()
    query.requires_grad_()
    keys.requires_grad_()
    for function in (lambda q, k: attend(q, k, mask), lambda q, k: attend_to_prefixes(q, k, mask)):
        assert torch.autograd.gradcheck(function, (query, keys))
    for causal in (False, True):
        layer = heads(causal=causal)
        assert torch.autograd.gradcheck(lambda k, layer=layer: layer(k, mask), (keys,))


@pytest.mark.parametrize("causal", [False, True])
def test_a_later_position_changes_nothing_before_it_if_causal(causal):
    _, keys, _ = inputs()
    layer, mask = heads(causal=causal), torch.ones(keys.shape[:2], dtype=torch.bool)
    found = layer(keys, mask)
    for place in range(1, 5):
        changed = keys.clone()
        changed[:, place] += 1.0
        moved = (layer(changed, mask) - found).abs().amax(2) > 1e-6
        assert moved[:, place:].all()
        assert moved[:, :place].all() != causal
        assert not (causal and moved[:, :place].any())


def test_weights_are_dropped_in_training_only():
    _, keys, mask = inputs(torch.float32)
    layer, plain = heads(dtype=torch.float32, dropout=0.5), heads(dtype=torch.float32)
    torch.manual_seed(0)
    assert not torch.equal(layer(keys, mask), layer(keys, mask))
    assert torch.equal(layer.eval()(keys, mask), plain(keys, mask))


def test_start_depends_on_the_seed_alone():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = MultiHeadSelfAttention(128, 4, seed=5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    same, other = MultiHeadSelfAttention(128, 4, seed=5), MultiHeadSelfAttention(128, 4, seed=6)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
        assert not torch.equal(parameter, other.get_parameter(name))
        # the standard error over 16,384 draws and more is at most 0.6 %
        assert parameter.std().item() == pytest.approx(1 / math.sqrt(128), rel=0.03)
