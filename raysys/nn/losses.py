"""The losses that models share: softmax in full, from a sample and within the batch, and pointwise and
pairwise ones.

Scores are inner products divided by the temperature; corrections for sampling come after the division. Where
a user has several vectors, (B, K, D) in place of (B, D), the largest score answers for each candidate, the
negatives included, as it does when serving (`raysys.nn.scores`).

Every loss takes `weight_B`, the weights of the rows, (B,); None weighs them by 1 / B, which gives the mean.
Those with candidates of their own take `row_B` as well, where several targets share a user: (B,) int64, the
row of `user` of each target. The candidates are then scored once for a user, not once for a target.
The softmax losses take `hardness`: see `_softmax_losses`.

Shape suffixes: B batch of one rank, C batch of all ranks, V catalogue, N negatives, D vector.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from raysys.nn.gather import gather_rows
from raysys.nn.loss_inputs import AMONG_TARGETS, LossName
from raysys.nn.scores import scores_of_items, scores_of_targets
from raysys.schema import NUM_RESERVED


def training_loss(
    name: LossName,
    user: Tensor,
    target_vec_BD: Tensor,
    batch: Mapping[str, Tensor],
    temperature: float,
    *,
    target_B: Tensor | None = None,
    negative_vec_ND: Tensor | None = None,
    item_table_VD: Tensor | None = None,
    hardness: float = 0.0,
    weight_B: Tensor | None = None,
    row_B: Tensor | None = None,
) -> Tensor:
    """Return the mean loss of the given name over the rows of this rank; every model uses this function.

    Args:
        name: of the loss.
        user: (B, D) user vectors, one for each target, or (B, K, D); with `row_B` one for each user.
        target_vec_BD: vectors of the targets.
        batch: `target` (B,) and the arrays of `raysys.nn.loss_inputs.LossInputs`.
        temperature: above zero.
        target_B: item_idx of the targets where the rows are not those of the batch; not for losses whose
            candidates are the batch's targets.
        negative_vec_ND: vectors of `batch["negatives"]`, for the losses of `WITH_NEGATIVES`.
        item_table_VD: vectors by item_idx, for the full softmax.
        hardness: for the losses of `WITH_HARDNESS`; 0 for the others.
        weight_B: of the rows.
        row_B: which row of `user` each target belongs to; not for losses whose candidates are the batch's
            targets.
    """
    target_B = batch["target"] if target_B is None else target_B
    if name == "full_softmax":
        assert item_table_VD is not None, "the full softmax needs all items"
        return full_softmax(
            user, item_table_VD, target_B, temperature, hardness=hardness, weight_B=weight_B, row_B=row_B
        )
    assert row_B is None or name not in AMONG_TARGETS, f"{name} needs a user vector for each target"
    if name == "in_batch":
        expected = batch["target_log_expected"]
        return in_batch_softmax(
            user, target_vec_BD, target_B, expected, temperature, hardness=hardness, weight_B=weight_B
        )
    assert negative_vec_ND is not None, f"{name} needs negatives"
    vectors, items = (user, target_vec_BD, negative_vec_ND), (target_B, batch["negatives"])
    if name == "sampled_softmax":
        expected = batch["log_expected"]
        return sampled_softmax(
            *vectors, *items, expected, temperature, hardness=hardness, weight_B=weight_B, row_B=row_B
        )
    if name == "mixed":
        both = batch["target_log_expected"], batch["log_expected"]
        return mixed_softmax(*vectors, *items, *both, temperature, hardness=hardness, weight_B=weight_B)
    assert not hardness, f"{name} has no hardness"
    if name == "gbce":
        beta = batch["gbce_beta"]
        return gbce(*vectors, *items, beta, temperature, weight_B=weight_B, row_B=row_B)
    return bpr(*vectors, *items, temperature, weight_B=weight_B, row_B=row_B)


def full_softmax(
    user: Tensor,
    item_table_VD: Tensor,
    target_B: Tensor,
    temperature: float,
    *,
    hardness: float = 0.0,
    weight_B: Tensor | None = None,
    row_B: Tensor | None = None,
) -> Tensor:
    """Return the mean cross-entropy of the targets among all real items, a float32 (or wider) scalar.

    Implements the loss of Li et al. 2019 (arXiv:1904.08030), sec. 3.5, without sampling: Pr(i|u) = exp(v_u .
    e_i) / sum_j exp(v_u . e_j), with scores divided by the temperature.

    Args:
        user: (B, D) or (B, K, D) user vectors.
        item_table_VD: vectors by item_idx; the rows of padding and unknown are left out.
        target_B: item_idx of the targets, int64, >= 2.
        temperature: above zero.
    """
    scores_BV = _wide(_rows(scores_of_items(user / temperature, item_table_VD[NUM_RESERVED:]), row_B))
    place_B = target_B - NUM_RESERVED
    if not hardness:
        return _weighted(functional.cross_entropy(scores_BV, place_B, reduction="none"), weight_B)
    positive_B = scores_BV.gather(1, place_B[:, None]).squeeze(1)
    target_BV = torch.arange(scores_BV.shape[1], device=place_B.device) == place_B[:, None]
    return _weighted(_softmax_losses(positive_B, scores_BV, None, target_BV, hardness), weight_B)


def sampled_softmax(
    user: Tensor,
    target_vec_BD: Tensor,
    negative_vec_ND: Tensor,
    target_B: Tensor,
    negatives_N: Tensor,
    log_expected_N: Tensor,
    temperature: float,
    *,
    hardness: float = 0.0,
    weight_B: Tensor | None = None,
    row_B: Tensor | None = None,
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
        user: (B, D) or (B, K, D) user vectors.
        target_vec_BD: vectors of the targets.
        negative_vec_ND: vectors of the negatives, shared by the batch.
        target_B: item_idx of the targets, int64.
        negatives_N: item_idx of the negatives, int64; repetitions count each time.
        log_expected_N: ln(N q_j), float32.
        temperature: above zero.
    """
    user = user / temperature
    positive_B = _wide(scores_of_targets(_rows(user, row_B), target_vec_BD))
    scores_BN = _wide(_rows(scores_of_items(user, negative_vec_ND), row_B))
    accidental_BN = target_B[:, None] == negatives_N
    return _weighted(
        _softmax_losses(positive_B, scores_BN, log_expected_N, accidental_BN, hardness), weight_B
    )


def in_batch_softmax(
    user: Tensor,
    target_vec_BD: Tensor,
    target_B: Tensor,
    target_log_expected_B: Tensor,
    temperature: float,
    *,
    hardness: float = 0.0,
    weight_B: Tensor | None = None,
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
        user: (B, D) or (B, K, D) user vectors of this rank.
        target_vec_BD: vectors of the targets of this rank.
        target_B: item_idx of the targets of this rank, int64; the same number of rows on every rank.
        target_log_expected_B: ln(B q_t) with B the rows of all ranks, float32.
        temperature: above zero.
    Deviations:
        The paper corrects the positive as well and estimates q from a stream; here q comes from counts.
    """
    user = user / temperature
    positive_B = _wide(scores_of_targets(user, target_vec_BD))
    candidates = _in_batch(user, target_vec_BD, target_B, target_log_expected_B)
    return _weighted(_softmax_losses(positive_B, *candidates, hardness), weight_B)


def mixed_softmax(
    user: Tensor,
    target_vec_BD: Tensor,
    negative_vec_ND: Tensor,
    target_B: Tensor,
    negatives_N: Tensor,
    target_log_expected_B: Tensor,
    log_expected_N: Tensor,
    temperature: float,
    *,
    hardness: float = 0.0,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Return the mean softmax loss against in-batch and drawn negatives, a float32 (or wider) scalar.

    Implements Yang et al. 2020, "Mixed Negative Sampling for Learning Two-tower Neural Networks in
    Recommendations" (doi:10.1145/3366424.3386195), with the estimator of `sampled_softmax`:

        loss = -s_t + ln(exp(s_t) + sum over candidates c != t of exp(s_c - ln(B q_c + N p_c)))

    The candidates are the B targets of the global batch and N draws from p; an item is expected B q + N p
    times among both, whichever of the two it came from. Everything else is as in `in_batch_softmax`.

    Args:
        user: (B, D) or (B, K, D) user vectors of this rank.
        target_vec_BD: vectors of the targets of this rank.
        negative_vec_ND: vectors of the drawn negatives, the same on every rank.
        target_B: item_idx of the targets of this rank, int64; the same number of rows on every rank.
        negatives_N: item_idx of the drawn negatives, int64; repetitions count each time.
        target_log_expected_B: ln(B q_t + N p_t), float32.
        log_expected_N: ln(B q_j + N p_j), float32.
        temperature: above zero.
    """
    user = user / temperature
    positive_B = _wide(scores_of_targets(user, target_vec_BD))
    batch_BC, expected_C, batch_hits_BC = _in_batch(user, target_vec_BD, target_B, target_log_expected_B)
    drawn_BN = _wide(scores_of_items(user, negative_vec_ND))
    drawn_hits_BN = target_B[:, None] == negatives_N
    scores, expected = torch.cat([batch_BC, drawn_BN], 1), torch.cat([expected_C, log_expected_N])
    accidental = torch.cat([batch_hits_BC, drawn_hits_BN], 1)
    return _weighted(_softmax_losses(positive_B, scores, expected, accidental, hardness), weight_B)


def gbce(
    user: Tensor,
    target_vec_BD: Tensor,
    negative_vec_ND: Tensor,
    target_B: Tensor,
    negatives_N: Tensor,
    beta: Tensor | float,
    temperature: float,
    *,
    weight_B: Tensor | None = None,
    row_B: Tensor | None = None,
) -> Tensor:
    """Return the mean generalised binary cross-entropy, a float32 (or wider) scalar.

    Implements Petrov & Macdonald 2023, "gSASRec: Reducing Overconfidence in Sequential Recommendation Trained
    with Negative Sampling" (arXiv:2308.07192):

        loss = -(beta ln sigma(s_t) + sum over negatives j != t of ln(1 - sigma(s_j))) / (1 + count of j != t)

    `raysys.nn.loss_inputs.gbce_beta` gives beta. It presumes the uniform sampler; there is no correction for
    another one, which makes popular items score lower.

    Args:
        user: (B, D) or (B, K, D) user vectors.
        target_vec_BD: vectors of the targets.
        negative_vec_ND: vectors of the negatives, shared by the batch.
        target_B: item_idx of the targets, int64.
        negatives_N: item_idx of the negatives, int64; repetitions count each time.
        beta: power of the positive's probability, in [0, 1].
        temperature: above zero.
    Deviations:
        Negatives are shared by the batch; accidental hits are left out.
    """
    user = user / temperature
    positive_B = _wide(scores_of_targets(_rows(user, row_B), target_vec_BD))
    scores_BN = _wide(_rows(scores_of_items(user, negative_vec_ND), row_B))
    accidental_BN = target_B[:, None] == negatives_N
    # -ln sigma(s) = softplus(-s) and -ln(1 - sigma(s)) = softplus(s)
    negative_B = functional.softplus(scores_BN, threshold=50.0).masked_fill(accidental_BN, 0.0).sum(1)
    positive_B = beta * functional.softplus(-positive_B, threshold=50.0)
    return _weighted((positive_B + negative_B) / (1 + (~accidental_BN).sum(1)), weight_B)


def bpr(
    user: Tensor,
    target_vec_BD: Tensor,
    negative_vec_ND: Tensor,
    target_B: Tensor,
    negatives_N: Tensor,
    temperature: float,
    *,
    weight_B: Tensor | None = None,
    row_B: Tensor | None = None,
) -> Tensor:
    """Return the mean Bayesian personalised ranking loss, a float32 (or wider) scalar.

    Implements Rendle et al. 2009, "BPR: Bayesian Personalized Ranking from Implicit Feedback"
    (arXiv:1205.2618), sec. 4.1, for several negatives:

        loss = mean over negatives j != t of -ln sigma(s_t - s_j)

    A row whose negatives are all accidental hits has loss 0.

    Args:
        user: (B, D) or (B, K, D) user vectors.
        target_vec_BD: vectors of the targets.
        negative_vec_ND: vectors of the negatives, shared by the batch.
        target_B: item_idx of the targets, int64.
        negatives_N: item_idx of the negatives, int64; repetitions count each time.
        temperature: above zero.
    Deviations:
        Negatives are shared by the batch; regularisation is left to the optimiser's weight decay.
    """
    user = user / temperature
    positive_B = _wide(scores_of_targets(_rows(user, row_B), target_vec_BD))
    scores_BN = _wide(_rows(scores_of_items(user, negative_vec_ND), row_B))
    accidental_BN = target_B[:, None] == negatives_N
    pairs_BN = functional.softplus(scores_BN - positive_B[:, None], threshold=50.0)
    sums_B = pairs_BN.masked_fill(accidental_BN, 0.0).sum(1)
    return _weighted(sums_B / (~accidental_BN).sum(1).clamp(min=1), weight_B)


def _in_batch(
    user: Tensor, target_vec_BD: Tensor, target_B: Tensor, log_expected_B: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return scores (B, C) against the targets of all ranks, their ln of expected counts (C,), and where they
    are the row's own target (B, C)."""
    scores_BC = _wide(scores_of_items(user, gather_rows(target_vec_BD)))
    return scores_BC, gather_rows(log_expected_B), target_B[:, None] == gather_rows(target_B)


def _softmax_losses(
    positive_B: Tensor,
    scores_BN: Tensor,
    log_expected_N: Tensor | None,
    accidental_BN: Tensor,
    hardness: float,
) -> Tensor:
    """Return -s_t + ln(exp(s_t) + sum over j of h_j exp(s_j) / m_j) of every row, accidental hits left out.

    m_j is the expected count of candidate j (None: one). h_j is 1, or with a hardness b > 0 the weight of
    interest-aware hard negatives of Xie et al. 2023, "Rethinking Multi-Interest Learning for Candidate
    Matching in Recommender Systems" (arXiv:2302.14532): exp(b s_j) over its mean, here the mean over the
    catalogue that the candidates stand for, so that b changes which negatives weigh and not how many there
    seem to be. Where the score is the largest over interests, it is the interest nearest to a negative that
    calls it hard. The weights are constants to the gradient.
    """
    less_N = log_expected_N
    if hardness:
        with torch.no_grad():
            # finite, not -inf: a row whose negatives are all accidental hits has no inf - inf
            lowest = torch.finfo(scores_BN.dtype).min
            terms_BN = scores_BN if log_expected_N is None else scores_BN - log_expected_N
            stands_BN = (terms_BN - scores_BN).masked_fill(accidental_BN, lowest)
            lift_BN = hardness * scores_BN
            mean_B1 = (stands_BN + lift_BN).logsumexp(1, keepdim=True) - stands_BN.logsumexp(1, keepdim=True)
            less_N = mean_B1 - lift_BN if log_expected_N is None else log_expected_N + mean_B1 - lift_BN
    return _Softmax.apply(positive_B, scores_BN, less_N, accidental_BN)


class _Softmax(torch.autograd.Function):
    """-s_t + ln(exp(s_t) + sum over the other j of exp(s_j - c_j)), in half the passes over (B, N) that
    autograd takes: one array holds the exponentials, and the gradient is one product with it."""

    @staticmethod
    def forward(
        ctx: Any, positive_B: Tensor, scores_BN: Tensor, less_N: Tensor | None, left_out_BN: Tensor
    ) -> Tensor:  # type: ignore[override] # torch declares *args
        terms_BN = scores_BN.clone() if less_N is None else scores_BN - less_N
        terms_BN.masked_fill_(left_out_BN, -torch.inf)
        top_B = torch.maximum(terms_BN.amax(1), positive_B)  # finite, as the positive is
        terms_BN.sub_(top_B[:, None]).exp_()
        others_B, own_B = terms_BN.sum(1), (positive_B - top_B).exp()
        ctx.save_for_backward(terms_BN, others_B, own_B)
        # log1p, as the logarithm of one and a little would round the little away
        return torch.log1p(others_B + (own_B - 1.0)) + (top_B - positive_B)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_B: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override] # likewise
        terms_BN, others_B, own_B = ctx.saved_tensors
        share_B = grad_B / (others_B + own_B)
        return -share_B * others_B, terms_BN * share_B[:, None], None, None


def _rows(values: Tensor, row_B: Tensor | None) -> Tensor:
    # the gradient of index_select adds up rows; that of indexing by a tensor sorts them first
    return values if row_B is None else values.index_select(0, row_B)


def _weighted(losses_B: Tensor, weight_B: Tensor | None) -> Tensor:
    return losses_B.mean() if weight_B is None else (losses_B * weight_B).sum()


def _wide(scores: Tensor) -> Tensor:
    """Return scores in float32 where they are narrower: sums of thousands of exponentials need it."""
    return scores.float() if scores.dtype.itemsize < 4 else scores
