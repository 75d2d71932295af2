"""Behaviour-to-interest dynamic routing: the capsule layer of MIND.

Shape suffixes: B batch, T history, K interests, D vector (of interests), L vector (of behaviours).
"""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysys.config import require
from raysys.nn.embedding import seeded_normal


def squash(vectors: Tensor) -> Tensor:
    """Return vectors (..., D) of the same direction and length |z|^2 / (1 + |z|^2), so below one.

    Implements eq. 1 of Sabour et al. 2017, "Dynamic Routing Between Capsules" (arXiv:1710.09829), which Li et
    al. 2019 (arXiv:1904.08030), sec. 3.3, take over. The zero vector stays zero and its gradient is zero (its
    limit), not NaN.
    """
    square = vectors.square().sum(-1, keepdim=True)
    if not (torch.is_grad_enabled() and vectors.requires_grad):  # in fewer passes
        return vectors * (square.sqrt() / (1.0 + square))
    zero = square == 0
    length = torch.where(zero, 1.0, square).sqrt()
    return vectors * torch.where(zero, 0.0, length / (1.0 + square))


def num_active_interests(length_B: Tensor, num_interests: int) -> Tensor:
    """Return K'_u = max(1, min(K, floor(log2 n))) for histories of n items, (B,) int64.

    Implements eq. 9 of Li et al. 2019 (arXiv:1904.08030). Powers of two are compared as integers, so that 8
    gives 3 on every machine.

    Args:
        length_B: number of items in each history, int64, >= 0.
        num_interests: K.
    Deviations:
        The paper does not round log2, nor say what an empty history gets: floor, and one interest.
    """
    exponents = torch.arange(1, min(num_interests, 62) + 1, device=length_B.device)
    return (length_B[:, None] >= (1 << exponents)).sum(1).clamp(min=1)


class BehaviourToInterestRouting(nn.Module):
    """Groups the behaviours of a user into at most K interest vectors.

    Implements algorithm 1 of Li et al. 2019, "Multi-Interest Network with Dynamic Routing"
    (arXiv:1904.08030), sec. 3.3. One map S is shared by all pairs of behaviour and interest. In every round:
    w_i = softmax over the interests of b_i; z_j = sum_i w_ij S e_i; u_j = squash(z_j); b_ij += u_j . S e_i.

    The logits b start from N(0, sigma^2), are not trained and belong to the state. They are drawn once per
    position counted back from the latest item, and every call starts from them anew; so the vectors of a user
    do not depend on the call, on the other users in the batch, or on the amount of padding.

    Args:
        low_dim: L, length of a behaviour vector.
        high_dim: D, length of an interest vector.
        num_interests: K.
        history_length: the longest history.
        iterations: routing rounds.
        sigma: standard deviation of the starting logits; above zero, as equal logits would keep all interests
            equal.
        adaptive: give a user K'_u interests (`num_active_interests`); otherwise K.
        gradient: "last" takes the weights of the last round as constants, so the rounds before it get no
            gradient; "all" differentiates through every round.
        start: "gaussian" is the paper's; "farthest_point" starts every interest from a behaviour of the user
            (`farthest_point_logits`); "position" gives the behaviour t places before the latest sigma for
            interest t mod K and 0 for the others, so that a large sigma deals the history out and K =
            history_length keeps each item apart.
        squash_last: squash in the last round too; without it the interests keep the length of their sum.
        map_start: S starts from normal draws of variance 1 / L, or as the identity, so that an interest
            begins near the behaviours that it is made of.
        seed: of S and of the starting logits.
    Raises:
        ConfigError: a count below one, or sigma not above zero.
    Deviations:
        The paper draws the starting logits anew for each sample; then a user's vectors would change from call
        to call. It does not say where the gradient stops; "last" is what its readers adopted.
    """

    def __init__(
        self,
        low_dim: int,
        high_dim: int,
        *,
        num_interests: int,
        history_length: int,
        iterations: int = 3,
        sigma: float = 1.0,
        adaptive: bool = True,
        gradient: Literal["last", "all"] = "last",
        start: Literal["gaussian", "farthest_point", "position"] = "gaussian",
        squash_last: bool = True,
        map_start: Literal["gaussian", "identity"] = "gaussian",
        seed: int = 0,
    ) -> None:
        super().__init__()
        require(num_interests >= 1, f"num_interests: found {num_interests}, expected >= 1")
        require(history_length >= 1, f"history_length: found {history_length}, expected >= 1")
        require(iterations >= 1, f"routing_iterations: found {iterations}, expected >= 1")
        require(sigma > 0 and math.isfinite(sigma), f"routing_sigma: found {sigma}, expected above 0, finite")
        self.num_interests, self.iterations = num_interests, iterations
        self.adaptive, self.gradient = adaptive, gradient
        self.start, self.sigma, self.squash_last = start, sigma, squash_last
        drawn_LD = seeded_normal((low_dim, high_dim), 1.0 / math.sqrt(low_dim), seed, "routing_map")
        self.map_LD = nn.Parameter(torch.eye(low_dim, high_dim) if map_start == "identity" else drawn_LD)
        self.start_TK: Tensor
        if start == "position":
            own_T = torch.arange(history_length) % num_interests
            logits = sigma * functional.one_hot(own_T, num_interests).float()
        else:
            logits = seeded_normal((history_length, num_interests), sigma, seed, "routing_logits")
        self.register_buffer("start_TK", logits)

    def forward(self, behaviour_BTL: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the interests, which of them are active, and the routing weights of the last round.

        Args:
            behaviour_BTL: behaviour vectors, the latest at column T - 1; columns past the mask are ignored.
            mask_BT: True at real positions, bool; a row without any gives zero vectors and one active
                interest.
        Returns:
            interests (B, K, D), lengths below 1, zero where inactive; active (B, K) bool; weights (B, T, K),
            which sum to one over the active interests at real positions and are zero elsewhere.
        """
        return self.route(self.map(behaviour_BTL), mask_BT)

    def map(self, vectors: Tensor) -> Tensor:
        """Return S e for vectors (..., L) -> (..., D); a whole item table can be mapped and gathered from."""
        return vectors @ self.map_LD

    def route(
        self,
        mapped_BTD: Tensor,
        mask_BT: Tensor,
        *,
        weight_BKT: Tensor | None = None,
        length_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As `forward`, for behaviours that are mapped already.

        Args:
            mapped_BTD: S e.
            mask_BT: as in `forward`.
            weight_BKT: factors, above zero, of what a behaviour adds to an interest in every round, such as
                for how long ago it was; None is one. They are no part of the weights that are returned.
            length_B: number of items that decides K'_u, int64; None counts the mask.
        """
        length = mapped_BTD.shape[1]
        assert length <= self.start_TK.shape[0], "the caller cuts a history to history_length"
        active_BK = self._active(mask_BT.sum(1) if length_B is None else length_B)
        # -inf once: agreement is added to it round after round and leaves it as it is
        logits_BKT = self._start(mapped_BTD, mask_BT).masked_fill(~active_BK[:, :, None], -torch.inf)
        mask_B1T = mask_BT[:, None, :].to(mapped_BTD.dtype)
        adds_BKT = mask_B1T if weight_BKT is None else weight_BKT * mask_B1T
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.gradient == "all"):
            for _ in range(self.iterations - 1):
                interests_BKD = squash((logits_BKT.softmax(1) * adds_BKT) @ mapped_BTD)
                logits_BKT = torch.baddbmm(logits_BKT, interests_BKD, mapped_BTD.transpose(1, 2))
            weights_BKT = logits_BKT.softmax(1)
        sum_BKD = (weights_BKT * adds_BKT) @ mapped_BTD
        weights_BTK = (weights_BKT * mask_B1T).transpose(1, 2)
        return squash(sum_BKD) if self.squash_last else sum_BKD, active_BK, weights_BTK

    def _start(self, mapped_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        """Return the starting logits, (B, K, T)."""
        batch, length, _ = mapped_BTD.shape
        if self.start == "farthest_point":
            return self.sigma * farthest_point_logits(mapped_BTD, mask_BT, self.num_interests)
        return self.start_TK[:length].flip(0).T.to(mapped_BTD.dtype).expand(batch, -1, -1)

    def _active(self, length_B: Tensor) -> Tensor:
        interests_K = torch.arange(self.num_interests, device=length_B.device)
        if not self.adaptive:
            return torch.ones_like(interests_K, dtype=torch.bool).expand(length_B.shape[0], -1)
        return interests_K < num_active_interests(length_B, self.num_interests)[:, None]


@torch.no_grad()
def farthest_point_logits(mapped_BTD: Tensor, mask_BT: Tensor, num_interests: int) -> Tensor:
    """Return the cosine of every behaviour with the K seeds of its user, (B, K, T), in [-1, 1].

    The seeds are behaviours: the first is the latest one, and each further one is that whose largest cosine
    with the seeds before it is the least, the oldest of equals. A cosine within rounding of 1 is 1: once
    every distinct item is a seed, all behaviours are equal. This is the start in the manner of k-means++ that
    Li et al. 2019 (arXiv:1904.08030) leave to future work, without its randomness: a function of the history
    alone.

    Args:
        mapped_BTD: behaviour vectors, the latest at column T - 1.
        mask_BT: True at real positions, bool; without any the result is zero.
        num_interests: K.
    """
    if mapped_BTD.shape[1] == 0:
        return mapped_BTD.new_zeros(mapped_BTD.shape[0], num_interests, 0)
    unit_BTD = functional.normalize(mapped_BTD, dim=2)
    places_T = torch.arange(1, mask_BT.shape[1] + 1, device=mask_BT.device)
    seed_B = (places_T * mask_BT).argmax(1)
    logits, nearest_BT = [], torch.full_like(unit_BTD[:, :, 0], -torch.inf)
    for _ in range(num_interests):
        chosen_B1D = seed_B[:, None, None].expand(-1, 1, unit_BTD.shape[2])
        cosine_BT = (unit_BTD.gather(1, chosen_B1D) @ unit_BTD.transpose(1, 2)).squeeze(1)
        logits.append(cosine_BT.masked_fill(~mask_BT, 0.0))
        same_BT = cosine_BT > 1.0 - math.sqrt(torch.finfo(cosine_BT.dtype).eps)
        nearest_BT = torch.maximum(nearest_BT, cosine_BT.masked_fill(same_BT, 1.0))
        seed_B = nearest_BT.masked_fill(~mask_BT, torch.inf).argmin(1)
    return torch.stack(logits, 1)
