"""Embeddings of items (id and side features, mean-pooled) and of user profiles (concatenated).

Shape suffixes: B batch, V catalogue, D vector, P profile; `...` is any leading shape.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from raysys.catalog import Catalog
from raysys.config import require, suggest
from raysys.nn.lookup import look_up
from raysys.schema import ALL_FEATURES, PADDING_IDX, Feature
from raysys.seeds import derive_seed

KINDS = ("id", "id_list", "number")
"""Feature kinds that can be embedded."""


def select_features(known: Sequence[Feature], names: Sequence[str] | None, field: str) -> tuple[Feature, ...]:
    """Return the features called `names`, in the order of the catalog.

    Args:
        known: the features of the catalog.
        names: names to keep; None or ("*",) keeps all, () keeps none.
        field: the config field that holds the names, for messages.
    Raises:
        ConfigError: a name that the catalog does not have, or a kind that cannot be embedded.
    """
    chosen = tuple(known)
    if names is not None and tuple(names) != (ALL_FEATURES,):
        by_name = {feature.name: feature for feature in known}
        for name in names:
            require(name in by_name, f"{field}: no feature {name!r} in the catalog{suggest(name, by_name)}")
        chosen = tuple(feature for feature in known if feature.name in names)
    for feature in chosen:
        found = f"{field}: feature {feature.name!r} is of kind {feature.kind!r}"
        require(feature.kind in KINDS, f"{found}, expected one of {', '.join(KINDS)}")
    return chosen


def seeded_normal(shape: tuple[int, ...], std: float, seed: int, *labels: str | int) -> Tensor:
    """Return float32 draws from N(0, std^2) that depend on (seed, labels) alone, not on torch's global
    state."""
    generator = torch.Generator().manual_seed(derive_seed(seed, *labels))
    return torch.empty(shape).normal_(0.0, std, generator=generator)


def unit_length(vectors: Tensor) -> Tensor:
    """Return vectors (..., D) scaled to length one; a vector shorter than 1e-6 becomes zero, without
    gradient.

    So a zero vector (an inactive interest, an empty history) gives neither 0/0 nor a gradient of 1e12.
    """
    square = vectors.square().sum(-1, keepdim=True)
    usable = square > 1e-12
    return vectors * torch.where(usable, torch.where(usable, square, 1.0).rsqrt(), 0.0)


def embedding_table(feature: Feature, dim: int, std: float, seed: int) -> nn.Parameter:
    """Return a table (size, D) whose padding row is zero, or the one vector (D,) of a number."""
    shape = (dim,) if feature.kind == "number" else (feature.size, dim)
    values = seeded_normal(shape, std, seed, feature.entity, feature.name)
    if feature.kind != "number":
        values[PADDING_IDX] = 0.0
    return nn.Parameter(values)


def _mean_of_values(values: Tensor, table: Tensor) -> Tensor:
    """Return the mean embedding of the non-padding values on the last axis; zero where there are none."""
    total = look_up(values, table).sum(-2)
    count = (values != PADDING_IDX).sum(-1, keepdim=True).clamp(min=1)
    return total / count.to(total.dtype)


def _slot(name: str) -> str:
    return "feature_" + name.replace(".", "__")  # torch allows no dots in the names of parameters


def _add_item_tables(
    module: nn.Module,
    catalog: Catalog,
    features: Sequence[Feature],
    dim: int,
    std: float | None,
    seed: int,
) -> None:
    """Give a module the table of the items, `item`, that of every feature, and the items' values of these."""
    std = 1.0 / math.sqrt(dim) if std is None else std
    item = seeded_normal((catalog.num_items, dim), std, seed, "item_idx")
    item[PADDING_IDX] = 0.0
    module.register_parameter("item", nn.Parameter(item))
    for feature in features:
        module.register_parameter(_slot(feature.name), embedding_table(feature, dim, std, seed))
        values = np.array(catalog.item_values[feature.name])
        values[PADDING_IDX] = 0
        module.register_buffer("values_" + _slot(feature.name), torch.from_numpy(values), persistent=False)


class ItemEncoder(nn.Module):
    """Item vectors: the mean of the item's own embedding and the embeddings of its side features.

    Implements the embedding and pooling layer of Li et al. 2019, "Multi-Interest Network with Dynamic
    Routing" (arXiv:1904.08030), sec. 3.2. Per kind: `id` one embedding; `id_list` the mean over its values;
    `number` the value times a learnt vector, so numbers should come scaled to about one. A padding value (for
    `number`: NaN) adds nothing and is left out of the mean; the unknown value has a row of its own. The
    padding item is the zero vector and gets no gradient.

    Args:
        catalog: sizes and side features; its tables become buffers outside the state, as they belong to the
            data.
        embedding_dim: D.
        item_features: names to use; None or ("*",) is all of them.
        std: of the normal start; None is 1/sqrt(D), which gives embeddings of about length one.
        seed: of the start.
    Raises:
        ConfigError: unknown feature name, or a feature whose kind cannot be embedded.
    """

    item: nn.Parameter

    def __init__(
        self,
        catalog: Catalog,
        embedding_dim: int,
        *,
        item_features: Sequence[str] | None = None,
        std: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_items = catalog.num_items
        self.features = select_features(catalog.item_features, item_features, "item_features")
        _add_item_tables(self, catalog, self.features, embedding_dim, std, seed)

    def forward(self, item_idx: Tensor) -> Tensor:
        """(...) int64 -> (..., D); zero at padding."""
        own = look_up(item_idx, self.item)
        return self._pool(own, item_idx)

    def table(self) -> Tensor:
        """Return the vectors of the whole catalogue, (V, D), one row per item_idx."""
        return self._pool(self.item, None)

    def _pool(self, total: Tensor, item_idx: Tensor | None) -> Tensor:
        """Return the mean of `total` and the features of `item_idx` (None: of every item, without a
        gather)."""
        if not self.features:
            return total
        count = torch.ones(total.shape[:-1], dtype=total.dtype, device=total.device)
        for feature in self.features:
            parameter = getattr(self, _slot(feature.name))
            values = getattr(self, "values_" + _slot(feature.name))
            values = values if item_idx is None else values[item_idx]
            if feature.kind == "number":
                present = ~torch.isnan(values)
                total = total + torch.where(present, values, 0.0)[..., None] * parameter
            elif feature.kind == "id":
                present = values != PADDING_IDX
                total = total + look_up(values, parameter)
            else:
                present = (values != PADDING_IDX).any(-1)
                total = total + _mean_of_values(values, parameter)
            count = count + present.to(count.dtype)
        return total / count[..., None]


class ConcatItemEncoder(nn.Module):
    """Item vectors: the item's own embedding and those of its side features, concatenated and projected.

    Implements the embedding layer of Lv et al. 2019, "SDM: Sequential Deep Matching Model"
    (arXiv:1909.00385), sec. 3.2, with a linear map W [e_id; e_f1; e_f2; ...] back to D. Without features the
    item's own embedding is the vector. Kinds, padding and the unknown value are those of `ItemEncoder`; a
    missing feature gives zeros. W starts as the identity on the item's own part and small elsewhere, so that
    a start with features is near one without.

    Args:
        catalog, embedding_dim, item_features, std, seed: as of `ItemEncoder`; all features have D numbers.
    Raises:
        ConfigError: unknown feature name, or a feature whose kind cannot be embedded.
    """

    item: nn.Parameter

    def __init__(
        self,
        catalog: Catalog,
        embedding_dim: int,
        *,
        item_features: Sequence[str] | None = None,
        std: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.num_items = catalog.num_items
        self.features = select_features(catalog.item_features, item_features, "item_features")
        _add_item_tables(self, catalog, self.features, embedding_dim, std, seed)
        self.projection = None
        if self.features:
            shape = (embedding_dim, (1 + len(self.features)) * embedding_dim)
            start = seeded_normal(shape, 0.5 / math.sqrt(shape[1]), seed, "item_projection")
            start[:, :embedding_dim] += torch.eye(embedding_dim)
            self.projection = nn.Parameter(start)

    def forward(self, item_idx: Tensor) -> Tensor:
        """(...) int64 -> (..., D); zero at padding."""
        return self._project(look_up(item_idx, self.item), item_idx)

    def table(self) -> Tensor:
        """Return the vectors of the whole catalogue, (V, D), one row per item_idx."""
        return self._project(self.item, None)

    def of_feature(self, name: str) -> Tensor:
        """Return the table of a categorical feature, (size, D)."""
        return getattr(self, _slot(name))

    def _project(self, own: Tensor, item_idx: Tensor | None) -> Tensor:
        if self.projection is None:
            return own
        # W [e; f; ...] = W_e e + W_f f + ...: a feature's few rows are mapped once, not at every slot.
        first, *others = self.projection.split(own.shape[-1], dim=1)
        total = nn.functional.linear(own, first)
        for feature, part in zip(self.features, others, strict=True):
            mapped = nn.functional.linear(getattr(self, _slot(feature.name)), part)
            values = getattr(self, "values_" + _slot(feature.name))
            values = values if item_idx is None else values[item_idx]
            if feature.kind == "number":
                # the padding item's value is 0, so its part is zero like the others
                total = total + torch.nan_to_num(values)[..., None] * mapped
            elif feature.kind == "id":
                total = total + look_up(values, mapped)
            else:
                total = total + _mean_of_values(values, mapped)
        return total


class ProfileEncoder(nn.Module):
    """A user's profile: the embeddings of the user features, concatenated.

    Implements the profile part of the embedding layer of Li et al. 2019 (arXiv:1904.08030), sec. 3.2. Per
    kind: `id` one embedding; `id_list` the mean over its non-padding values; `number` the value itself.
        Padding gives zeros.

    Args:
        catalog: the user features; their values come with the batch as `profile_<name>`.
        feature_dim: length of the embedding of each feature.
        profile_features: names to use; None or ("*",) is all of them.
        std: of the normal start; None is 1/sqrt(feature_dim).
        seed: of the start.
    Attributes:
        dim: P, the length of the result; 0 without features.
    Raises:
        ConfigError: unknown feature name, or a feature whose kind cannot be embedded.
    """

    _empty: Tensor

    def __init__(
        self,
        catalog: Catalog,
        feature_dim: int,
        *,
        profile_features: Sequence[str] | None = None,
        std: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        std = 1.0 / math.sqrt(feature_dim) if std is None else std
        self.features = select_features(catalog.user_features, profile_features, "profile_features")
        self.dim = sum(1 if feature.kind == "number" else feature_dim for feature in self.features)
        self.register_buffer("_empty", torch.zeros(0), persistent=False)  # knows the device and the dtype
        for feature in self.features:
            if feature.kind != "number":
                self.register_parameter(_slot(feature.name), embedding_table(feature, feature_dim, std, seed))

    def forward(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return (B, P); B is that of `history`, or of `short` where the batch has no history."""
        rows = batch["history" if "history" in batch else "short"].shape[0]
        parts = [self._empty.expand(rows, 0)]
        for feature in self.features:
            values = batch[f"profile_{feature.name}"]
            if feature.kind == "number":
                parts.append(values[:, None].to(self._empty.dtype))
            elif feature.kind == "id":
                table = getattr(self, _slot(feature.name))
                parts.append(look_up(values, table))
            else:
                parts.append(_mean_of_values(values, getattr(self, _slot(feature.name))))
        return torch.cat(parts, dim=1)
