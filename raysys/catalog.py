"""Catalog: what a model may know of the world: sizes, item counts and item side features."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow.parquet as pq

from raysys.schema import NUM_RESERVED, Feature, Schema
from raysys.storage import Folder


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Sizes and item tables, read once and given to a model.

    Attributes:
        num_items: rows of an item table, with padding (0) and unknown (1).
        num_users: rows of a user table, with padding and unknown.
        item_counts: (num_items,) int64, training events per item; 0 for the reserved rows.
        item_features: the item features in order.
        item_values: per item feature name the aligned table: (num_items,) int32 for `id`, (num_items, L)
        int32 padded
            with 0 for `id_list`, (num_items,) float32 for `number`.
        user_features: the profile features in order; their values come with the batch, as `profile_<name>`.
        event_features: the features of events in order; their values come with the batch, as
        `history_<name>`.
    """

    num_items: int
    num_users: int
    item_counts: np.ndarray
    item_features: tuple[Feature, ...] = ()
    item_values: dict[str, np.ndarray] = field(default_factory=dict)
    user_features: tuple[Feature, ...] = ()
    event_features: tuple[Feature, ...] = ()

    @property
    def num_candidates(self) -> int:
        """The number of real items: what retrieval ranks."""
        return self.num_items - NUM_RESERVED


def load_catalog(features: Folder, schema: Schema, num_users: int) -> Catalog:
    """Return the catalog of a features folder (`items.parquet` holds one row per item_idx, reserved rows
    first)."""
    with features.open_input("items.parquet") as file:
        table = pq.read_table(file)
    values: dict[str, np.ndarray] = {}
    for feature in schema.of("item"):
        column = table.column(feature.name).combine_chunks()
        if feature.kind == "id_list":
            flat = column.flatten().to_numpy(zero_copy_only=False)
            values[feature.name] = flat.reshape(len(column), feature.length).astype(np.int32)
        else:
            dtype = np.float32 if feature.kind == "number" else np.int32
            values[feature.name] = column.to_numpy(zero_copy_only=False).astype(dtype)
    return Catalog(
        num_items=table.num_rows,
        num_users=num_users,
        item_counts=table.column("count").to_numpy().astype(np.int64),
        item_features=schema.of("item"),
        item_values=values,
        user_features=schema.of("user"),
        event_features=schema.of("event"),
    )
