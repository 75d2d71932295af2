"""Label-aware attention: which interests of a user answer for a target.

Shape suffixes: B batch, K interests, D vector.
"""

import math

import torch
from torch import Tensor

LARGEST_POWER = 1e4
"""Cap of s_max^p. Beyond it the softmax is one-hot, unless two scores differ by less than about 0.2 % / p;
the cap only softens such near ties, and keeps their gradients finite and of a useful size."""


def label_aware_attention(
    interests_BKD: Tensor, target_BD: Tensor, active_BK: Tensor, power: float
) -> tuple[Tensor, Tensor]:
    """Return the user vector that a target sees, and the weight of each interest in it.

    Implements the label-aware attention of Li et al. 2019, "Multi-Interest Network with Dynamic Routing"
    (arXiv:1904.08030), sec. 3.4: v_u = V_u softmax(pow(V_u^T e, p)).

    The power is taken of max(score, 0), in log space: with t = s_max^p, the softmax argument s_k^p - s_max^p
    is t expm1(p (ln s_k - ln s_max)), which cannot overflow.

    Args:
        interests_BKD: interest vectors.
        target_BD: vectors of the targets.
        active_BK: interests that take part, bool; at least one per row.
        power: p >= 0. 0 weighs active interests equally, inf takes the interest with the largest score (the
            first of equals), with the gradient through that interest alone.
    Returns:
        vectors (B, D) and weights (B, K), which sum to one and are zero where inactive.
    Deviations:
        The real power of a negative score is undefined, or loses its sign: negative scores count as zero. So
        do scores up to the machine epsilon, where for p < 1 the gradient has no bound. At p = inf raw scores
        are compared.
    """
    scores_BK = (interests_BKD @ target_BD[:, :, None]).squeeze(2)
    if power == math.inf:
        best_B1 = scores_BK.masked_fill(~active_BK, -torch.inf).argmax(1, keepdim=True)
        weights_BK = torch.zeros_like(scores_BK).scatter(1, best_B1, 1.0)
        chosen_B1D = best_B1[:, :, None].expand(-1, 1, interests_BKD.shape[2])
        return interests_BKD.gather(1, chosen_B1D).squeeze(1), weights_BK
    logits_BK = torch.zeros_like(scores_BK) if power == 0 else _power_logits(scores_BK, active_BK, power)
    weights_BK = logits_BK.masked_fill(~active_BK, -torch.inf).softmax(1).to(interests_BKD.dtype)
    return (weights_BK[:, None, :] @ interests_BKD).squeeze(1), weights_BK


def _power_logits(scores_BK: Tensor, active_BK: Tensor, power: float) -> Tensor:
    """Return max(s, 0)^p - max(s_max, 0)^p, in float32 or wider; the values at inactive interests mean
    nothing."""
    scores_BK = scores_BK.float() if scores_BK.dtype.itemsize < 4 else scores_BK
    positive_BK = active_BK & (scores_BK > torch.finfo(scores_BK.dtype).eps)
    # `where` before the logarithm and before expm1: the branch not taken must be finite too, or its gradient
    # is NaN
    log_BK = torch.where(positive_BK, scores_BK, 1.0).log()
    log_max_B1 = log_BK.masked_fill(~positive_BK, -torch.inf).amax(1, keepdim=True)
    log_max_B1 = torch.where(positive_BK.any(1, keepdim=True), log_max_B1, 0.0)
    top_B1 = (power * log_max_B1).clamp(max=math.log(LARGEST_POWER)).exp()
    difference_BK = torch.where(positive_BK, log_BK - log_max_B1, 0.0)
    return top_B1 * torch.where(positive_BK, (power * difference_BK).expm1(), -1.0)
