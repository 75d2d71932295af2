"""Gates of interests: values, the straight-through gradient, and what training does to them."""

import math

import pytest
import torch

from raysys.nn.quota import OPEN, InterestGates
from tests.reference import mind as reference


def interests(rows=6, num=4, dim=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, num, dim, generator=generator, dtype=torch.float64).requires_grad_()


def trained(dim=5, bias=0.0):
    gates = InterestGates(dim).double()
    with torch.no_grad():
        gates.weight_D.normal_(generator=torch.Generator().manual_seed(1)).mul_(3.0)
        gates.bias.fill_(bias)
    return gates


def test_gates_start_open():
    factor, is_open, gate = InterestGates(5).double()(interests())
    assert is_open.all()
    torch.testing.assert_close(factor, torch.ones_like(factor))
    torch.testing.assert_close(gate[:, 1:], torch.full_like(gate[:, 1:], 1 / (1 + math.exp(-OPEN))))


def test_gates_equal_the_reference():
    gates, vectors = trained(bias=0.3), interests()
    factor, is_open, gate = gates(vectors)
    for row in range(len(vectors)):
        for k in range(1, 4):
            learnt = gates.weight_D.detach().numpy(), gates.bias.item()
            expected = reference.gate(vectors[row, k].detach().numpy(), *learnt)
            assert gate[row, k].item() == pytest.approx(expected, abs=1e-12)
            assert is_open[row, k].item() == (expected >= 0.5)
            assert factor[row, k].item() == pytest.approx(float(expected >= 0.5), abs=1e-15)
    assert is_open[:, 1:].any()
    assert not is_open[:, 1:].all()


def test_the_first_interest_never_closes_and_has_no_gate():
    gates, vectors = trained(bias=-100.0), interests()
    factor, is_open, gate = gates(vectors)
    assert is_open[:, 0].all()
    assert not is_open[:, 1:].any()
    assert (gate[:, 0] == 1).all()
    factor[:, 0].sum().backward()
    assert vectors.grad.abs().sum() == 0
    assert gates.weight_D.grad.abs().sum() == 0


def test_the_gradient_of_a_factor_is_that_of_its_gate():
    gates, vectors = trained(), interests()
    factor, _, gate = gates(vectors)
    upstream = torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    wanted = (vectors, gates.weight_D, gates.bias)
    got = torch.autograd.grad((factor * upstream).sum(), wanted, retain_graph=True)
    expected = torch.autograd.grad((gate * upstream).sum(), wanted)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert all(gradient.abs().max() > 0 for gradient in got)


def test_one_interest_is_always_open():
    gates, vectors = trained(bias=-100.0), interests(num=1)
    factor, is_open, gate = gates(vectors)
    assert is_open.all()
    (factor.sum() + gate.sum()).backward()
    assert gates.bias.grad.item() == 0


def test_bfloat16_is_finite():
    gates, vectors = trained().to(torch.bfloat16), interests().detach().to(torch.bfloat16).requires_grad_()
    factor, is_open, gate = gates(vectors)
    assert factor.dtype == gate.dtype == torch.bfloat16
    assert torch.equal(factor, is_open.to(torch.bfloat16))
    factor.float().sum().backward()
    assert torch.isfinite(vectors.grad).all()


@pytest.mark.parametrize("weight", [0.01, 1.0])
def test_a_price_alone_closes_every_gate_but_the_first(weight):
    gates, vectors = InterestGates(5).double(), interests().detach()
    optimizer = torch.optim.Adam(gates.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        (weight * gates(vectors)[2].sum(1).mean()).backward()
        optimizer.step()
    assert gates(vectors)[1].sum(1).tolist() == [1] * 6


def test_training_closes_the_useless_interests_and_keeps_the_useful():
    # interests along the first axis lower the loss by more than their price, those along the second by
    # nothing
    vectors = torch.zeros(8, 3, 2, dtype=torch.float64)
    vectors[:, 0, 0] = vectors[:4, 1, 0] = vectors[4:, 2, 0] = 1.0
    vectors[4:, 1, 1] = vectors[:4, 2, 1] = 1.0
    gates = InterestGates(2).double()
    optimizer = torch.optim.Adam(gates.parameters(), lr=0.05)
    for _ in range(300):
        optimizer.zero_grad()
        factor, _, gate = gates(vectors)
        found = (factor[:, 1:] * vectors[:, 1:, 0]).sum(1)
        ((1.0 - found).square().mean() - found.mean() + 0.3 * gate.sum(1).mean()).backward()
        optimizer.step()
    assert gates(vectors)[1].tolist() == [[True, True, False]] * 4 + [[True, False, True]] * 4
