"""The training loop that every rank runs, with or without Ray around it.

A position (epoch, step) and the seed decide everything that a step sees, so a run that was stopped anywhere
goes on from its last checkpoint as if it had not been, on another number of workers if need be.
"""

import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from raysys.catalog import Catalog
from raysys.data.budget import part_samples
from raysys.data.epochs import EpochPlan, ahead, epoch_batches
from raysys.data.shapes import SampleShape
from raysys.distributed.board import Board
from raysys.distributed.checkpoints import ResumeFolder, State, catalog_of
from raysys.distributed.gauges import Gauges
from raysys.distributed.rank import Rank, generators_of, has_core_to_spare, share_memory, wrap
from raysys.distributed.same_node import SharedSum
from raysys.distributed.validation import validate
from raysys.errors import TrainingError
from raysys.evaluation.health import alarm, of_curve
from raysys.manifest import Manifest
from raysys.models import build_model, sample_shape
from raysys.nn.loss_inputs import WITH_NEGATIVES, LossInputs
from raysys.run import RunConfig
from raysys.seeds import derive_seed
from raysys.storage import Folder
from raysys.training import StepTotals, build_optimizer, learning_rate, train_steps
from raysys.training_config import is_better

ALARM = "interests_collapsed"
"""Key of a line of progress that is a warning."""
TICK_STEPS = 10
"""Steps between two reductions of loss, stop flag and time over the ranks."""


@dataclass(frozen=True)
class Job:
    """What every rank needs; small enough to send.

    Ray Train keeps its text among the records of the run, so that leaves out the run, whose paths may hold
    credentials.
    """

    run: RunConfig = field(repr=False)
    features: Folder
    manifest: Manifest = field(repr=False)
    out: Folder

    @property
    def shape(self) -> SampleShape:
        return sample_shape(self.run.model_name, self.run.model, self.run.session)

    @property
    def plan(self) -> EpochPlan:
        training = self.run.training
        return EpochPlan(
            parts=part_samples(self.features, self.manifest.info, self.shape, training.samples_per_user),
            events=self.manifest.info["part_events"],
            batch_size=training.batch_size,
            seed=training.seed,
            shuffle_events=training.shuffle_events,
            shape=self.shape,
            samples_per_user=training.samples_per_user,
            newest_at=self.manifest.info.get("newest_train_at", 0),
        )


def train_loop(job: Job, rank: Rank) -> None:
    """Train from the last checkpoint to the end, or until somebody asks to stop; every rank runs this."""
    begin = time.monotonic()
    loop = make_loop(job, rank)
    if rank.rank == 0:
        rank.say(
            {
                "model": job.run.model_name,
                "parameters": sum(p.numel() for p in loop.model.parameters()),
                "workers": rank.world,
                "threads": torch.get_num_threads(),
                "start_s": time.monotonic() - begin,
            }
        )
    loop.run()


def make_loop(job: Job, rank: Rank) -> "Loop":
    """Return one rank's training, its model and optimiser as the last checkpoint left them."""
    run, training = job.run, job.run.training
    catalog = catalog_of(job.features, job.manifest)
    model = build_model(run.model_name, run.model, catalog, training.loss, training.seed).to(rank.device)
    optimizer = build_optimizer(model, training)
    resume = ResumeFolder(job.out)
    state = resume.load(model, optimizer)
    for group in optimizer.param_groups:  # of a population the weights come from a run with other values
        group["weight_decay"] = training.weight_decay
    wrapped = wrap(model, rank)
    shared = share_memory(wrapped, rank)
    inputs = loss_inputs(run, catalog)
    return Loop(job, rank, model, wrapped, shared, optimizer, resume, state, inputs)


def loss_inputs(run: RunConfig, catalog: Catalog) -> LossInputs:
    """Return what makes the negatives and corrections of a run's loss."""
    training = run.training
    return LossInputs(
        training.loss,
        catalog.item_counts,
        run.model.num_negatives if training.loss in WITH_NEGATIVES else 1,
        sampler=training.sampler,
        power=training.sampler_power,
        calibration=training.gbce_t,
        seed=derive_seed(training.seed, "negatives"),
    )


class Loop:
    """The state of one rank's training and the steps that change it."""

    def __init__(
        self,
        job: Job,
        rank: Rank,
        model: nn.Module,
        wrapped: nn.Module,
        shared: SharedSum | None,
        optimizer: torch.optim.Optimizer,
        resume: ResumeFolder,
        state: State,
        inputs: LossInputs,
    ) -> None:
        self.job, self.rank, self.model, self.wrapped, self.shared = job, rank, model, wrapped, shared
        self.optimizer, self.resume, self.state, self.inputs = optimizer, resume, state, inputs
        self.training = job.run.training
        self.generators = generators_of(torch.device(rank.device))
        self.plan = job.plan
        self.total_steps = sum(self.plan.steps(epoch) for epoch in range(self.training.epochs))
        self.board = Board(job.out / "logs", state.global_step) if rank.rank == 0 else None
        self.gauges = Gauges(job.out.uri, job.run.model_name) if rank.rank == 0 else None
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
            batches = self.tensors(self.state.step)
            before = self.state.global_step - self.state.step
            train_steps(
                self.wrapped,
                self.optimizer,
                batches,
                self.training,
                self._after_step,
                self.rank.rank,
                lambda step: learning_rate(self.training, before + step, self.total_steps),
            )

    def tensors(self, first_step: int) -> Iterator[tuple[int, Mapping[str, Tensor]]]:
        """Yield (step, batch) of this rank for the present epoch, on the rank's device."""
        batches = self._arrays(first_step)
        if has_core_to_spare(self.rank.device, self.rank.on_node):
            batches = ahead(batches)
        for step, arrays in batches:
            # dropout is a function of the position, so a resumed run draws what the uninterrupted one drew
            seed = derive_seed(self.training.seed, "step", self.state.global_step, self.rank.rank)
            for generator in self.generators:
                generator.manual_seed(seed)
            yield (
                step,
                {name: torch.from_numpy(values).to(self.rank.device) for name, values in arrays.items()},
            )

    def _arrays(self, first_step: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        """Yield (step, batch) with what the loss needs; as a second thread may run this ahead of the model,
        it reads nothing that a step changes."""
        before = self.state.global_step - self.state.step
        return (
            (step, {**batch, **self.inputs.arrays(before + step, batch, self.rank.world)})
            for step, batch in self._batches(first_step)
        )

    def _batches(self, first_step: int) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
        where = (self.plan, self.state.epoch, self.job.features, first_step, self.rank.rank, self.rank.world)
        if self.training.source == "ray_data" and self.job.run.cluster.workers > 0:
            from raysys.distributed.feed import ray_data_batches

            return ray_data_batches(*where, self.job.run.cluster.data_labels)
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

    def _settle(self, *wishes: float) -> list[float]:
        """Move this rank's sums since the last time into the state, summed over all ranks.

        Returns the wishes, summed over the ranks on the same way: a second one would cost as much again.
        """
        now = time.monotonic()
        self.state.train_s += now - self.clock
        self.clock = now
        names = sorted(self.counted.sums)
        sums = [self.counted.sums[name] for name in names]
        samples, *rest = self._sum([float(self.counted.samples), *sums, *wishes])
        for name, value in zip(names, rest, strict=False):
            self.state.epoch_sums[name] = self.state.epoch_sums.get(name, 0.0) + value
        self.state.epoch_samples += int(samples)
        self.state.samples += int(samples)
        self.counted.sums.clear()
        self.counted.samples = 0
        return rest[len(names) :]

    def _sum(self, values: list[float]) -> list[float]:
        """Return the sums over all ranks, the quicker way if there is one: this is called every few steps."""
        if self.shared is None:
            return self.rank.sum(values)
        return self.shared.sum_(torch.tensor(values, dtype=torch.float64)).tolist()

    def _tick(self) -> None:
        """Agree over the ranks on the sums, on a wish to stop and on the time, and show progress."""
        state, limit = self.state, self.training.max_minutes * 60
        wishes = [0.0, 0.0]
        if self.rank.rank == 0:
            seconds = state.train_s + time.monotonic() - self.clock
            wishes = [float(self.rank.stopping()), float(bool(limit) and seconds > limit)]
        signal, timeout = self._settle(*wishes)
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
        self._show({"train/loss": loss, "train/samples_per_s": rate})

    def _show(self, values: Mapping[str, float]) -> None:
        """Draw values in TensorBoard and show them to Prometheus."""
        assert self.board is not None
        assert self.gauges is not None
        self.board.write(self.state.global_step, values)
        self.gauges.write(values)

    def _end_epoch(self) -> None:
        state, training = self.state, self.training
        self._settle()
        metrics = {f"train/{name}": total / state.epoch_samples for name, total in state.epoch_sums.items()}
        begin = time.monotonic()
        metrics.update(validate(self.model, self.job.run, self.job.features, self.job.manifest, self.rank))
        metrics["valid_s"] = time.monotonic() - begin
        value = metrics[f"valid/{training.metric}"]
        if math.isnan(value):
            raise TrainingError(
                f"training.metric: no sampled user of the validation part defines {training.metric}; raise "
                "training.valid_users or watch another metric"
            )
        if state.best_epoch < 0 or is_better(training.metric, value, state.best_metric):
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
        collapsed, heard = alarm(of_curve(state.curve[-1]) if state.curve else {}, of_curve(metrics))
        state.curve.append(entry)
        state.epoch, state.step, state.epoch_sums, state.epoch_samples = state.epoch + 1, 0, {}, 0
        if training.patience and state.epochs_since_best >= training.patience and not state.stopped:
            state.stopped = "patience"
        path = ""
        if self.rank.rank == 0:
            rate = state.samples / max(state.train_s, 1e-9)
            self._show(metrics | {"train/samples_per_s": rate})
            path = self.save()
            self.rank.say(
                {
                    "epoch": f"{state.epoch}/{training.epochs}",
                    **_short(metrics),
                    "best": state.best_epoch == state.epoch - 1,
                }
            )
            if heard:
                self.rank.say({ALARM if collapsed else "interests": heard, "epoch": state.epoch})
        self.rank.report({**metrics, "epoch": state.epoch}, path)

    def save(self) -> str:
        return self.resume.save(self.state, self.model, self.optimizer)


def _short(metrics: Mapping[str, float]) -> dict[str, float]:
    """Return what the line of an epoch shows: of the health of the interests two figures only."""
    shown = {key: value for key, value in metrics.items() if not key.startswith("health/")}
    names = {"interests": "health/active", "cosine": "health/pairwise_cosine"}
    return shown | {name: round(metrics[key], 2) for name, key in names.items() if key in metrics}
