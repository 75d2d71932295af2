"""MIND: several interest vectors per user, by dynamic routing over the behaviours.

Li et al. 2019, "Multi-Interest Network with Dynamic Routing for Recommendation at Tmall" (arXiv:1904.08030):

    e_i = mean of the embeddings of item i                                          sec. 3.2
    u_1..u_K' = routing(e_1..e_n), K' = max(1, min(K, log2 n))                       sec. 3.3, algorithm 1
    v_j = layers([u_j, profile])                                                    sec. 3.3
    v_u = V_u softmax(pow(V_u^T e_target, p))                  training only         sec. 3.4
    Pr(i|u) = exp(v_u . e_i) / sum over items exp(v_u . e)     training only         sec. 3.5
    score(u, i) = max over j of v_j . e_i                      serving               sec. 3.1

Deviations: the layers end in a linear one, as a ReLU at the end would keep every user vector non-negative; K'
is rounded down; the starting logits are fixed per position (`nn.capsule`); negative scores count as zero
under a finite p (`nn.attention`); the sampled softmax corrects for the sampler (`nn.losses`), and other
losses can take its place.

Beyond the paper, each an option of `MindConfig` that is off unless the run file or the preset sets it:
weights by recency, residual layers, the latest items beside each interest, the loss on the score that is
served, several targets, hard negatives, a penalty on uneven routing, a start from behaviours that lie far
apart, learnt quotas.

Shape suffixes: B batch, T history, K interests, V catalogue, D vector, N negatives.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysys.catalog import Catalog
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.models.contract import Batch
from raysys.models.mind_config import MindConfig
from raysys.nn.attention import label_aware_attention
from raysys.nn.capsule import BehaviourToInterestRouting
from raysys.nn.embedding import ItemEncoder, ProfileEncoder, unit_length
from raysys.nn.lookup import look_up
from raysys.nn.loss_inputs import WITH_NEGATIVES, LossName, check_loss
from raysys.nn.losses import training_loss
from raysys.nn.mlp import Mlp
from raysys.nn.quota import InterestGates
from raysys.nn.recency import RecencyWeights
from raysys.nn.scored_items import real_targets, scored_items
from raysys.nn.scores import fill_inactive
from raysys.schema import PADDING_IDX


class Mind(nn.Module):
    """MIND over a catalog; satisfies `GradientModel`, `VectorModel` and `InterestModel`.

    Args:
        config: the model's fields.
        catalog: sizes, side features of items, names of profile features.
        loss: what `forward` returns; decides which arrays of `raysys.nn.loss_inputs.LossInputs` the batch
            needs.
        seed: of the start; the same seed gives the same model whatever else drew random numbers.
    Raises:
        ConfigError: an unknown loss, or a feature name that the catalog does not have.
    """

    def __init__(
        self, config: MindConfig, catalog: Catalog, loss: LossName = "sampled_softmax", seed: int = 0
    ) -> None:
        super().__init__()
        check_loss(loss)
        dim = config.embedding_dim
        self.config = config
        self.loss: LossName = loss
        self.items = ItemEncoder(catalog, dim, item_features=config.item_features, seed=seed)
        self.profile = ProfileEncoder(catalog, dim, profile_features=config.profile_features, seed=seed)
        self.routing = BehaviourToInterestRouting(
            dim,
            dim,
            num_interests=config.num_interests,
            history_length=config.history_length,
            iterations=config.routing_iterations,
            sigma=config.routing_sigma,
            adaptive=config.adaptive_interests,
            gradient=config.routing_gradient,
            start=config.routing_start,
            squash_last=config.squash_last,
            map_start=config.map_start,
            seed=seed,
        )
        self.recency = None
        if config.recency != "none":
            self.recency = RecencyWeights(config.recency, config.num_interests, config.history_length)
        self.gates = InterestGates(dim) if config.learnt_quota else None
        joined = dim * (1 + config.latest_items) + self.profile.dim
        self.layers = Mlp(joined, config.hidden_dims, dim, dropout=config.dropout, seed=seed)

    @staticmethod
    def samples(config: MindConfig, session: SessionConfig) -> SampleShape:
        """Return the shape of the samples that `forward` and `encode_users` take."""
        return SampleShape(
            history_length=config.history_length,
            most_frequent_of=config.most_frequent_of,
            next_items=config.next_items,
            times=config.recency == "gap",
            profile_features=config.profile_features,
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return {"loss": scalar}, and the mean of each penalty that is on, before its weight."""
        history_BT, length_B = self._recent(batch["history"]), None
        if self.training and self.config.history_dropout:
            length_B = (history_BT != PADDING_IDX).sum(1)
            dropped_BT = torch.rand(history_BT.shape, device=history_BT.device) < self.config.history_dropout
            history_BT = history_BT.masked_fill(dropped_BT, PADDING_IDX)
        target_R, row_R, weight_R = real_targets(batch["target"])
        negatives_N = batch["negatives"] if self.loss in WITH_NEGATIVES else target_R[:0]
        table_VD, served_VD, target_RD, negative_ND = scored_items(
            self.items, self._scale, self.loss, target_R, negatives_N, history_BT.numel()
        )
        interests_BKD, active_BK, penalties = self._users(history_BT, batch, table_VD, length_B)
        if self.config.train_score == "served":
            user = fill_inactive(interests_BKD, active_BK)
        else:
            interests, active = interests_BKD, active_BK
            if row_R is not None:  # attention asks for the target, so each has a user vector of its own
                interests, active, row_R = interests_BKD.index_select(0, row_R), active_BK[row_R], None
            user, _ = label_aware_attention(interests, target_RD, active, self.config.label_power)
        loss = training_loss(
            self.loss,
            user,
            target_RD,
            batch,
            self.config.temperature,
            target_B=target_R,
            negative_vec_ND=negative_ND,
            item_table_VD=served_VD,
            hardness=self.config.hard_negatives,
            weight_B=weight_R,
            row_B=row_R,
        )
        for name, penalty in penalties.items():
            loss = loss + getattr(self.config, name) * penalty
        return {"loss": loss, **penalties}

    def encode_items(self, item_idx: Tensor) -> Tensor:
        """Return the item vectors (B, D) that the index holds; zero for padding."""
        return self._scale(self.items(item_idx))

    def encode_users(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the interest vectors (B, K, D), zero where inactive, and active (B, K) bool.

        A user without history has one interest, made from the profile alone.
        """
        interests_BKD, active_BK, _ = self._users(self._recent(batch["history"]), batch)
        return interests_BKD, active_BK

    def couplings(self, batch: Batch) -> Tensor:
        """Return the routing weights of the last round, (B, T, K).

        Rows sum to one over the active interests; they are zero on padding and on items older than
        `history_length`.
        """
        history_BT = self._recent(batch["history"])
        _, active_BK, weights_BTK = self._route(history_BT, batch)
        if self.gates is not None:  # what closed interests would have got goes to the open ones
            _, active_BK, _ = self._users(history_BT, batch)
            weights_BTK = weights_BTK * active_BK[:, None, :]
            weights_BTK = weights_BTK / weights_BTK.sum(2, keepdim=True).clamp(min=1e-12)
        older = batch["history"].shape[1] - history_BT.shape[1]
        return functional.pad(weights_BTK, (0, 0, older, 0))

    def _recent(self, history_BT: Tensor) -> Tensor:
        longest = self.config.history_length
        # a slice that changes nothing would still bound the length of an exported program
        return history_BT[:, -longest:] if history_BT.shape[1] > longest else history_BT

    def _scale(self, vectors: Tensor) -> Tensor:
        return unit_length(vectors) if self.config.normalize else vectors

    def _route(
        self,
        history_BT: Tensor,
        batch: Batch,
        table_VD: Tensor | None = None,
        length_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what the routing returns; with the item table each item is mapped once, not at each slot."""
        if table_VD is None:
            mapped_BTD = self.routing.map(self.items(history_BT))
        else:
            mapped_BTD = look_up(history_BT, self.routing.map(table_VD))
        weight_BKT = None
        if self.recency is not None:
            length = history_BT.shape[1]
            at_BT = self._recent(batch["history_at"]) if self.recency.kind == "gap" else None
            weight_BKT = self.recency(length, at_BT)
        return self.routing.route(
            mapped_BTD, history_BT != PADDING_IDX, weight_BKT=weight_BKT, length_B=length_B
        )

    def _users(
        self,
        history_BT: Tensor,
        batch: Batch,
        table_VD: Tensor | None = None,
        length_B: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return interest vectors, active ones, and the penalties that are on, each under the name of its
        weight."""
        interests_BKD, active_BK, weights_BTK = self._route(history_BT, batch, table_VD, length_B)
        penalties: dict[str, Tensor] = {}
        if self.config.routing_regularisation:
            variance = _variance(weights_BTK, history_BT != PADDING_IDX)
            penalties["routing_regularisation"] = variance
        shared = [self.profile(batch)]
        latest = self.config.latest_items
        padded_BT = functional.pad(history_BT, (latest, 0), value=PADDING_IDX)  # for the shortest histories
        for i in range(1, latest + 1):
            latest_B = padded_BT[:, -i]
            latest_BD = self.items(latest_B) if table_VD is None else look_up(latest_B, table_VD)
            shared.append(latest_BD)
        vectors_BKD = self.layers(interests_BKD, torch.cat(shared, dim=1))
        vectors_BKD = self._scale(interests_BKD + vectors_BKD if self.config.residual else vectors_BKD)
        if self.gates is not None:
            factor_BK, open_BK, gate_BK = self.gates(interests_BKD)
            penalties["learnt_quota"] = (gate_BK * active_BK).sum(1).mean()
            vectors_BKD, active_BK = vectors_BKD * factor_BK[:, :, None], active_BK & open_BK
        return vectors_BKD.masked_fill(~active_BK[:, :, None], 0.0), active_BK, penalties


def _variance(weights_BTK: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the variance of each interest's routing weights over a user's behaviours, summed over interests
    and averaged over users.

    Implements the routing regularisation of Xie et al. 2023 (arXiv:2302.14532), the diagonal of their
    covariance of the routing matrix.

    Deviations:
        They take the Frobenius norm of the diagonal; the sum does not depend on the other users in a batch.
    """
    count_B11 = mask_BT.sum(1).clamp(min=1)[:, None, None]
    mean_B1K = weights_BTK.sum(1, keepdim=True) / count_B11  # zero on padding
    spread_BTK = (weights_BTK - mean_B1K).masked_fill(~mask_BT[:, :, None], 0.0)
    return (spread_BTK.square() / count_B11).sum((1, 2)).mean()
