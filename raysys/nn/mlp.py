"""A small multi-layer perceptron with a seeded start."""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysys.nn.embedding import seeded_normal


class Mlp(nn.Module):
    """Linear layers with ReLU between them; the last one is linear only.

    Weights start from N(0, 2 / fan_in) before a ReLU (He et al. 2015, arXiv:1502.01852) and N(0, 1 / fan_in)
    in the last layer; biases start at zero.

    Args:
        input_dim: length of the input vectors.
        hidden_dims: width of each ReLU layer; () is a single linear map.
        output_dim: length of the output vectors.
        dropout: probability of dropping a hidden unit, in [0, 1); drawn from torch's global generator in
            training.
        seed: of the start.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int],
        output_dim: int,
        *,
        dropout: float = 0.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.dropout = dropout
        dims = [input_dim, *hidden_dims, output_dim]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for layer, (fan_in, fan_out) in enumerate(itertools.pairwise(dims)):
            gain = 1.0 if layer == len(hidden_dims) else 2.0
            std = math.sqrt(gain / fan_in)
            self.weights.append(nn.Parameter(seeded_normal((fan_out, fan_in), std, seed, "mlp", layer)))
            self.biases.append(nn.Parameter(torch.zeros(fan_out)))

    def forward(self, inputs: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return (..., output_dim).

        Args:
            inputs: (..., input_dim), or its first columns.
            shared: (B, P), its last columns, the same for every row of `inputs` (B, ..., input_dim - P) that
                has the same first index: their share of the first layer is computed once for all of these.
        """
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer == 0 and shared is not None:
                own, rest = weight.split([inputs.shape[-1], shared.shape[-1]], 1)
                share = functional.linear(shared, rest, bias)
                inputs = functional.linear(inputs, own) + share[(slice(None), *[None] * (inputs.dim() - 2))]
            else:
                inputs = functional.linear(inputs, weight, bias)
            if layer < last:
                inputs = functional.dropout(functional.relu(inputs), self.dropout, self.training)
        return inputs
