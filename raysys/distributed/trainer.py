"""Training: the loop that every rank runs, and how Ray Train runs it on a group of workers.

A position (epoch, step) and the seed decide everything that a step sees, so a run that was stopped anywhere
goes on
from its last checkpoint as if it had not been, on another number of workers if need be.
"""

import json
import logging
import os
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed
from torch import Tensor, nn

from raysys.data.epochs import EpochPlan, epoch_batches
from raysys.distributed.checkpoints import KIND, ResumeFolder, State, catalog_of
from raysys.distributed.cluster import Relay, num_cpus, own_errors
from raysys.distributed.validation import validate
from raysys.errors import ConfigError, DataError, RaysysError, TrainingError
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest, read_manifest
from raysys.models import build_model
from raysys.nn.negatives import NegativeSampler
from raysys.run import RunConfig
from raysys.seeds import derive_seed
from raysys.storage import Folder
from raysys.training import StepTotals, build_optimizer, train_steps

logger = logging.getLogger(__name__)

TICK_STEPS = 10
"""Steps between two reductions of loss, stop flag and time over the ranks."""
GRACE_S = 60
"""How long a stopped run may take to write its checkpoint."""


@dataclass(frozen=True)
class Job:
    """What every rank needs; small enough to send."""

    run: RunConfig
    features: Folder
    manifest: Manifest
    out: Folder

    @property
    def plan(self) -> EpochPlan:
        training = self.run.training
        return EpochPlan(
            parts=self.manifest.info["part_samples"],
            events=self.manifest.info["part_events"],
            batch_size=training.batch_size,
            seed=training.seed,
            shuffle_events=training.shuffle_events,
            history_length=self.run.model.history_length,
        )


@dataclass(frozen=True)
class Rank:
    """One worker's place in the group, and how it talks to the driver."""

    rank: int
    world: int
    device: str
    say: Callable[[dict[str, Any]], None]
    stopping: Callable[[], bool]
    report: Callable[[dict[str, float], str], None]

    def sum(self, values: list[float]) -> list[float]:
        """Return the sums over all ranks."""
        if self.world == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor)
        return tensor.tolist()


def train(run: RunConfig, out: Folder) -> Folder:
    """Train the run's model on `features/` and return `checkpoint/`; resumes what was stopped, skips what is
    done.

    Raises:
        ManifestError: no finished features, or features of another config.
        TrainingError: the loss is not finite.
    """
    features, target = out / "features", out / "checkpoint"
    manifest = read_manifest(features, "features", "prepare")
    parents = {"features": manifest.digest}
    found = find_manifest(target, KIND)
    if found and found.matches(run.training_digest, parents):
        logger.info(fields(checkpoint="unchanged", path=target.uri))
        return target
    job = Job(run, features, manifest, out)
    job.plan.steps(0)
    if run.training.metric_k > manifest.info["items"]:
        raise ConfigError(
            f"training.metric: {run.training.metric} looks deeper than the {manifest.info['items']} items of "
            "the catalogue"
        )
    resume = ResumeFolder(out)
    identity = {"training": run.training_digest, "features": manifest.digest}
    if resume.open(identity):
        state = resume.load()
        logger.info(fields(resumed_at_epoch=state.epoch + 1, step=state.step, path=resume.folder.uri))
    if run.cluster.workers == 0:
        _train_here(job)
    else:
        _train_on_ray(job)
    state = resume.load()
    info = {
        "vocabularies": {"item": manifest.info["vocabularies"]["item"]},
        "samples": state.samples,
        "samples_per_s": state.samples / max(state.train_s, 1e-9),
        "epochs": state.epoch,
        "best_epoch": state.best_epoch + 1,
        "stopped": state.stopped,
        "workers": run.cluster.workers,
        "metric": {run.training.metric: state.best_metric} if state.best_epoch >= 0 else {},
    }
    resume.finish(target, run, parents, info)
    logger.info(
        fields(
            checkpoint=target.uri, **{k: v for k, v in info.items() if k not in ("vocabularies", "metric")}
        )
    )
    return target


def _train_here(job: Job) -> None:
    """Run the loop in the calling process, without Ray: for a debugger."""
    train_loop(job, Rank(0, 1, "cpu", _show, lambda: False, lambda metrics, path: None))


def _show(line: dict[str, Any]) -> None:
    logger.info(fields(**line))


def _train_on_ray(job: Job) -> None:
    """Run the loop on a group of Ray Train workers.

    `fit` runs in a thread of its own, because on the main thread Ray Train takes SIGINT for itself and ends
    the
    process. Here a signal asks the workers to write a checkpoint at the step they are at.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer

    cluster = job.run.cluster
    resources = dict(cluster.resources_per_worker) or {"CPU": float(max(1, _cpu_share(job)))}
    storage = job.out / ".checkpoint.resume" / "ray"
    local = storage.is_local
    with Relay(_show) as relay:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={"job": job, "relay": relay, "threads": max(1, int(resources.get("CPU", 1)))},
            scaling_config=ScalingConfig(
                num_workers=cluster.workers, use_gpu=cluster.use_gpu, resources_per_worker=resources
            ),
            run_config=RayRunConfig(
                # our own checkpoints are what resumes; Ray's record of a run is not reused
                name=uuid.uuid4().hex,
                storage_path=storage.path,
                storage_filesystem=None if local else storage.filesystem,
                failure_config=FailureConfig(
                    max_failures=job.run.training.max_retries,
                    controller_failure_limit=job.run.training.max_retries,
                ),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        outcome: list[BaseException] = []

        def fit() -> None:
            try:
                trainer.fit()
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=fit, daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(0.2)
        except BaseException:
            logger.info(fields(stopping="waiting for a checkpoint", at_most_s=GRACE_S))
            relay.stop.remote()
            thread.join(GRACE_S)
            raise
        fatal = ray.get(relay.fatal_error.remote())
    if fatal:
        raise TrainingError(fatal)
    if outcome:
        with own_errors():
            raise outcome[0]


def _cpu_share(job: Job) -> int:
    """Return the CPUs of a worker: an even share, less one for the data tasks where Ray Data cuts the
    batches."""
    workers = job.run.cluster.workers
    spare = 1 if job.run.training.source == "ray_data" else 0
    return max(1, (num_cpus() - spare) // workers) if workers else 1


def _worker(config: dict[str, Any]) -> None:
    """The training function of a Ray Train worker."""
    import ray
    import ray.train
    from ray.train.torch import get_device

    context, job, relay = ray.train.get_context(), config["job"], config["relay"]
    get: Any = ray.get
    torch.set_num_threads(config["threads"])
    if ray.get(relay.fatal_error.remote()):
        return  # Ray Train starts a failed group again; an error that would come back is not worth it
    if context.get_world_rank() == 0 and get(relay.count_start.remote()) > 1:
        relay.put.remote({"restarted": "workers failed; going on from the last checkpoint"})

    def report(metrics: dict[str, float], path: str) -> None:
        if context.get_world_rank():
            ray.train.report(metrics)
            return
        # Ours is the checkpoint that resumes; Ray Train and its dashboard get a pointer to it.
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "checkpoint.json").write_text(json.dumps({"uri": path}))
            ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))

    rank = Rank(
        rank=context.get_world_rank(),
        world=context.get_world_size(),
        device=str(get_device()),
        say=lambda line: relay.put.remote(line),
        stopping=lambda: ray.get(relay.stopping.remote()),
        report=report,
    )
    try:
        train_loop(job, rank)
    except RaysysError as error:
        ray.get(relay.fail.remote(str(error)))
        raise


def train_loop(job: Job, rank: Rank) -> None:
    """Train from the last checkpoint to the end, or until somebody asks to stop; every rank runs this."""
    run, training = job.run, job.run.training
    begin = time.monotonic()
    catalog = catalog_of(job.features, job.manifest)
    model = build_model(run.model_name, run.model, catalog, training.loss, training.seed).to(rank.device)
    optimizer = build_optimizer(model, training)
    resume = ResumeFolder(job.out)
    state = resume.load(model, optimizer)
    wrapped = _wrap(model, rank)
    sampler = None
    if training.loss == "sampled_softmax":
        sampler = NegativeSampler(
            training.sampler,
            catalog.item_counts,
            run.model.num_negatives,
            power=training.sampler_power,
            seed=derive_seed(training.seed, "negatives"),
        )
    loop = _Loop(job, rank, model, wrapped, optimizer, resume, state, sampler)
    if rank.rank == 0:
        rank.say(
            {
                "model": run.model_name,
                "parameters": sum(p.numel() for p in model.parameters()),
                "workers": rank.world,
                "threads": torch.get_num_threads(),
                "start_s": time.monotonic() - begin,
            }
        )
    loop.run()


def _wrap(model: nn.Module, rank: Rank) -> nn.Module:
    if rank.world == 1:
        return model
    from ray.train.torch import prepare_model

    return prepare_model(model)


class _Loop:
    """The state of one rank's training and the steps that change it."""

    def __init__(
        self,
        job: Job,
        rank: Rank,
        model: nn.Module,
        wrapped: nn.Module,
        optimizer: torch.optim.Optimizer,
        resume: ResumeFolder,
        state: State,
        sampler: NegativeSampler | None,
    ) -> None:
        self.job, self.rank, self.model, self.wrapped = job, rank, model, wrapped
        self.optimizer, self.resume, self.state, self.sampler = optimizer, resume, state, sampler
        self.training = job.run.training
        self.plan = job.plan
        self.board = _Board(job.out / "logs", state.global_step) if rank.rank == 0 else None
        self.counted = StepTotals()
        self.clock = time.monotonic()
        self.shown = 0.0
        self._signalled = False

    def run(self) -> None:
        while self.state.epoch < self.training.epochs and not self.state.stopped:
            self._epoch()
            if self._signalled:
                self._signalled = False
                if self.rank.rank == 0:
                    self.rank.say({"stopped": "signal", "checkpoint": self.save()})
                break
            self._end_epoch()
        if self.board:
            self.board.close()

    def _epoch(self) -> None:
        self.wrapped.train()
        self.counted, self.clock = StepTotals(), time.monotonic()
        steps = self.plan.steps(self.state.epoch)
        if self.state.step < steps:
            batches = self._tensors(self.state.step)
            train_steps(
                self.wrapped, self.optimizer, batches, self.training, self._after_step, self.rank.rank
            )

    def _tensors(self, first_step: int) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        for step, batch in self._batches(first_step):
            arrays = dict(batch)
            if self.sampler is not None:
                arrays["negatives"], arrays["log_expected"] = self.sampler.draw(self.state.global_step)
            # dropout is a function of the position, so a resumed run draws what the uninterrupted one drew
            torch.manual_seed(derive_seed(self.training.seed, "step", self.state.global_step, self.rank.rank))
            yield (
                step,
                {name: torch.from_numpy(values).to(self.rank.device) for name, values in arrays.items()},
            )

    def _batches(self, first_step: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        where = (self.plan, self.state.epoch, self.job.features, first_step, self.rank.rank, self.rank.world)
        if self.training.source == "ray_data" and self.job.run.cluster.workers > 0:
            from raysys.distributed.feed import ray_data_batches

            return ray_data_batches(*where)
        return epoch_batches(*where)

    def _after_step(self, step: int, totals: StepTotals) -> bool:
        self.counted = totals
        state = self.state
        state.step, state.global_step = step + 1, state.global_step + 1
        last = state.step == self.plan.steps(state.epoch)
        if state.global_step % TICK_STEPS == 0 or last:
            self._tick()
        if not last and state.global_step % self.training.checkpoint_every_steps == 0:
            self._settle()
            if self.rank.rank == 0:
                self.save()
        return bool(state.stopped) or self._signalled

    def _settle(self) -> None:
        """Move this rank's sums since the last time into the state, summed over all ranks."""
        names = sorted(self.counted.sums)
        totals = self.rank.sum([*(self.counted.sums[name] for name in names), float(self.counted.samples)])
        for name, value in zip(names, totals, strict=False):
            self.state.epoch_sums[name] = self.state.epoch_sums.get(name, 0.0) + value
        self.state.epoch_samples += int(totals[-1])
        self.state.samples += int(totals[-1])
        now = time.monotonic()
        self.state.train_s += now - self.clock
        self.clock = now
        self.counted.sums.clear()
        self.counted.samples = 0

    def _tick(self) -> None:
        """Agree over the ranks on the sums, on a wish to stop and on the time, and show progress."""
        self._settle()
        state, limit = self.state, self.training.max_minutes * 60
        wishes = [0.0, 0.0]
        if self.rank.rank == 0:
            wishes = [float(self.rank.stopping()), float(bool(limit) and state.train_s > limit)]
        signal, timeout = self.rank.sum(wishes)
        if signal:
            self._signalled = True
        elif timeout:
            state.stopped = "max_minutes"
        if self.rank.rank == 0 and time.monotonic() - self.shown > 2.0:
            self.shown = time.monotonic()
            self._progress()

    def _progress(self) -> None:
        state, steps = self.state, self.plan.steps(self.state.epoch)
        rate = state.samples / max(state.train_s, 1e-9)
        left = (self.training.epochs - state.epoch) * steps - state.step
        loss = state.epoch_sums["loss"] / state.epoch_samples
        line = {
            "epoch": f"{state.epoch + 1}/{self.training.epochs}",
            "step": f"{state.step}/{steps}",
            "loss": loss,
            "samples_per_s": round(rate),
            "eta_s": round(left * self.training.batch_size / max(rate, 1e-9)),
        }
        self.rank.say(line)
        assert self.board is not None
        self.board.write(state.global_step, {"train/loss": loss, "train/samples_per_s": rate})

    def _end_epoch(self) -> None:
        state, training = self.state, self.training
        self._settle()
        metrics = {f"train/{name}": total / state.epoch_samples for name, total in state.epoch_sums.items()}
        begin = time.monotonic()
        metrics.update(validate(self.model, self.job.run, self.job.features, self.job.manifest, self.rank))
        metrics["valid_s"] = time.monotonic() - begin
        value = metrics[f"valid/{training.metric}"]
        if value > state.best_metric:
            state.best_epoch, state.best_metric, state.epochs_since_best = state.epoch, value, 0
            if self.rank.rank == 0:
                self.resume.save_best(state.epoch, self.model)
        else:
            state.epochs_since_best += 1
        entry = {
            "epoch": state.epoch + 1,
            "step": state.global_step,
            "samples": state.samples,
            "train_s": state.train_s,
            **metrics,
        }
        state.curve.append(entry)
        state.epoch, state.step, state.epoch_sums, state.epoch_samples = state.epoch + 1, 0, {}, 0
        if training.patience and state.epochs_since_best >= training.patience and not state.stopped:
            state.stopped = "patience"
        path = ""
        if self.rank.rank == 0:
            assert self.board is not None
            self.board.write(state.global_step, metrics)
            path = self.save()
            self.rank.say(
                {"epoch": f"{state.epoch}/{training.epochs}", **metrics, "best": value == state.best_metric}
            )
        self.rank.report({**metrics, "epoch": state.epoch}, path)

    def save(self) -> str:
        return self.resume.save(self.state, self.model, self.optimizer)


class _Board:
    """TensorBoard event files under `logs/`; on an object store they are written beside and copied."""

    def __init__(self, logs: Folder, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.logs = logs
        self.directory = logs.path if logs.is_local else tempfile.mkdtemp(prefix="raysys-logs-")
        self.writer = SummaryWriter(self.directory, purge_step=first_step + 1, flush_secs=10)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)
        if not self.logs.is_local:
            self._copy()

    def _copy(self) -> None:
        self.writer.flush()
        for name in os.listdir(self.directory):
            self.logs.write_bytes(name, (Path(self.directory) / name).read_bytes())

    def close(self) -> None:
        self.writer.close()
        if not self.logs.is_local:
            self._copy()


def check_trainable(manifest: Manifest) -> None:
    """Raise DataError where features hold nothing to learn from."""
    if not manifest.info["samples"]:
        raise DataError("no training event has a history before it; every user has a single event or session")
