"""A run's parameters by name, without their memory: the model, built where tensors have only shapes."""

import math
from dataclasses import dataclass

import torch

from raysys.catalog import Catalog
from raysys.models import build_model
from raysys.run import RunConfig


@dataclass(frozen=True)
class Parameter:
    """One trained parameter.

    Attributes:
        name: as in the checkpoint.
        shape: of it, with as many rows as the run has items.
        element_bytes: of one number.
        is_table: whether it has a row for each value of a vocabulary.
    """

    name: str
    shape: tuple[int, ...]
    element_bytes: int
    is_table: bool

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.numbers * self.element_bytes


@dataclass(frozen=True)
class ModelSize:
    """What of a model is in memory, beside what a step makes of it.

    Attributes:
        parameters: in the order of the model.
        buffer_bytes: of what is not trained, such as the items' feature values.
    """

    parameters: tuple[Parameter, ...]
    buffer_bytes: int = 0

    @property
    def parameter_bytes(self) -> int:
        return sum(parameter.bytes for parameter in self.parameters)

    @property
    def optimizer_bytes(self) -> int:
        """Bytes of Adam's two moments and, for each parameter, the number of its step."""
        return 2 * self.parameter_bytes + 4 * len(self.parameters)


def model_size(run: RunConfig, catalog: Catalog, num_items: int) -> ModelSize:
    """Return the size of a run's model.

    Args:
        run: whose model it is; one that counts has no parameters.
        catalog: what the model may know; may hold fewer items than the run.
        num_items: rows of the run's item table, the reserved ones included.
    Raises:
        ConfigError: a feature that the model names and the catalog lacks.
    """
    if run.learns_by == "rows":
        return ModelSize(())
    with torch.device("meta"):
        model = build_model(run.model_name, run.model, catalog, run.training.loss, run.training.seed)
    features = (*catalog.item_features, *catalog.user_features, *catalog.event_features)
    vocabularies = {catalog.num_items, catalog.num_users, *(f.size for f in features if f.size)}

    def rows(shape: tuple[int, ...]) -> tuple[int, ...]:
        grows = bool(shape) and shape[0] == catalog.num_items
        return (num_items, *shape[1:]) if grows else shape

    parameters = [
        Parameter(
            name,
            rows(tuple(value.shape)),
            value.element_size(),
            value.dim() == 2 and value.shape[0] in vocabularies,
        )
        for name, value in model.named_parameters()
        if value.requires_grad
    ]
    buffers = [(rows(tuple(value.shape)), value.element_size()) for _, value in model.named_buffers()]
    return ModelSize(tuple(parameters), sum(math.prod(shape) * size for shape, size in buffers))
