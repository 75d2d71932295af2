"""Softmax losses over the catalogue, in full and from a sample.

Shape suffixes: B batch, V catalogue, N negatives, D vector.
"""

import torch
from torch import Tensor
from torch.nn import functional

from raysys.schema import NUM_RESERVED


def full_softmax(user_BD: Tensor, item_table_VD: Tensor, target_B: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of the targets among all real items, a float32 (or wider) scalar.

    Implements the loss of Li et al. 2019 (arXiv:1904.08030), sec. 3.5, without sampling: Pr(i|u) = exp(v_u .
    e_i) / sum_j exp(v_u . e_j), with scores divided by the temperature.

    Args:
        user_BD: user vectors.
        item_table_VD: vectors by item_idx; the rows of padding and unknown are left out.
        target_B: item_idx of the targets, int64, >= 2.
        temperature: above zero.
    """
    scores_BV = _wide(user_BD / temperature @ item_table_VD[NUM_RESERVED:].T)
    return functional.cross_entropy(scores_BV, target_B - NUM_RESERVED)


def sampled_softmax(
    user_BD: Tensor,
    target_vec_BD: Tensor,
    negative_vec_ND: Tensor,
    target_B: Tensor,
    negatives_N: Tensor,
    log_expected_N: Tensor,
    temperature: float,
) -> Tensor:
    """Return the mean importance-sampled softmax loss, a float32 (or wider) scalar.

    Implements Bengio & Senecal 2008, "Adaptive Importance Sampling to Accelerate Training of a Neural
    Probabilistic Language Model", with the candidate sampling of Jean et al. 2015 (arXiv:1412.2007), sec. 3:

        loss = -s_t + ln(exp(s_t) + sum over negatives j != t of exp(s_j - ln(N q_j)))

    Each negative stands for 1 / (N q_j) items, so the sum is an unbiased estimate of the sum over all items
    but the target, and the loss converges to `full_softmax` as N grows. The target is among the candidates
    with probability one, so its expected count is one and its correction ln 1 = 0. A negative equal to the
    target (an accidental hit) is left out, as the target is counted already. The correction is applied to the
    score after the division by the
    temperature: it belongs to the softmax, not to the similarity.

    Args:
        user_BD: user vectors.
        target_vec_BD: vectors of the targets.
        negative_vec_ND: vectors of the negatives, shared by the batch.
        target_B: item_idx of the targets, int64.
        negatives_N: item_idx of the negatives, int64; repetitions count each time.
        log_expected_N: ln(N q_j), float32.
        temperature: above zero.
    """
    user_BD = user_BD / temperature
    positive_B = _wide((user_BD * target_vec_BD).sum(1))
    scores_BN = _wide(user_BD @ negative_vec_ND.T) - log_expected_N
    # finite, not -inf: a row whose negatives are all accidental hits has gradient 0 and never inf - inf
    accidental_BN = target_B[:, None] == negatives_N
    others_B = scores_BN.masked_fill(accidental_BN, torch.finfo(scores_BN.dtype).min).logsumexp(1)
    return functional.softplus(others_B - positive_B, threshold=50.0).mean()


def _wide(scores: Tensor) -> Tensor:
    """Return scores in float32 where they are narrower: sums of thousands of exponentials need it."""
    return scores.float() if scores.dtype.itemsize < 4 else scores
