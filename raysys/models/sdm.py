"""SDM: one vector per user, from the session by LSTM and attention, and the long term by attention over sets.

Lv et al. 2019, "SDM: Sequential Deep Matching Model for Online Large-scale Recommender System"
(arXiv:1909.00385):

    e_i = W [e_id; e_f1; ...]                                                         sec. 3.2
    h_1..h_t = LSTM(e_1..e_t); x_1..x_t = W_O heads(softmax(Q^T K) V)                  sec. 3.3
    s = sum_k softmax_k(x_k . e_u) x_k                                                sec. 3.3
    z_f = sum_k softmax_k(g_k . e_u) g_k over the set of feature f                     sec. 3.4
    p = tanh(W_p [z_f1; z_f2; ...] + b_p)                                             sec. 3.4
    G = sigmoid(W_1 e_u + W_2 s + W_3 p + b), o = (1 - G) * p + G * s                  sec. 3.5
    score(u, i) = o . e_i

e_u is a linear map of the concatenated profile features with a bias, one learnt vector without any. The set
of items holds e_i, that of a feature its embeddings, which item vectors share.

Deviations: item vectors are those of the input, not a second table; an empty session gives s = 0 and an empty
set z_f = 0, where a softmax over nothing would be NaN. The options beyond the paper are off unless the run
file or the preset sets them.

Shape suffixes: B batch, S session, L set, T either, V catalogue, D vector, R targets of the batch.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from raysys.catalog import Catalog
from raysys.config import require, suggest
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import EVENT, ITEM, SampleShape
from raysys.models.contract import Batch
from raysys.models.sdm_config import SdmConfig
from raysys.nn.embedding import ConcatItemEncoder, ProfileEncoder, embedding_table, unit_length
from raysys.nn.lookup import look_up
from raysys.nn.loss_inputs import WITH_NEGATIVES, LossName, check_loss
from raysys.nn.losses import training_loss
from raysys.nn.mlp import Mlp
from raysys.nn.scored_items import real_targets, scored_items
from raysys.nn.self_attention import attend, attend_to_prefixes
from raysys.nn.session import Session, SessionEncoder, left_aligned
from raysys.nn.steps import Steps, steps_with_targets, targets_of_steps
from raysys.schema import PADDING_IDX, Feature


class Sdm(nn.Module):
    """SDM over a catalog; satisfies `GradientModel`, `VectorModel` and `FusionModel`.

    Args:
        config: the model's fields.
        catalog: sizes, side features of items, names of profile and event features.
        loss: what `forward` returns; decides which arrays of `raysys.nn.loss_inputs.LossInputs` the batch
            needs.
        seed: of the start; the same seed gives the same model whatever else drew random numbers.
    Raises:
        ConfigError: an unknown loss, or a feature name that the catalog does not have.
    """

    def __init__(
        self, config: SdmConfig, catalog: Catalog, loss: LossName = "sampled_softmax", seed: int = 0
    ) -> None:
        super().__init__()
        check_loss(loss)
        dim = config.embedding_dim
        self.config = config
        self.loss: LossName = loss
        self.items = ConcatItemEncoder(catalog, dim, item_features=config.item_features, seed=seed)
        self.tables = nn.ParameterDict()
        self.has_short, self.has_long = config.fusion != "long", config.fusion != "short"
        self.query = self.learnt_query = None
        if config.user_attention or (self.has_short and self.has_long):
            self.profile = ProfileEncoder(catalog, dim, profile_features=config.profile_features, seed=seed)
            if self.profile.dim:
                self.query = Mlp(self.profile.dim, (), dim, seed=seed)
            else:
                self.learnt_query = nn.Parameter(torch.zeros(dim))
        if self.has_short:
            self._build_session(catalog, seed)
        if self.has_long:
            for name in config.long_features:
                self._add_table(name, _known_feature(catalog, name), seed)
            self.long = Mlp(dim * len(config.long_features), (), dim, seed=seed + 1)
            if ITEM in config.long_features:
                self._start_from_items()
        if config.fusion == "gate":
            self.gate = Mlp(3 * dim, (), dim, seed=seed + 2)
        elif config.fusion == "concat":
            self.joined = Mlp(3 * dim, (), dim, seed=seed + 2)
        self.set_query = Mlp(dim, (), dim, seed=seed + 4) if config.set_query == "session" else None
        self.latest = nn.Parameter(torch.ones(1)) if config.residual else None

    def _build_session(self, catalog: Catalog, seed: int) -> None:
        config, dim = self.config, self.config.embedding_dim
        for name in config.event_features:
            self._add_table(EVENT + name, _known_feature(catalog, EVENT + name), seed)
        self.joint = None
        if config.event_features:
            self.joint = Mlp(dim * (1 + len(config.event_features)), (), dim, seed=seed + 3)
        self.session = SessionEncoder(
            dim,
            num_layers=config.lstm_layers,
            num_residual=config.lstm_residual,
            num_heads=config.num_heads if config.self_attention else 0,
            scaled=config.scaled_attention,
            causal=config.train_positions == "every",
            residual=config.attention_residual,
            layer_norm=config.layer_norm,
            dropout=config.dropout,
            seed=seed,
        )

    def _start_from_items(self) -> None:
        """Let the long term start near the mean of its items: who bought something is near it at once."""
        place = self.config.embedding_dim * self.config.long_features.index(ITEM)
        weight = self.long.weights[0]
        with torch.no_grad():
            weight *= 0.5
            weight[:, place : place + len(weight)] += torch.eye(len(weight))

    def _add_table(self, name: str, feature: Feature | None, seed: int) -> None:
        """Make the table of a feature unless the item vectors have it."""
        shared = {known.name for known in self.items.features}
        if feature is not None and name not in shared and _slot(name) not in self.tables:
            dim = self.config.embedding_dim
            self.tables[_slot(name)] = embedding_table(feature, dim, dim**-0.5, seed)

    def _table(self, name: str) -> Tensor:
        return self.tables[_slot(name)] if _slot(name) in self.tables else self.items.of_feature(name)

    @staticmethod
    def samples(config: SdmConfig, session: SessionConfig) -> SampleShape:
        """Return the shape of the samples that `forward` and `encode_users` take."""
        return SampleShape(
            history_length=0,
            reach=config.history_length,
            next_items=config.next_items,
            profile_features=config.profile_features,
            event_features=config.event_features if config.fusion != "long" else (),
            session=session,
            long_features=config.long_features if config.fusion != "short" else (),
        )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Return {"loss": scalar}."""
        batch = self._with_dropped_items(batch)
        every = self.config.train_positions == "every"
        steps: Steps | None = None
        if every:
            steps = steps_with_targets(targets_of_steps(batch["short"], batch["target"]))
            target_R, row_R, weight_R = steps.targets, steps.rows, steps.weights
        else:
            target_R, row_R, weight_R = real_targets(batch["target"])
        negatives_N = batch["negatives"] if self.loss in WITH_NEGATIVES else target_R[:0]
        slots = sum(batch[name].numel() for name in ("short", "long_item") if name in batch)
        scored = scored_items(self.items, self._scale, self.loss, target_R, negatives_N, slots)
        users = self._users(batch, scored.encoded, every)
        loss = training_loss(
            self.loss,
            users if steps is None else users[steps.used],
            scored.targets,
            batch,
            self.config.temperature,
            target_B=target_R,
            negative_vec_ND=scored.negatives,
            item_table_VD=scored.served,
            hardness=self.config.hard_negatives,
            weight_B=weight_R,
            row_B=row_R,
        )
        return {"loss": loss}

    def encode_items(self, item_idx: Tensor) -> Tensor:
        """Return the item vectors (B, D) that the index holds; zero for padding."""
        return self._scale(self.items(item_idx))

    def encode_users(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the user vectors (B, 1, D) and active (B, 1) bool, which is True for everybody."""
        users_BD = self._users(batch)
        # len() would fix the number of users of an exported program
        return users_BD[:, None], users_BD.new_ones(users_BD.shape[0], 1, dtype=torch.bool)

    def fusion(self, batch: Batch) -> dict[str, Tensor]:
        """Return what drove the user vector: `short` (B, S) and `long_<name>` (B, L), the weights of what
        `batch` holds under these names, zero on padding, and `gate` (B,), the mean of the share of the
        session; each only where the model has it."""
        query_BD = self._query(batch)
        found: dict[str, Tensor] = {}
        short_BD = long_BD = None
        if self.has_short:
            session = self._session(batch)
            short_BD, weights_BS = self._short(session, query_BD)
            found["short"] = torch.zeros_like(weights_BS).scatter_add(
                1, session.places, weights_BS * session.mask
            )
        if self.has_long:
            asked_BD = self._query_of_sets(query_BD, short_BD)
            for name in self.config.long_features:
                found[f"long_{name}"] = self._set(name, batch, asked_BD)[1]
            long_BD = self._long(batch, asked_BD)
        if self.config.fusion == "gate":
            assert short_BD is not None
            assert long_BD is not None
            assert query_BD is not None
            found["gate"] = self._gate(query_BD, short_BD, long_BD).mean(1)
        return found

    def _scale(self, vectors: Tensor) -> Tensor:
        return unit_length(vectors) if self.config.normalize else vectors

    def _drop(self, vectors: Tensor) -> Tensor:
        return functional.dropout(vectors, self.config.dropout, self.training)

    def _with_dropped_items(self, batch: Batch) -> Batch:
        """Return the batch without some items of session and sets, in training; the latest item stays."""
        share = self.config.history_dropout
        if not self.training or not share:
            return batch
        kept = dict(batch)
        for name in ("short", *(f"long_{name}" for name in self.config.long_features if self.has_long)):
            dropped = torch.rand(batch[name].shape, device=batch[name].device) < share
            if name == "short":
                dropped[:, -1] = False
            kept[name] = batch[name].masked_fill(dropped, PADDING_IDX)
        return kept

    def _query(self, batch: Batch) -> Tensor | None:
        """Return e_u, (B, D); None where nothing asks for it."""
        if self.learnt_query is not None:
            return self.learnt_query.expand(batch["short"].shape[0], -1)
        return self.query(self.profile(batch)) if self.query is not None else None

    def _users(self, batch: Batch, table_VD: Tensor | None = None, every: bool = False) -> Tensor:
        """Return the user vectors, (B, D), or of every step of the left-aligned session, (B, S, D)."""
        query_BD = self._query(batch)
        short = long = latest = None
        if self.has_short:
            session = self._session(batch, table_VD)
            if every:
                short = self._short_of_steps(session, query_BD)
            else:
                short, _ = self._short(session, query_BD)
        if self.has_long:
            long = self._long(batch, self._query_of_sets(query_BD, short), table_VD)
        if self.latest is not None:
            items = left_aligned(batch["short"])[0] if every else batch["short"][:, -1]
            latest = self.latest * self._vectors(items, table_VD)
        user = self._fuse(query_BD, short, long, every)
        return self._scale(user if latest is None else user + latest)

    def _vectors(self, item_idx: Tensor, table_VD: Tensor | None) -> Tensor:
        return self.items(item_idx) if table_VD is None else look_up(item_idx, table_VD)

    def _session(self, batch: Batch, table_VD: Tensor | None = None) -> Session:
        items_BS, mask_BS, places_BS = left_aligned(batch["short"])
        x_BSD = self._vectors(items_BS, table_VD)
        if self.joint is not None:
            parts = [x_BSD]
            for name in self.config.event_features:
                values_BS = batch[f"short_{name}"].gather(1, places_BS).masked_fill(~mask_BS, PADDING_IDX)
                parts.append(look_up(values_BS, self._table(EVENT + name)))
            x_BSD = self.joint(torch.cat(parts, dim=2))
        return Session(self.session(x_BSD, mask_BS), mask_BS, items_BS, places_BS)

    def _short(self, session: Session, query_BD: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return s (B, D), zero for an empty session, and the weights of the steps (B, S)."""
        if self.config.user_attention:
            assert query_BD is not None
            return attend(query_BD, session.outputs, session.mask)
        length_B = session.mask.sum(1)
        place_S = torch.arange(session.mask.shape[1], device=length_B.device)
        last_BS = (place_S == length_B[:, None] - 1).to(session.outputs.dtype)
        return (last_BS[:, None, :] @ session.outputs).squeeze(1), last_BS

    def _short_of_steps(self, session: Session, query_BD: Tensor | None) -> Tensor:
        """Return s of every step, (B, S, D)."""
        if not self.config.user_attention:
            return session.outputs
        assert query_BD is not None
        return attend_to_prefixes(query_BD, session.outputs, session.mask)

    def _query_of_sets(self, query_BD: Tensor | None, short_BD: Tensor | None) -> Tensor | None:
        """Return what weighs the values of the sets, (B, D)."""
        if self.set_query is None or query_BD is None or short_BD is None:
            return query_BD
        return query_BD + self.set_query(short_BD)

    def _set(
        self, name: str, batch: Batch, query_BD: Tensor | None, table_VD: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return z_f of one set, (B, D), zero for an empty one, and the weights of its values, (B, L)."""
        values_BL = batch[f"long_{name}"]
        mask_BL = values_BL != PADDING_IDX
        if name == ITEM:
            vectors_BLD = self._vectors(values_BL, table_VD)
        else:
            vectors_BLD = look_up(values_BL, self._table(name))
        if self.config.user_attention:
            assert query_BD is not None
            return attend(query_BD, vectors_BLD, mask_BL)
        real_BL = mask_BL.to(vectors_BLD.dtype)
        weights_BL = real_BL / real_BL.sum(1, keepdim=True).clamp(min=1)
        return (weights_BL[:, None, :] @ vectors_BLD).squeeze(1), weights_BL

    def _long(self, batch: Batch, query_BD: Tensor | None, table_VD: Tensor | None = None) -> Tensor:
        """Return p, (B, D)."""
        sets = [self._set(name, batch, query_BD, table_VD)[0] for name in self.config.long_features]
        return torch.tanh(self.long(self._drop(torch.cat(sets, dim=1))))

    def _gate(self, query_BD: Tensor, short: Tensor, long_BD: Tensor) -> Tensor:
        """Return G, shaped like the short term: (B, D) or (B, S, D)."""
        shared_BD = torch.cat([query_BD, long_BD], dim=1)
        return torch.sigmoid(self.gate(short, shared_BD))

    def _fuse(
        self, query_BD: Tensor | None, short: Tensor | None, long: Tensor | None, every: bool
    ) -> Tensor:
        if short is None or long is None:
            only = long if short is None else short
            assert only is not None
            return only
        assert query_BD is not None
        if self.config.fusion == "concat":
            return self.joined(short, torch.cat([query_BD, long], dim=1))
        gate = self._gate(query_BD, short, long)
        wide = long[:, None] if every else long
        return (1 - gate) * wide + gate * short


def _known_feature(catalog: Catalog, name: str) -> Feature | None:
    """Return the feature of a set or of the session's events, None for "item"; ConfigError for no or an
    unsuitable one."""
    if name == ITEM:
        return None
    is_event = name.startswith(EVENT)
    features = catalog.event_features if is_event else catalog.item_features
    known = {(EVENT if is_event else "") + feature.name: feature for feature in features}
    field = "event_features" if is_event else "long_features"
    require(name in known, f"{field}: no feature {name!r} in the catalog{suggest(name, known)}")
    kind = known[name].kind
    require(
        kind in ("id", "id_list"),
        f"{field}: feature {name!r} is of kind {kind!r}, expected a categorical one",
    )
    return known[name]


def _slot(name: str) -> str:
    return name.replace(".", "__")  # torch allows no dots in the names of parameters
