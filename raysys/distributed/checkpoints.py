"""Checkpoints on disk: exact positions while training, and the finished `checkpoint/` that later stages read.

While a run is under way its state lies in `.checkpoint.resume/`:

    identity.json          digests of config and features; another identity means another run, and a fresh
    start
    best-<epoch>.pt        weights with the best validation metric, of each step that is kept
    step-<n>/              weights.pt, optimizer.pt, and state.json, written last: no state.json, no
    checkpoint

Tensors are read with `weights_only=True`; nothing else is ever unpickled.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from raysys import config as configuration
from raysys.catalog import Catalog, load_catalog
from raysys.data.shapes import SampleShape
from raysys.errors import ManifestError
from raysys.manifest import Manifest, read_manifest
from raysys.models import build_model, build_row_model, sample_shape
from raysys.run import RunConfig, read_run
from raysys.schema import NUM_RESERVED, Schema
from raysys.storage import Folder, replacing

KIND = "checkpoint"
KEPT_STEPS = 2


@dataclass
class State:
    """Where training stands: everything but the tensors.

    `epoch` and `step` name the next step to take; `global_step` counts all steps taken. `best_epoch` is -1
    before the first validation. `curve` has one entry per finished epoch.
    """

    epoch: int = 0
    step: int = 0
    global_step: int = 0
    samples: int = 0
    train_s: float = 0.0
    best_epoch: int = -1
    best_metric: float = float("-inf")
    epochs_since_best: int = 0
    epoch_sums: dict[str, float] = field(default_factory=dict)
    epoch_samples: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)
    stopped: str = ""

    def to_table(self) -> dict[str, Any]:
        table = dict(vars(self))
        if self.best_epoch < 0:
            table.pop("best_metric")  # JSON has no minus infinity
        return table


def identity_of(run: RunConfig, manifest: Manifest) -> dict[str, str]:
    """Return what a checkpoint of a run on features with this manifest is known by."""
    return {"training": run.training_digest, "features": manifest.digest}


class ResumeFolder:
    """The state of a run under way."""

    def __init__(self, out: Folder) -> None:
        self.folder = out / ".checkpoint.resume"

    def open(self, identity: Mapping[str, str]) -> bool:
        """Keep what fits this identity and delete anything else; return whether something to resume was
        kept."""
        if self.folder.exists("identity.json") and self.folder.read_json("identity.json") == dict(identity):
            return bool(self._steps())
        self._delete()
        self.folder.write_json("identity.json", dict(identity))
        return False

    def _delete(self) -> None:
        """Delete everything, first what says that the rest is whole: an object store deletes file by file."""
        if self.folder.exists("identity.json"):
            self.folder.delete_file("identity.json")
        self.folder.delete()

    def _steps(self) -> list[int]:
        """Return the global steps with a complete checkpoint, ascending."""
        steps = [int(name.removeprefix("step-")) for name in self.folder.names() if name.startswith("step-")]
        return sorted(step for step in steps if self.folder.exists(f"step-{step}/state.json"))

    def take(self, other: "ResumeFolder", identity: Mapping[str, str]) -> None:
        """Stand where another run stands, under an identity of its own; the other run has a checkpoint."""
        self._delete()
        state, last = other.load(), f"step-{other._steps()[-1]}"
        names = [f"{last}/{name}" for name in ("weights.pt", "optimizer.pt", "state.json")]
        best = [f"best-{state.best_epoch}.pt"] if state.best_epoch >= 0 else []
        for name in [*best, *names]:
            self.folder.write_bytes(name, other.folder.read_bytes(name))
        self.folder.write_json("identity.json", dict(identity))

    def save(self, state: State, model: nn.Module, optimizer: torch.optim.Optimizer) -> str:
        """Write a checkpoint of this position, delete old ones, and return the checkpoint's URI."""
        name = f"step-{state.global_step}"
        self.folder.write_bytes(f"{name}/weights.pt", to_bytes(model.state_dict()))
        self.folder.write_bytes(f"{name}/optimizer.pt", to_bytes(optimizer.state_dict()))
        self.folder.write_json(f"{name}/state.json", state.to_table())
        self._delete_old()
        return (self.folder / name).uri

    def _delete_old(self) -> None:
        """Delete the steps before the last ones, then the best weights that no step names any more."""
        steps = self._steps()
        for step in steps[:-KEPT_STEPS]:
            (self.folder / f"step-{step}").delete()
        states = [self.folder.read_json(f"step-{step}/state.json") for step in steps[-KEPT_STEPS:]]
        named = {f"best-{state['best_epoch']}.pt" for state in states}
        for name in self.folder.names():
            if name.startswith("best-") and name not in named:
                self.folder.delete_file(name)

    def save_best(self, epoch: int, model: nn.Module) -> None:
        self.folder.write_bytes(f"best-{epoch}.pt", to_bytes(model.state_dict()))

    def load(self, model: nn.Module | None = None, optimizer: torch.optim.Optimizer | None = None) -> State:
        """Return the latest state (a new one where there is none) and fill the model and the optimizer."""
        steps = self._steps()
        if not steps:
            return State()
        name = f"step-{steps[-1]}"
        if model is not None:
            model.load_state_dict(from_bytes(self.folder.read_bytes(f"{name}/weights.pt")))
        if optimizer is not None:
            optimizer.load_state_dict(from_bytes(self.folder.read_bytes(f"{name}/optimizer.pt")))
        return State(**self.folder.read_json(f"{name}/state.json"))

    def finish(
        self, target: Folder, run: RunConfig, parents: Mapping[str, str], info: Mapping[str, Any]
    ) -> None:
        """Write `checkpoint/` from the best weights and the last optimiser state, then delete this folder."""
        state = self.load()
        last = f"step-{self._steps()[-1]}"
        best = f"best-{state.best_epoch}.pt" if state.best_epoch >= 0 else f"{last}/weights.pt"
        with replacing(target) as staged:
            staged.write_bytes("weights.pt", self.folder.read_bytes(best))
            staged.write_bytes("optimizer.pt", self.folder.read_bytes(f"{last}/optimizer.pt"))
            staged.write_json("state.json", state.to_table())
            staged.write_bytes("run.toml", run.to_toml().encode())
            Manifest(
                kind=KIND, config_digest=run.training_digest, parents=dict(parents), info=dict(info)
            ).write(staged)
        self._delete()


def to_bytes(tensors: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, device: str = "cpu") -> Any:
    return torch.load(io.BytesIO(data), map_location=device, weights_only=True)


def catalog_of(features: Folder, manifest: Manifest) -> Catalog:
    """Return the catalog of a features folder whose manifest was read."""
    schema = Schema.from_table(manifest.info["schema"])
    return load_catalog(features, schema, manifest.info["users"] + NUM_RESERVED)


@dataclass(frozen=True)
class Trained:
    """A finished checkpoint: the model in evaluation mode, the run that made it, its manifest and its
    state."""

    model: Any  # a module with one of the answering protocols of models.contract, or a RowModel
    run: RunConfig
    manifest: Manifest
    state: State

    @property
    def shape(self) -> SampleShape:
        """What the model's batches hold."""
        return sample_shape(self.run.model_name, self.run.model, self.run.session)


def load_trained(checkpoint: Folder, features: Folder) -> Trained:
    """Return a trained model.

    Raises:
        ManifestError: no finished checkpoint, one whose item vocabulary is not that of the features, or one
            of another model or version.
    """
    manifest = read_manifest(checkpoint, KIND, "train")
    made_from = read_manifest(features, "features", "prepare")
    for name, digest in manifest.info["vocabularies"].items():
        found = made_from.info["vocabularies"].get(name)
        if found != digest:
            raise ManifestError(
                f"{checkpoint.uri}: trained with {name} vocabulary {digest}, {features.uri} has {found}; "
                "train again on these features, or point to the features that the checkpoint was trained on"
            )
    run = read_run(
        configuration.parse_toml(checkpoint.read_bytes("run.toml").decode(), f"{checkpoint.uri}/run.toml")
    )
    if run.learns_by == "rows":
        return Trained(build_row_model(run.model_name, run.model), run, manifest, State())
    catalog = catalog_of(features, made_from)
    model = build_model(run.model_name, run.model, catalog, run.training.loss, run.training.seed)
    try:
        model.load_state_dict(from_bytes(checkpoint.read_bytes("weights.pt")))
    except RuntimeError:  # torch lists every parameter, a screen of names
        raise ManifestError(
            f"{checkpoint.uri}/weights.pt: not the parameters of {run.model_name} as this version builds it; "
            "run jobs/train.py again"
        ) from None
    return Trained(model.eval(), run, manifest, State(**checkpoint.read_json("state.json")))
