"""The score that is served: of several vectors of a user, the one that fits an item best answers.

Shape suffixes: B batch, K interests, N items, D vector.
"""

from typing import Any

import torch
from torch import Tensor


def scores_of_items(user: Tensor, item_ND: Tensor) -> Tensor:
    """Return the score of every item for every row, (B, N).

    Args:
        user: (B, D), one vector per row: the inner product; or (B, K, D): the largest over the K vectors,
            with the gradient through the first of the largest alone.
        item_ND: item vectors, shared by the rows.
    """
    if user.dim() == 2:
        return user @ item_ND.T
    largest: Tensor = _LargestScore.apply(user, item_ND)  # type: ignore[assignment]  # torch types it as Any
    return largest


def scores_of_targets(user: Tensor, target_BD: Tensor) -> Tensor:
    """Return the score of each row's own item, (B,); `user` as in `scores_of_items`."""
    if user.dim() == 2:
        return (user * target_BD).sum(1)
    return (user * target_BD[:, None, :]).sum(2).max(1).values


def fill_inactive(interests_BKD: Tensor, active_BK: Tensor) -> Tensor:
    """Return (B, K, D) with the first interest in place of the inactive ones, so that they change no maximum.

    Args:
        interests_BKD: interest vectors.
        active_BK: which count, bool; the first one always does.
    """
    return torch.where(active_BK[:, :, None], interests_BKD, interests_BKD[:, :1])


class _LargestScore(torch.autograd.Function):
    """max over k of u_k . e_j, without (B, K, N) numbers in memory: they are many, and the gradient needs
    only which k was the largest."""

    @staticmethod
    def forward(ctx: Any, user_BKD: Tensor, item_ND: Tensor) -> Tensor:  # type: ignore[override]  # torch's is *args
        best_BN = user_BKD[:, 0] @ item_ND.T
        # winners are floats: comparing into floats and multiplying takes a fraction of the time that masks of
        # bools take on a CPU
        winner_BN = torch.zeros(best_BN.shape, dtype=torch.float32, device=best_BN.device)
        beats_BN = torch.empty_like(winner_BN)
        for k in range(1, user_BKD.shape[1]):
            scores_BN = user_BKD[:, k] @ item_ND.T
            torch.gt(scores_BN, best_BN, out=beats_BN)
            torch.maximum(winner_BN, beats_BN.mul_(k), out=winner_BN)
            best_BN = torch.maximum(best_BN, scores_BN)
        ctx.save_for_backward(user_BKD, item_ND, winner_BN)
        return best_BN

    @staticmethod
    def backward(ctx: Any, grad_BN: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]  # as above
        user_BKD, item_ND, winner_BN = ctx.saved_tensors
        user_grad_BKD, item_grad_ND = torch.empty_like(user_BKD), torch.zeros_like(item_ND)
        # under autocast scores, users and items may differ in precision
        grad_BN, user_BKD = grad_BN.to(item_ND.dtype), user_BKD.to(item_ND.dtype)
        won_BN = torch.empty_like(grad_BN)
        for k in range(user_BKD.shape[1]):
            torch.eq(winner_BN, k, out=won_BN).mul_(grad_BN)
            user_grad_BKD[:, k] = won_BN @ item_ND
            item_grad_ND.addmm_(won_BN.T, user_BKD[:, k])
        return user_grad_BKD, item_grad_ND
