"""Every model by name: its config class, its class and its presets.

The table is explicit, to be searched and typed. Model files import torch, which takes seconds and is of no
use to a stage that only reads the run file; they are therefore imported when their class is asked for.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from raysys.catalog import Catalog
from raysys.config import read, suggest
from raysys.data.sequences import SessionConfig
from raysys.data.shapes import SampleShape
from raysys.errors import ConfigError
from raysys.models.item_cf_config import ItemCfConfig
from raysys.models.mind_config import MindConfig
from raysys.models.sdm_config import SdmConfig

if TYPE_CHECKING:
    from torch import nn

    from raysys.models.contract import RowModel


class ModelEntry(NamedTuple):
    """A config dataclass, what imports the model's class, and how the model learns.

    gradient: built as `model(config, catalog, loss=..., seed=...)`, see `contract.GradientModel`.
    rows: counting, built as `model(config)`, see `contract.RowModel`.
    """

    config: type
    load: "Callable[[], type[Any]]"
    learns_by: Literal["gradient", "rows"] = "gradient"

    @property
    def model(self) -> "type[Any]":
        return self.load()


def _item_cf() -> "type[RowModel]":
    from raysys.models.item_cf import ItemCf

    return ItemCf


def _mind() -> "type[nn.Module]":
    from raysys.models.mind import Mind

    return Mind


def _sdm() -> "type[nn.Module]":
    from raysys.models.sdm import Sdm

    return Sdm


MODELS: dict[str, ModelEntry] = {
    "item_cf": ModelEntry(ItemCfConfig, _item_cf, learns_by="rows"),
    "mind": ModelEntry(MindConfig, _mind),
    "sdm": ModelEntry(SdmConfig, _sdm),
}

# The setting of arXiv:1904.08030 on TmallData; what the paper does not give stays at the default of the
# field.
_MIND_PAPER = {
    "embedding_dim": 64,
    "num_interests": 5,
    "routing_iterations": 3,
    "adaptive_interests": True,
    "routing_sigma": 1.0,
    "label_power": float("inf"),
    "dropout": 0.0,
    "temperature": 1.0,
    "normalize": False,
}

# What lifted test figures on MovieLens and on retail baskets; docs/experiments.md has the ablations.
_MIND_RECOMMENDED = {
    **_MIND_PAPER,
    "num_interests": 4,
    "recency": "slot",
    "residual": True,
    "squash_last": False,
    "latest_items": 5,
    "train_score": "served",
    "hidden_dims": (256,),
    "history_dropout": 0.2,
}

# arXiv:1909.00385 as it prints its equations; what it does not give stays at the default of the field.
_SDM_PAPER = {
    "embedding_dim": 64,
    "lstm_layers": 1,
    "num_heads": 4,
    "scaled_attention": False,
    "layer_norm": False,
    "fusion": "gate",
    "dropout": 0.0,
    "temperature": 1.0,
    "normalize": False,
}

# What lifted validation on MovieLens and on retail baskets; docs/experiments.md has the figures.
_SDM_RECOMMENDED = {**_SDM_PAPER, "embedding_dim": 128, "residual": True, "history_dropout": 0.2}

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "item_cf": {
        "paper": {"similarity": "cosine", "decay": 1.0},
        "recommended": {"similarity": "tf_idf", "num_neighbours": 50, "decay": 0.8},
    },
    "mind": {
        "paper": _MIND_PAPER,
        "recommended": _MIND_RECOMMENDED,
    },
    "sdm": {
        "paper": _SDM_PAPER,
        "recommended": _SDM_RECOMMENDED,
    },
}
"""Model -> preset -> values of fields. Keys that the run file gives itself win over the preset."""

DEFAULT_PRESET = "paper"


def read_model_config(table: Mapping[str, Any], path: str = "model") -> tuple[str, Any]:
    """Return the name of the model and its config, from the `[model]` table of a run file.

    Args:
        table: `name` (required), `preset` ("paper" where missing) and fields of the model's config, which win
            over the preset.
        path: dotted path of the table, used in messages.
    Raises:
        ConfigError: no or unknown name, unknown preset, unknown key, wrong type, or a value out of range.
    """
    if "name" not in table:
        raise ConfigError(f"{path}.name: missing; known: {', '.join(sorted(MODELS))}")
    name = table["name"]
    if not isinstance(name, str) or name not in MODELS:
        raise ConfigError(f"{path}.name: no model {name!r}{suggest(str(name), MODELS)}")
    preset = table.get("preset", DEFAULT_PRESET)
    if not isinstance(preset, str) or preset not in PRESETS[name]:
        raise ConfigError(
            f"{path}.preset: no preset {preset!r} of {name}{suggest(str(preset), PRESETS[name])}"
        )
    own = {key: value for key, value in table.items() if key not in ("name", "preset")}
    return name, read(MODELS[name].config, {**PRESETS[name][preset], **own}, path)


def sample_shape(name: str, config: Any, session: SessionConfig) -> SampleShape:
    """Return what batches of a model hold, in training and in queries; `session` is the run's `[session]`."""
    model: Any = MODELS[name].model
    return model.samples(config, session)


def build_model(name: str, config: Any, catalog: Catalog, loss: str, seed: int) -> "nn.Module":
    """Return a new model, its parameters a function of the config, the catalog's sizes and the seed.

    Raises:
        ConfigError: unknown name, a loss that the model does not offer, or features that the catalog does not
            have.
    """
    if name not in MODELS:
        raise ConfigError(f"model.name: no model {name!r}{suggest(name, MODELS)}")
    return MODELS[name].model(config, catalog, loss=loss, seed=seed)


def build_row_model(name: str, config: Any) -> "RowModel":
    """Return a counting model."""
    assert MODELS[name].learns_by == "rows"
    return MODELS[name].model(config)
