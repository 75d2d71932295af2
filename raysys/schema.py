"""Feature and Schema: what columns a set of features has, of which kind and size, saved in the manifest."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from raysys import config
from raysys.errors import SchemaError

PADDING_IDX = 0
UNKNOWN_IDX = 1
NUM_RESERVED = 2
ALL_FEATURES = "*"
"""Stands for every feature in a list of their names."""

Entity = Literal["event", "item", "user"]
Kind = Literal["id", "id_list", "number", "vector", "time"]


@dataclass(frozen=True, kw_only=True)
class Feature:
    """One named column.

    `length` is the number of values per row (the padded length of an `id_list`, the width of a `vector`, else
    1) and
    `size` the number of rows of an embedding table for it: the vocabulary with padding (0) and unknown (1); 0
    where the kind has no vocabulary.
    """

    name: str
    entity: Entity
    kind: Kind
    length: int = 1
    size: int = 0


@dataclass(frozen=True, kw_only=True)
class Schema:
    """An ordered set of features with distinct names per entity."""

    features: tuple[Feature, ...] = ()

    def __post_init__(self) -> None:
        names = [(feature.entity, feature.name) for feature in self.features]
        if len(set(names)) != len(names):
            raise SchemaError(f"features named twice in {sorted(names)}; names must differ within an entity")

    def __iter__(self) -> Iterator[Feature]:
        return iter(self.features)

    def of(self, entity: Entity) -> tuple[Feature, ...]:
        """Return the features of one entity, in order."""
        return tuple(feature for feature in self.features if feature.entity == entity)

    def get(self, entity: Entity, name: str) -> Feature:
        """Return one feature; SchemaError names the known ones where it does not exist."""
        known = {feature.name: feature for feature in self.of(entity)}
        if name not in known:
            raise SchemaError(f"{entity} feature {name}: not in the features{config.suggest(name, known)}")
        return known[name]

    def to_table(self) -> list[dict[str, Any]]:
        return [config.to_table(feature) for feature in self.features]

    @staticmethod
    def from_table(rows: list[Mapping[str, Any]]) -> "Schema":
        return Schema(features=tuple(config.read(Feature, row, "schema") for row in rows))
