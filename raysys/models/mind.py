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

Shape suffixes: B batch, T history, K interests, V catalogue, D vector, N negatives.
"""

from typing import get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysys.catalog import Catalog
from raysys.config import require
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.models.contract import Batch
from raysys.models.mind_config import MindConfig
from raysys.nn.attention import label_aware_attention
from raysys.nn.capsule import BehaviourToInterestRouting
from raysys.nn.embedding import ItemEncoder, ProfileEncoder, unit_length
from raysys.nn.loss_inputs import WITH_NEGATIVES, LossName
from raysys.nn.losses import training_loss
from raysys.nn.mlp import Mlp
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
        losses = get_args(LossName)
        require(loss in losses, f"loss: found {loss!r}, expected one of {', '.join(losses)}")
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
            seed=seed,
        )
        self.layers = Mlp(dim + self.profile.dim, config.hidden_dims, dim, dropout=config.dropout, seed=seed)

    @staticmethod
    def samples(config: MindConfig, session: SessionConfig) -> SampleShape:
        """Return the shape of the samples that `forward` and `encode_users` take."""
        return SampleShape(history_length=config.history_length, profile_features=config.profile_features)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return {"loss": scalar}.

        Item vectors come from the encoded catalogue where it is no larger than the slots of the batch, or
        where the loss needs it anyway; otherwise each slot is encoded on its own. The numbers are the same.
        """
        history_BT, target_B = self._recent(batch["history"]), batch["target"]
        negatives_N = batch["negatives"] if self.loss in WITH_NEGATIVES else target_B[:0]
        slots = history_BT.numel() + target_B.numel() + negatives_N.numel()
        table_VD = None
        if self.loss == "full_softmax" or self.items.num_items <= slots:
            mapped_BTD, table_VD = self._from_catalogue(history_BT)
            target_BD, negative_ND = _rows(table_VD, target_B), _rows(table_VD, negatives_N)
        else:
            mapped_BTD = self.routing.map(self.items(history_BT))
            target_BD, negative_ND = self.encode_items(target_B), self.encode_items(negatives_N)
        interests_BKD, active_BK = self._users(mapped_BTD, history_BT, batch)
        user_BD, _ = label_aware_attention(interests_BKD, target_BD, active_BK, self.config.label_power)
        loss = training_loss(
            self.loss,
            user_BD,
            target_BD,
            batch,
            self.config.temperature,
            negative_vec_ND=negative_ND,
            item_table_VD=table_VD,
        )
        return {"loss": loss}

    def encode_items(self, item_idx: Tensor) -> Tensor:
        """Return the item vectors (B, D) that the index holds; zero for padding."""
        return self._scale(self.items(item_idx))

    def encode_users(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the interest vectors (B, K, D), zero where inactive, and active (B, K) bool.

        A user without history has one interest, made from the profile alone.
        """
        history_BT = self._recent(batch["history"])
        return self._users(self.routing.map(self.items(history_BT)), history_BT, batch)

    def couplings(self, batch: Batch) -> Tensor:
        """Return the routing weights of the last round, (B, T, K).

        Rows sum to one over the active interests; they are zero on padding and on items older than
        `history_length`.
        """
        history_BT = self._recent(batch["history"])
        _, _, weights_BTK = self.routing(self.items(history_BT), history_BT != PADDING_IDX)
        older = batch["history"].shape[1] - history_BT.shape[1]
        return functional.pad(weights_BTK, (0, 0, older, 0))

    def _recent(self, history_BT: Tensor) -> Tensor:
        longest = self.config.history_length
        # a slice that changes nothing would still bound the length of an exported program
        return history_BT[:, -longest:] if history_BT.shape[1] > longest else history_BT

    def _from_catalogue(self, history_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mapped behaviours and the item table; each item is encoded and mapped once."""
        table_VD = self.items.table()
        return _rows(self.routing.map(table_VD), history_BT), self._scale(table_VD)

    def _scale(self, vectors: Tensor) -> Tensor:
        return unit_length(vectors) if self.config.normalize else vectors

    def _users(self, mapped_BTD: Tensor, history_BT: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        interests_BKD, active_BK, _ = self.routing.route(mapped_BTD, history_BT != PADDING_IDX)
        profile_BKP = self.profile(batch)[:, None, :].expand(-1, interests_BKD.shape[1], -1)
        vectors_BKD = self._scale(self.layers(torch.cat([interests_BKD, profile_BKP], dim=2)))
        return vectors_BKD.masked_fill(~active_BK[:, :, None], 0.0), active_BK


def _rows(table_VD: Tensor, item_idx: Tensor) -> Tensor:
    # the backward of an embedding is faster than that of indexing
    return functional.embedding(item_idx, table_VD, padding_idx=PADDING_IDX)
