"""A learnt number of interests: gates that open or close each interest of a user.

Shape suffixes: B batch, K interests, D vector.
"""

import math

import torch
from torch import Tensor, nn

OPEN = 2.0
"""Starting logit of a gate, sigmoid 0.88: every interest begins open."""


class InterestGates(nn.Module):
    """Decides from an interest alone whether its user has it.

    gate_k = sigmoid(w . u_k + b); the interest is open where the gate is at least one half. The step is taken
    forwards and the sigmoid backwards (the straight-through estimator of Bengio et al. 2013,
    arXiv:1308.3432). The first interest is always open.

    Args:
        dim: D.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight_D = nn.Parameter(torch.zeros(dim))
        self.bias = nn.Parameter(torch.tensor(OPEN))

    def forward(self, interest_BKD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the factor of each interest (B, K), 0 or 1 in value with the gradient of the gate; open
        (B, K) bool; and the gates (B, K)."""
        scale = 1.0 / math.sqrt(interest_BKD.shape[2])
        gate_BK = torch.sigmoid(interest_BKD @ self.weight_D * scale + self.bias)
        gate_BK = torch.cat([torch.ones_like(gate_BK[:, :1]), gate_BK[:, 1:]], 1)
        open_BK = gate_BK >= 0.5
        return open_BK.to(gate_BK.dtype) + (gate_BK - gate_BK.detach()), open_BK, gate_BK
