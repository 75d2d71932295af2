"""RunConfig: a whole run as one dataclass, read from a TOML file and overrides, with checks across
sections."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raysys import config
from raysys.config import require
from raysys.data.log_config import DataConfig
from raysys.data.sequences import SessionConfig
from raysys.data.sources import with_source
from raysys.data.splits import SplitConfig
from raysys.errors import ConfigError
from raysys.evaluation.lists import DIVERSITY
from raysys.evaluation.metrics import EvaluationConfig
from raysys.models import MODELS, read_model_config
from raysys.retrieval.index import IndexConfig
from raysys.storage import public_uri
from raysys.training_config import TrainingConfig

SPLIT_SETTINGS: dict[str, tuple[str, ...]] = {
    "leave_one_out": (),
    "time": ("valid_from", "test_from"),
    "user": ("valid_fraction", "test_fraction", "history_fraction", "seed"),
    "random_target": ("valid_fraction", "test_fraction", "seed"),
}
"""What each split reads of `[split]` beside its kind and unit."""


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """`[cluster]`: what the run may take. Nothing here changes a result beyond rounding."""

    workers: int = 1
    """DDP training workers; 0: train inside the calling process, for a debugger."""
    use_gpu: bool = False
    """One GPU per training worker."""
    resources_per_worker: dict[str, float] = field(default_factory=dict)
    """Ray resources of a training worker; empty: an even share of the CPUs, so that all workers fit the
    nodes."""
    training_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that train, as given to `ray start --labels`; empty: any."""
    data_labels: dict[str, str] = field(default_factory=dict)
    """Labels of the nodes that prepare data, hold the shards and evaluate; empty: any."""
    dashboard: bool = False
    """Start the Ray dashboard with a local cluster; a real cluster has its own."""
    object_store_mb: int = 1000
    """Object store of a local cluster."""

    def __post_init__(self) -> None:
        require(self.workers >= 0, f"workers: found {self.workers}, expected >= 0")
        require(self.object_store_mb >= 80, f"object_store_mb: found {self.object_store_mb}, expected >= 80")
        for name, amount in self.resources_per_worker.items():
            require(amount >= 0, f"resources_per_worker.{name}: found {amount}, expected >= 0")


@dataclass(frozen=True, kw_only=True)
class TrackingConfig:
    """`[tracking]`: where trainings and searches are recorded beside the outputs. Changes no result and no
    digest."""

    mlflow: str = ""
    """URI of an MLflow server, such as http://host:5000; empty: none."""
    experiment: str = "raysys"
    """MLflow experiment that the runs are in."""

    def __post_init__(self) -> None:
        require(
            not self.mlflow or "://" in self.mlflow,
            f"mlflow: found {self.mlflow!r}, expected a URI such as http://host:5000",
        )
        require(bool(self.experiment), "experiment: found an empty name")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Everything that a run file says."""

    data: DataConfig
    model: Any
    """The config class of the named model."""
    model_name: str
    session: SessionConfig
    split: SplitConfig
    training: TrainingConfig
    index: IndexConfig
    evaluation: EvaluationConfig
    cluster: ClusterConfig
    tracking: TrackingConfig

    def check(self) -> None:
        """Raise ConfigError where sections contradict each other; called before any resource is taken."""
        workers = max(self.cluster.workers, 1)
        if self.learns_by == "gradient" and self.training.batch_size % workers:
            raise ConfigError(
                f"training.batch_size: found {self.training.batch_size}, expected a multiple of "
                f"cluster.workers "
                f"({workers}), because the batch size is global"
            )
        if self.learns_by == "gradient":
            self.model.check(self.training.loss, self.split)
        if self.session.by_column and "session" not in self.data.columns:
            raise ConfigError("session.by_column: needs data.columns.session, which is not set")
        if self.split.target_events and "event" not in self.data.columns:
            raise ConfigError("split.target_events: needs data.columns.event, which is not set")
        for name in self.split.target_events:
            for key, kinds in (("keep", self.data.keep_events), ("known", self.data.known_events)):
                if kinds and name not in kinds:
                    raise ConfigError(f"split.target_events: found {name!r}, which data.{key}_events lacks")
        sides = self.data.items.features.values() if self.data.items else ()
        if DIVERSITY in self.evaluation.metrics and all(side.kind == "numeric" for side in sides):
            raise ConfigError(
                f"evaluation.metrics: {DIVERSITY} needs a categorical or multi_valued feature in "
                "data.items.features, and there is none; name one, or leave the metric out"
            )
        for name in ("cluster.use_gpu",) if self.cluster.use_gpu and self.cluster.workers == 0 else ():
            raise ConfigError(f"{name}: needs cluster.workers >= 1; workers = 0 runs in the calling process")

    @property
    def learns_by(self) -> str:
        """How the model learns: by "gradient", under `[training]`, or by "rows", without it."""
        return MODELS[self.model_name].learns_by

    @property
    def events_digest(self) -> str:
        """Digest of what decides which rows of the log become which events."""
        data = config.to_table(self.data)
        for name in (
            "events",
            "partitions",
            "source",
            "items",
            "users",
            "min_item_events",
            "min_user_events",
        ):
            data.pop(name, None)
        return config.digest([data])

    @property
    def features_digest(self) -> str:
        """Digest of what decides the features, without the place of the log."""
        data = config.to_table(self.data)
        for name in ("events", "partitions", "source"):  # what a source describes is in the other keys
            data.pop(name)
        for side in ("items", "users"):
            if side in data:
                data[side].pop("path")
        return config.digest([data, config.to_table(self.session), config.to_table(self.split)])

    @property
    def training_digest(self) -> str:
        """Digest of what decides the trained model, given the features."""
        if self.learns_by == "rows":
            return config.digest([self.model_name, config.to_table(self.model)])
        training = config.to_table(self.training)
        for name in ("max_retries", "source"):
            training.pop(name)
        if training["loss"] != "gbce":
            training.pop("gbce_t")
        return config.digest([self.model_name, config.to_table(self.model), training])

    @property
    def protocol(self) -> dict[str, Any]:
        """What of the run, beside its data, must be equal for two results to be compared.

        Of the split and the sessions, only the fields that decide what is held out and seen before it.
        """
        split = config.to_table(self.split)
        settings = {name: split[name] for name in SPLIT_SETTINGS[self.split.kind]}
        if self.split.target_events:
            settings["target_events"] = list(self.split.target_events)
        if self.split.unit == "session":
            session = config.to_table(self.session)
            settings |= {f"session_{name}": session[name] for name in ("gap_s", "max_items", "by_column")}
        columns = [str(self.data.columns[name]) for name in ("order", "session") if name in self.data.columns]
        return {
            "split": self.split.kind,
            "unit": self.split.unit,
            **settings,
            "order": ", ".join(["time", *columns, "place in the log"]),
            "filter_seen": self.split.filter_seen,
            "history_length": self.model.history_length,
            "depth": self.evaluation.depth,
            "tie_break": "item_idx",
        }

    @property
    def run_digest(self) -> str:
        """Digest of everything but the cluster and the tracking."""
        parts = [self.features_digest, self.training_digest]
        return config.digest([*parts, config.to_table(self.index), config.to_table(self.evaluation)])

    def to_toml(self) -> str:
        """Return the resolved run as a run file, without credentials that a URI may hold."""
        tables = config.to_table(self)
        _each_path(tables, public_uri)
        tables["tracking"]["mlflow"] = public_uri(self.tracking.mlflow)
        tables["model"] = {"name": tables.pop("model_name"), **tables["model"]}
        return config.to_toml(tables)


SECTIONS = {
    "data": DataConfig,
    "session": SessionConfig,
    "split": SplitConfig,
    "training": TrainingConfig,
    "index": IndexConfig,
    "evaluation": EvaluationConfig,
    "cluster": ClusterConfig,
    "tracking": TrackingConfig,
}


def read_run(tables: Mapping[str, Any]) -> RunConfig:
    """Return the run of parsed TOML tables.

    Raises:
        ConfigError: an unknown section or key, a missing key, a value of the wrong type or out of range, or
        sections
            that contradict each other.
    """
    for name in tables:
        if name not in SECTIONS and name != "model":
            raise ConfigError(f"{name}: unknown section{config.suggest(name, [*SECTIONS, 'model'])}")
        if not isinstance(tables[name], Mapping):
            raise ConfigError(f"{name}: found a value, expected a section [{name}]")
    for name in ("data", "model"):
        if name not in tables:
            raise ConfigError(f"[{name}]: missing section; a run file needs it")
    tables = {**tables, "data": with_source(tables["data"])}
    sections = {name: config.read(cls, tables.get(name, {}), name) for name, cls in SECTIONS.items()}
    model_name, model = read_model_config(tables["model"])
    run = RunConfig(model=model, model_name=model_name, **sections)  # type: ignore[arg-type]
    run.check()
    return run


def load_run(path: str, overrides: Sequence[str] = ()) -> RunConfig:
    """Return the run of a TOML file with overrides.

    Paths in the file are relative to the file, paths in overrides to the working directory.

    Raises:
        ConfigError: no such file, or anything `read_run` refuses.
    """
    return read_run(load_tables(path, overrides))


def load_tables(path: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the tables of a run file with overrides, unread, their paths absolute.

    Raises:
        ConfigError: no such file, no TOML, or an override that is none.
    """
    file = Path(path)
    if not file.is_file():
        raise ConfigError(f"--run {path}: no such file; run files are in jobs/runs/")
    tables = config.parse_toml(file.read_bytes(), path)
    base = file.resolve().parent
    _anchor(tables, base)
    tables = config.apply_overrides(tables, overrides)
    _anchor(tables, Path.cwd())
    return tables


def _anchor(tables: Mapping[str, Any], base: Path) -> None:
    """Make the paths of `[data]` absolute, in place."""
    _each_path(tables, lambda path: _absolute(path, base))


def _each_path(tables: Mapping[str, Any], change: Callable[[str], str]) -> None:
    """Replace every path of `[data]`, in place; values that are no text are left to the reader to refuse."""
    data = tables.get("data")
    if not isinstance(data, dict):
        return
    for table, key in ((data, "events"), (data.get("items"), "path"), (data.get("users"), "path")):
        if isinstance(table, dict) and isinstance(table.get(key), str):
            table[key] = change(table[key])
        elif isinstance(table, dict) and isinstance(table.get(key), list):
            table[key] = [change(item) if isinstance(item, str) else item for item in table[key]]


def _absolute(path: str, base: Path) -> str:
    if "://" in path or not path:
        return path
    return os.path.normpath(base / os.path.expanduser(path))
