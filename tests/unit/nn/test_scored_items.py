"""The vectors of a step by two ways, equal in float64 to 1e-12, and the weights of several targets."""

import pytest
import torch

from raysys.nn.embedding import ConcatItemEncoder, ItemEncoder, unit_length
from raysys.nn.scored_items import real_targets, scored_items
from tests.reference.world import NUM_ITEMS, small_catalog

TARGETS = torch.tensor([3, 9, 3, 23, 5])
NEGATIVES = torch.tensor([2, 9, 9, 4])
SLOTS = len(TARGETS) + len(NEGATIVES)


def step(encoder, serve, other_slots, loss="sampled_softmax"):
    """The vectors of a step, and the gradient of a random sum of them by parameter."""
    items = encoder(small_catalog(), 4, seed=1).double()
    found = scored_items(items, serve, loss, TARGETS, NEGATIVES, other_slots)
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros((), dtype=torch.float64)
    for vectors in (found.targets, found.negatives):
        total = total + (vectors * torch.randn(vectors.shape, generator=generator, dtype=total.dtype)).sum()
    total.backward()
    return found, {name: parameter.grad for name, parameter in items.named_parameters()}


@pytest.mark.parametrize("encoder", [ItemEncoder, ConcatItemEncoder])
@pytest.mark.parametrize("serve", [lambda vectors: vectors, unit_length], ids=["raw", "unit"])
def test_both_ways_agree_in_value_and_gradient(encoder, serve):
    by_slot, slot_gradients = step(encoder, serve, 0)
    by_table, table_gradients = step(encoder, serve, 1000)
    assert by_slot.encoded is None
    assert by_table.encoded is not None
    items = encoder(small_catalog(), 4, seed=1).double()
    expected = torch.stack([serve(items(torch.tensor(item))) for item in TARGETS.tolist()])
    for found in (by_slot, by_table):
        torch.testing.assert_close(found.targets, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(by_slot.negatives, by_table.negatives, atol=1e-12, rtol=0)
    torch.testing.assert_close(slot_gradients, table_gradients, atol=1e-12, rtol=0)
    assert slot_gradients["item"][torch.cat([TARGETS, NEGATIVES])].abs().amax(1).min() > 0
    assert slot_gradients["item"][[0, 1, 6]].abs().sum() == 0


def test_the_catalogue_is_encoded_where_it_is_no_larger_than_the_slots():
    missing = NUM_ITEMS - SLOTS
    assert step(ItemEncoder, unit_length, missing - 1)[0].encoded is None
    found, _ = step(ItemEncoder, unit_length, missing)
    assert found.encoded is not None
    assert found.encoded.shape == (NUM_ITEMS, 4)
    torch.testing.assert_close(found.served, unit_length(found.encoded))


def test_the_full_softmax_needs_the_catalogue_whatever_the_slots():
    found, _ = step(ItemEncoder, unit_length, 0, "full_softmax")
    assert found.served is not None
    torch.testing.assert_close(found.targets, found.served[TARGETS])


def test_one_target_a_row_has_no_weights():
    target, row, weight = real_targets(torch.tensor([4, 7, 4]))
    assert target.tolist() == [4, 7, 4]
    assert row is None
    assert weight is None


def test_a_row_weighs_the_same_however_many_targets_it_has():
    target, row, weight = real_targets(torch.tensor([[4, 7, 9], [5, 0, 0], [6, 0, 8], [3, 2, 0]]))
    assert target.tolist() == [4, 7, 9, 5, 6, 8, 3, 2]
    assert row is not None
    assert weight is not None
    assert row.tolist() == [0, 0, 0, 1, 2, 2, 3, 3]
    expected = [1 / 12, 1 / 12, 1 / 12, 1 / 4, 1 / 8, 1 / 8, 1 / 8, 1 / 8]
    assert weight.tolist() == pytest.approx(expected, rel=1e-6)  # float32
