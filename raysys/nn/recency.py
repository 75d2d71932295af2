"""Learned weights of behaviours by how long ago they were.

Shape suffixes: B batch, T history, K interests.
"""

from typing import Literal

import torch
from torch import Tensor, nn

NUM_GAPS = 32
"""Time gaps are told apart by their power of two in seconds; the last one begins at 68 years."""


class RecencyWeights(nn.Module):
    """A factor per (interest, age) that a behaviour is multiplied by in the routing, above zero.

    The factor is exp of a trained number that starts at zero, so an untrained model weighs all behaviours
    alike.

    Args:
        kind: "slot": the age is the number of behaviours since; "gap": it is floor(log2(1 + seconds)) between
            the behaviour and the user's latest one, which is known when serving.
        num_interests: K.
        history_length: the longest history.
    """

    def __init__(self, kind: Literal["slot", "gap"], num_interests: int, history_length: int) -> None:
        super().__init__()
        self.kind = kind
        ages = history_length if kind == "slot" else NUM_GAPS
        self.log_weight_AK = nn.Parameter(torch.zeros(ages, num_interests))

    def forward(self, length: int, at_BT: Tensor | None = None) -> Tensor:
        """Return the factors, (1, K, T) for slots and (B, K, T) for gaps.

        Args:
            length: T.
            at_BT: times of the behaviours in seconds, int64, the latest in column T - 1, 0 where padded;
                read for gaps only.
        """
        if self.kind == "slot":
            return self.log_weight_AK[:length].flip(0).T.exp()[None]
        assert at_BT is not None, "gaps need the times of the behaviours"
        return self.log_weight_AK.exp()[age_of_gaps(at_BT)].transpose(1, 2)


def age_of_gaps(at_BT: Tensor) -> Tensor:
    """Return floor(log2(1 + g)) of the gaps g in seconds to the last column, (B, T) int64, 0 where padded."""
    gap_BT = torch.where(at_BT > 0, at_BT[:, -1:] - at_BT, 0).clamp(min=0)
    powers = torch.ones(NUM_GAPS - 1, dtype=torch.int64, device=at_BT.device).cumsum(0)
    return torch.bucketize(gap_BT + 1, 1 << powers, right=True)
