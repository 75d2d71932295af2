"""LSTM layers over sequences that begin at their first position.

Shape suffixes: B batch, T positions, D vector.
"""

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysys.nn.embedding import seeded_normal

FORGET_BIAS = 1.0


class LstmLayers(nn.Module):
    """LSTM layers of one width, the last of them with skip connections, the outputs of all steps.

    Implements the LSTM of Lv et al. 2019 (arXiv:1909.00385), sec. 3.3, after Graves 2013:

        i = sigmoid(W_i e + U_i h + b_i), f = sigmoid(W_f e + U_f h + b_f), o = sigmoid(W_o e + U_o h + b_o)
        c_t = f c_{t-1} + i tanh(W_c e + U_c h + b_c), h_t = o tanh(c_t)

    A position depends on earlier ones only, so what follows the last real position changes nothing before it:
    sequences are to be left-aligned.

    Args:
        dim: D of input, state and output.
        num_layers: at least 1.
        num_residual: the last so many layers add their input to their output; at most num_layers.
        dropout: probability of dropping a number between layers in training, from torch's global generator.
        seed: of the start; weights from N(0, 1 / D), biases zero but for the forget gate, which starts at 1.
    """

    def __init__(
        self, dim: int, num_layers: int, *, num_residual: int = 0, dropout: float = 0.0, seed: int = 0
    ) -> None:
        super().__init__()
        self.dropout, self.first_residual = dropout, num_layers - num_residual
        self.layers = nn.ModuleList(nn.LSTM(dim, dim, batch_first=True) for _ in range(num_layers))
        for number, layer in enumerate(self.layers):
            with torch.no_grad():
                for name, parameter in layer.named_parameters():
                    if parameter.dim() == 2:
                        start = seeded_normal(
                            (4 * dim, dim), 1.0 / math.sqrt(dim), seed, "lstm", number, name
                        )
                        parameter.copy_(start)
                    else:  # torch adds two biases; the gates are in the order i, f, c, o
                        parameter.zero_()
                        if name.startswith("bias_ih"):
                            parameter[dim : 2 * dim] = FORGET_BIAS

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return (B, T, D) from left-aligned inputs."""
        for number, layer in enumerate(self.layers):
            if number:
                x_BTD = functional.dropout(x_BTD, self.dropout, self.training)
            h_BTD = cast("Tensor", layer(x_BTD)[0])
            x_BTD = x_BTD + h_BTD if number >= self.first_residual else h_BTD
        return x_BTD
