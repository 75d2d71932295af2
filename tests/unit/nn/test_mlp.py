import math

import numpy as np
import pytest
import torch

from raysys.nn.mlp import Mlp
from tests.reference import mind as reference


@pytest.mark.parametrize("hidden", [(), (6,), (6, 5)])
def test_equals_the_reference(hidden):
    layers = Mlp(4, hidden, 3, seed=1).double()
    with torch.no_grad():
        for bias in layers.biases:
            bias.normal_(generator=torch.Generator().manual_seed(0))
    inputs = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    weights = [w.detach().numpy() for w in layers.weights]
    biases = [b.detach().numpy() for b in layers.biases]
    expected = [[reference.layers(x.numpy(), weights, biases) for x in row] for row in inputs]
    np.testing.assert_allclose(layers(inputs).detach().numpy(), np.array(expected), atol=1e-12)


def test_last_layer_has_no_relu():
    assert (Mlp(4, (8,), 16)(torch.randn(64, 4, generator=torch.Generator().manual_seed(0))) < 0).any()


def test_start_is_seeded_and_of_the_stated_spread():
    layers = Mlp(200, (300,), 400, seed=3)
    assert all(
        torch.equal(a, b) for a, b in zip(layers.weights, Mlp(200, (300,), 400, seed=3).weights, strict=True)
    )
    assert not torch.equal(layers.weights[0], Mlp(200, (300,), 400, seed=4).weights[0])
    assert layers.weights[0].std().item() == pytest.approx(math.sqrt(2 / 200), rel=0.02)
    assert layers.weights[1].std().item() == pytest.approx(math.sqrt(1 / 300), rel=0.02)
    assert all(bias.abs().sum() == 0 for bias in layers.biases)


def test_dropout_acts_on_hidden_units_in_training_only():
    layers = Mlp(4, (64,), 3, dropout=0.5)
    inputs = torch.ones(2, 4)
    assert not torch.equal(layers(inputs), layers(inputs))
    layers.eval()
    assert torch.equal(layers(inputs), layers(inputs))
    single = Mlp(4, (), 3, dropout=0.5)
    assert torch.equal(single(inputs), single(inputs))
