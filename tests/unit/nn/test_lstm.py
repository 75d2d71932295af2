"""LSTM layers against a loop over steps and gates (`tests/reference/sdm.py`), in float64 to 1e-12."""

import math

import numpy as np
import pytest
import torch

from raysys.nn.lstm import FORGET_BIAS, LstmLayers
from tests.reference import sdm as reference

DIM = 4


def sequences(rows=3, length=6, dtype=torch.float64):
    return torch.randn(rows, length, DIM, generator=torch.Generator().manual_seed(0), dtype=dtype)


def shaken(layers):
    """The layers in float64 with biases that are not those of the start."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in layers.named_parameters():
            if "bias" in name:
                parameter.normal_(generator=generator)
    return layers.double()


def by_loop(layers, row, first_residual):
    steps = list(row.numpy())
    for number, layer in enumerate(layers.layers):
        weight_ih, weight_hh, bias_ih, bias_hh = (
            parameter.detach().numpy() for parameter in layer.parameters()
        )
        outputs = reference.lstm(steps, weight_ih, weight_hh, bias_ih + bias_hh)
        if number >= first_residual:
            outputs = [x + h for x, h in zip(steps, outputs, strict=True)]
        steps = outputs
    return np.array(steps)


@pytest.mark.parametrize(
    ("num_layers", "num_residual"), [(1, 0), (1, 1), (2, 0), (2, 1), (2, 2), (3, 1), (3, 2)]
)
def test_equals_the_reference(num_layers, num_residual):
    layers, x = shaken(LstmLayers(DIM, num_layers, num_residual=num_residual, seed=1)), sequences()
    found = layers(x).detach().numpy()
    for row in range(len(x)):
        expected = by_loop(layers, x[row], num_layers - num_residual)
        np.testing.assert_allclose(found[row], expected, atol=1e-12)


def test_hand_worked_step():
    """One number, all weights 1, no bias: i = f = o = sigmoid(e), c = i tanh(e), then i = sigmoid(e + h)."""
    layers = LstmLayers(1, 1).double()
    with torch.no_grad():
        for parameter in layers.parameters():
            parameter.fill_(1.0 if parameter.dim() == 2 else 0.0)
    found = layers(torch.tensor([[[1.0], [-0.5]]], dtype=torch.float64))[0, :, 0].tolist()
    gate = 1 / (1 + math.exp(-1.0))
    cell = gate * math.tanh(1.0)
    first = gate * math.tanh(cell)
    gate = 1 / (1 + math.exp(0.5 - first))
    second = gate * math.tanh(gate * cell + gate * math.tanh(first - 0.5))
    assert found == pytest.approx([first, second], abs=1e-12)


def test_a_later_position_changes_nothing_before_it():
    layers, x = shaken(LstmLayers(DIM, 2, num_residual=1, seed=1)), sequences()
    found = layers(x)
    for place in range(6):
        changed = x.clone()
        changed[:, place] += 1.0
        moved = (layers(changed) - found).abs().amax(2) > 1e-9
        assert not moved[:, :place].any()
        assert moved[:, place:].all()
    torch.testing.assert_close(layers(x[:, :3]), found[:, :3], atol=1e-12, rtol=0)


def test_numbers_are_dropped_between_layers_in_training_only():
    x = sequences(dtype=torch.float32)
    layers, plain = LstmLayers(DIM, 2, dropout=0.5, seed=1), LstmLayers(DIM, 2, seed=1)
    torch.manual_seed(0)
    assert not torch.equal(layers(x), layers(x))
    assert torch.equal(layers.eval()(x), plain(x))
    single = LstmLayers(DIM, 1, dropout=0.5, seed=1)
    assert torch.equal(single(x), single(x))


def test_start_depends_on_the_seed_alone():
    torch.manual_seed(1)
    first = LstmLayers(64, 2, seed=5)
    torch.manual_seed(2)
    same, other = LstmLayers(64, 2, seed=5), LstmLayers(64, 2, seed=6)
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, same.get_parameter(name))
        if parameter.dim() == 2:
            assert not torch.equal(parameter, other.get_parameter(name))
            # the standard error over 16,384 draws is 0.6 %
            assert parameter.std().item() == pytest.approx(1 / math.sqrt(64), rel=0.03)
    weights = [parameter for parameter in first.parameters() if parameter.dim() == 2]
    assert not any(torch.equal(a, b) for n, a in enumerate(weights) for b in weights[:n])


def test_biases_start_at_zero_but_for_the_forget_gate():
    for layer in LstmLayers(3, 2).layers:
        bias = (layer.bias_ih_l0 + layer.bias_hh_l0).reshape(4, 3)
        assert bias.tolist() == [[0.0] * 3, [FORGET_BIAS] * 3, [0.0] * 3, [0.0] * 3]


def test_every_parameter_has_a_finite_gradient():
    layers = LstmLayers(DIM, 3, num_residual=1)
    layers(sequences(dtype=torch.float32)).square().sum().backward()
    for name, parameter in layers.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        assert parameter.grad.abs().max() > 0, name
