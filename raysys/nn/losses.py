"""The losses that models share: softmax in full, from a sample and within the batch, and pointwise and
pairwise ones.

Scores are inner products divided by the temperature; corrections for sampling come after the division.

Shape suffixes: B batch of one rank, C batch of all ranks, V catalogue, N negatives, D vector.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

from raysys.nn.gather import gather_rows
from raysys.nn.loss_inputs import LossName
from raysys.schema import NUM_RESERVED


def training_loss(
    name: LossName,
    user_BD: Tensor,
    target_vec_BD: Tensor,
    batch: Mapping[str, Tensor],
    temperature: float,
    *,
    negative_vec_ND: Tensor | None = None,
    item_table_VD: Tensor | None = None,
) -> Tensor:
    """Return the mean loss of the given name over the rows of this rank; every model uses this function.

    Args:
        name: of the loss.
        user_BD: user vectors, one for each target.
        target_vec_BD: vectors of the targets.
        batch: `target` (B,) and the arrays of `raysys.nn.loss_inputs.LossInputs`.
        temperature: above zero.
        negative_vec_ND: vectors of `batch["negatives"]`, for the losses of `WITH_NEGATIVES`.
        item_table_VD: vectors by item_idx, for the full softmax.
    """
    target_B = batch["target"]
    if name == "full_softmax":
        assert item_table_VD is not None, "the full softmax needs all items"
        return full_softmax(user_BD, item_table_VD, target_B, temperature)
    if name == "in_batch":
        return in_batch_softmax(user_BD, target_vec_BD, target_B, batch["target_log_expected"], temperature)
    assert negative_vec_ND is not None, f"{name} needs negatives"
    vectors, items = (user_BD, target_vec_BD, negative_vec_ND), (target_B, batch["negatives"])
    if name == "sampled_softmax":
        return sampled_softmax(*vectors, *items, batch["log_expected"], temperature)
    if name == "mixed":
        expected = batch["target_log_expected"], batch["log_expected"]
        return mixed_softmax(*vectors, *items, *expected, temperature)
    if name == "gbce":
        return gbce(*vectors, *items, batch["gbce_beta"], temperature)
    return bpr(*vectors, *items, temperature)


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
    score after the division by the temperature: it belongs to the softmax, not to the similarity.

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
    return _softmax_loss(positive_B, scores_BN, target_B[:, None] == negatives_N)


def in_batch_softmax(
    user_BD: Tensor,
    target_vec_BD: Tensor,
    target_B: Tensor,
    target_log_expected_B: Tensor,
    temperature: float,
) -> Tensor:
    """Return the mean softmax loss against the targets of the global batch, a float32 (or wider) scalar.

    Implements Yi et al. 2019, "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations"
    (doi:10.1145/3298689.3346996), with the estimator of `sampled_softmax`:

        loss = -s_t + ln(exp(s_t) + sum over rows c of the global batch with t_c != t of exp(s_c - ln(B q_c)))

    The targets of a batch are draws from the training events, so item j is expected B q_j times among B rows
    with q_j its share of these events. Rows with the row's own target, be it the row itself or an accidental
    hit, are left out: the target is counted once, without correction, as in `sampled_softmax`. The row itself
    is no draw, so the sum estimates (B - 1) / B of the sum over all items but the target, and the loss
    converges to `full_softmax` as B grows. Items that are no training target are never candidates.

    The candidates are gathered over the ranks with their gradients (`gather_rows`): after the averaging of
    DDP, W ranks with B / W rows each have the gradients of one process with B rows.

    Args:
        user_BD: user vectors of this rank.
        target_vec_BD: vectors of the targets of this rank.
        target_B: item_idx of the targets of this rank, int64; the same number of rows on every rank.
        target_log_expected_B: ln(B q_t) with B the rows of all ranks, float32.
        temperature: above zero.
    Deviations:
        The paper corrects the positive as well and estimates q from a stream; here q comes from counts.
    """
    user_BD = user_BD / temperature
    positive_B = _wide((user_BD * target_vec_BD).sum(1))
    return _softmax_loss(positive_B, *_in_batch(user_BD, target_vec_BD, target_B, target_log_expected_B))


def mixed_softmax(
    user_BD: Tensor,
    target_vec_BD: Tensor,
    negative_vec_ND: Tensor,
    target_B: Tensor,
    negatives_N: Tensor,
    target_log_expected_B: Tensor,
    log_expected_N: Tensor,
    temperature: float,
) -> Tensor:
    """Return the mean softmax loss against in-batch and drawn negatives, a float32 (or wider) scalar.

    Implements Yang et al. 2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks in
    Recommendations" (doi:10.1145/3366424.3386195), with the estimator of `sampled_softmax`:

        loss = -s_t + ln(exp(s_t) + sum over candidates c != t of exp(s_c - ln(B q_c + N p_c)))

    The candidates are the B targets of the global batch and N draws from p; an item is expected B q + N p
    times among both, whichever of the two it came from. Everything else is as in `in_batch_softmax`.

    Args:
        user_BD: user vectors of this rank.
        target_vec_BD: vectors of the targets of this rank.
        negative_vec_ND: vectors of the drawn negatives, the same on every rank.
        target_B: item_idx of the targets of this rank, int64; the same number of rows on every rank.
        negatives_N: item_idx of the drawn negatives, int64; repetitions count each time.
        target_log_expected_B: ln(B q_t + N p_t), float32.
        log_expected_N: ln(B q_j + N p_j), float32.
        temperature: above zero.
    """
    user_BD = user_BD / temperature
    positive_B = _wide((user_BD * target_vec_BD).sum(1))
    batch_BC, batch_hits_BC = _in_batch(user_BD, target_vec_BD, target_B, target_log_expected_B)
    drawn_BN = _wide(user_BD @ negative_vec_ND.T) - log_expected_N
    drawn_hits_BN = target_B[:, None] == negatives_N
    return _softmax_loss(
        positive_B, torch.cat([batch_BC, drawn_BN], 1), torch.cat([batch_hits_BC, drawn_hits_BN], 1)
    )


def gbce(
    user_BD: Tensor,
    target_vec_BD: Tensor,
    negative_vec_ND: Tensor,
    target_B: Tensor,
    negatives_N: Tensor,
    beta: Tensor | float,
    temperature: float,
) -> Tensor:
    """Return the mean generalised binary cross-entropy, a float32 (or wider) scalar.

    Implements Petrov & Macdonald 2023, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained
    with Negative Sampling" (arXiv:2308.07192):

        loss = -(beta ln sigma(s_t) + sum over negatives j != t of ln(1 - sigma(s_j))) / (1 + count of j != t)

    `raysys.nn.loss_inputs.gbce_beta` gives beta. It presumes the uniform sampler; there is no correction for
    another one, which makes popular items score lower.

    Args:
        user_BD: user vectors.
        target_vec_BD: vectors of the targets.
        negative_vec_ND: vectors of the negatives, shared by the batch.
        target_B: item_idx of the targets, int64.
        negatives_N: item_idx of the negatives, int64; repetitions count each time.
        beta: power of the positive's probability, in [0, 1].
        temperature: above zero.
    Deviations:
        Negatives are shared by the batch; accidental hits are left out.
    """
    user_BD = user_BD / temperature
    positive_B = _wide((user_BD * target_vec_BD).sum(1))
    scores_BN = _wide(user_BD @ negative_vec_ND.T)
    accidental_BN = target_B[:, None] == negatives_N
    # -ln sigma(s) = softplus(-s) and -ln(1 - sigma(s)) = softplus(s)
    negative_B = functional.softplus(scores_BN, threshold=50.0).masked_fill(accidental_BN, 0.0).sum(1)
    positive_B = beta * functional.softplus(-positive_B, threshold=50.0)
    return ((positive_B + negative_B) / (1 + (~accidental_BN).sum(1))).mean()


def bpr(
    user_BD: Tensor,
    target_vec_BD: Tensor,
    negative_vec_ND: Tensor,
    target_B: Tensor,
    negatives_N: Tensor,
    temperature: float,
) -> Tensor:
    """Return the mean Bayesian personalised ranking loss, a float32 (or wider) scalar.

    Implements Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback"
    (arXiv:1205.2618), sec. 4.1, for several negatives:

        loss = mean over negatives j != t of -ln sigma(s_t - s_j)

    A row whose negatives are all accidental hits has loss 0.

    Args:
        user_BD: user vectors.
        target_vec_BD: vectors of the targets.
        negative_vec_ND: vectors of the negatives, shared by the batch.
        target_B: item_idx of the targets, int64.
        negatives_N: item_idx of the negatives, int64; repetitions count each time.
        temperature: above zero.
    Deviations:
        Negatives are shared by the batch; regularisation is left to the optimiser's weight decay.
    """
    user_BD = user_BD / temperature
    positive_B = _wide((user_BD * target_vec_BD).sum(1))
    scores_BN = _wide(user_BD @ negative_vec_ND.T)
    accidental_BN = target_B[:, None] == negatives_N
    pairs_BN = functional.softplus(scores_BN - positive_B[:, None], threshold=50.0)
    sums_B = pairs_BN.masked_fill(accidental_BN, 0.0).sum(1)
    return (sums_B / (~accidental_BN).sum(1).clamp(min=1)).mean()


def _in_batch(
    user_BD: Tensor, target_vec_BD: Tensor, target_B: Tensor, log_expected_B: Tensor
) -> tuple[Tensor, Tensor]:
    """Return corrected scores (B, C) against the targets of all ranks and where they are the row's target."""
    scores_BC = _wide(user_BD @ gather_rows(target_vec_BD).T) - gather_rows(log_expected_B)
    return scores_BC, target_B[:, None] == gather_rows(target_B)


def _softmax_loss(positive_B: Tensor, scores_BN: Tensor, accidental_BN: Tensor) -> Tensor:
    """Return the mean of -s_t + ln(exp(s_t) + sum of exp(s_j) without accidental hits)."""
    # finite, not -inf: a row whose negatives are all accidental hits has gradient 0 and never inf - inf
    others_B = scores_BN.masked_fill(accidental_BN, torch.finfo(scores_BN.dtype).min).logsumexp(1)
    return functional.softplus(others_B - positive_B, threshold=50.0).mean()


def _wide(scores: Tensor) -> Tensor:
    """Return scores in float32 where they are narrower: sums of thousands of exponentials need it."""
    return scores.float() if scores.dtype.itemsize < 4 else scores
