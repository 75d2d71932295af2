"""Weights of behaviours by place and by time."""

import pytest
import torch

from raysys.nn.recency import NUM_GAPS, RecencyWeights, age_of_gaps
from tests.reference import mind as reference

NOW = 1_700_000_000


def trained(kind, interests=3, length=6):
    weights = RecencyWeights(kind, interests, length).double()
    with torch.no_grad():
        weights.log_weight_AK.normal_(generator=torch.Generator().manual_seed(0))
    return weights


@pytest.mark.parametrize("kind", ["slot", "gap"])
def test_untrained_weights_are_one(kind):
    weights = RecencyWeights(kind, 3, 6)(4, torch.tensor([[0, NOW - 900, NOW - 1, NOW]]))
    assert weights.shape == (1, 3, 4)
    assert torch.equal(weights, torch.ones_like(weights))


@pytest.mark.parametrize("length", [0, 1, 4, 6])
def test_slots_are_counted_back_from_the_latest(length):
    weights = trained("slot")
    got = weights(length)
    assert got.shape == (1, 3, length)
    for column in range(length):
        torch.testing.assert_close(got[0, :, column], weights.log_weight_AK[length - 1 - column].exp())


def test_slots_do_not_depend_on_the_padding():
    weights = trained("slot")
    torch.testing.assert_close(weights(6)[:, :, -2:], weights(2))


@pytest.mark.parametrize(
    ("seconds", "age"),
    [(0, 0), (1, 1), (2, 1), (3, 2), (6, 2), (7, 3), (8, 3), (10**9, 29), (2**31 - 2, 30), (2**31 - 1, 31)],
)
def test_ages_of_gaps_by_hand(seconds, age):
    assert age_of_gaps(torch.tensor([[2**33 - seconds, 2**33]])).tolist() == [[age, 0]]


def test_ages_are_exact_at_powers_of_two():
    gaps = [2**e + d for e in range(1, 31) for d in (-2, -1, 0)]
    expected = [reference.gap_age(gap) for gap in gaps]
    at = torch.tensor([[NOW + 2**31 - gap for gap in gaps] + [NOW + 2**31]])
    assert age_of_gaps(at)[0, :-1].tolist() == expected


def test_the_last_age_has_no_end():
    at = torch.tensor([[1, 2**40]])
    assert age_of_gaps(at)[0, 0] == NUM_GAPS - 1


def test_events_of_one_second_are_all_the_latest():
    assert age_of_gaps(torch.full((2, 3), NOW)).tolist() == [[0, 0, 0]] * 2


def test_gaps_are_those_to_the_latest_event_of_each_row():
    weights = trained("gap", length=3)
    at = torch.tensor([[0, NOW - 100, NOW], [NOW - 7, NOW - 1, NOW], [0, 0, 0]])
    got = weights(3, at)
    assert got.shape == (3, 3, 3)
    table = weights.log_weight_AK.exp()
    torch.testing.assert_close(got[0, :, 1:], table[[6, 0]].T)
    torch.testing.assert_close(got[1], table[[3, 1, 0]].T)
    torch.testing.assert_close(got[:, :, -1:], weights(1, at[:, -1:]))
    assert torch.isfinite(got).all()


def test_a_shift_of_the_clock_changes_no_gap():
    weights = trained("gap")
    at = torch.tensor([[NOW - 5000, NOW - 70, NOW]])
    torch.testing.assert_close(weights(3, at + 12_345_678), weights(3, at))


@pytest.mark.parametrize("kind", ["slot", "gap"])
def test_only_ages_that_occur_learn(kind):
    weights = trained(kind)
    at = torch.tensor([[NOW - 7, NOW - 1, NOW]])
    weights(3, at).sum().backward()
    learnt = (weights.log_weight_AK.grad != 0).any(1).nonzero().flatten().tolist()
    assert learnt == ([0, 1, 2] if kind == "slot" else [0, 1, 3])
    assert (trained(kind)(3, at) > 0).all()
