"""Targets at every step of a session.

Shape suffixes: B batch, S session, R targets of the batch, n labels of a step.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from raysys.nn.session import left_aligned
from raysys.schema import NUM_RESERVED, PADDING_IDX


class Steps(NamedTuple):
    """Steps with targets: which are used (B, S), X of them; the targets (R,), for each its row among the X,
    and its weight."""

    used: Tensor
    targets: Tensor
    rows: Tensor
    weights: Tensor


def targets_of_steps(short_BS: Tensor, target: Tensor) -> Tensor:
    """Return the next n items of every step of the left-aligned session, (B, S, n), 0 where there are none.

    Those of the last step are the targets of the batch, those of an earlier one begin within the session. A
    user without a session has those of the batch at the first step.

    Args:
        short_BS: items of the session, 0 where padded.
        target: (B,), or (B, n) padded with 0.
    """
    items_BS, mask_BS, _ = left_aligned(short_BS)
    target_Bn = target[:, None] if target.dim() == 1 else target
    rows, columns = items_BS.shape
    wanted = target_Bn.shape[1]
    length_B1 = mask_BS.sum(1, keepdim=True).clamp(min=1)
    joined = torch.zeros(rows, columns + wanted, dtype=torch.int64, device=target.device)
    joined[:, :columns] = items_BS
    joined.scatter_(1, length_B1 + torch.arange(wanted, device=target.device), target_Bn)
    steps_BSn = joined.unfold(1, wanted, 1)[:, 1 : columns + 1]
    used_BS = torch.arange(columns, device=target.device) < length_B1
    return steps_BSn.masked_fill(~used_BS[:, :, None], PADDING_IDX)


def steps_with_targets(target_BSn: Tensor) -> Steps:
    """Return the targets of all steps; a row of the batch weighs 1 / B, in equal parts over its targets.

    An unknown item is part of a session and no target.
    """
    real = target_BSn >= NUM_RESERVED
    used_BS = real.any(2)
    number_BS = used_BS.reshape(-1).cumsum(0).reshape(used_BS.shape) - 1
    row_R, step_R, _ = real.nonzero(as_tuple=True)
    weight_R = 1.0 / (real.sum((1, 2))[row_R] * len(target_BSn))
    return Steps(used_BS, target_BSn[real], number_BS[row_R, step_R], weight_R)
