"""The training stage: resume or start, run the loop here or on a group of Ray Train workers, finish."""

import json
import logging
import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from raysys.config import digest
from raysys.distributed.checkpoints import KIND, ResumeFolder, identity_of
from raysys.distributed.cluster import nodes_with, share_of_cpus
from raysys.distributed.loop import ALARM, Job, train_loop
from raysys.distributed.placement_groups import free_group, note_group, own_group
from raysys.distributed.rank import Rank
from raysys.distributed.relay import Relay, StopWish, in_thread
from raysys.distributed.tables import fit
from raysys.distributed.tracking import Tracker, params_of
from raysys.errors import ConfigError, RaysysError, TrainingError
from raysys.evaluation.lists import DIVERSITY
from raysys.logs import fields
from raysys.manifest import find_manifest, read_manifest
from raysys.run import RunConfig, TrackingConfig
from raysys.schema import Schema
from raysys.storage import Folder

logger = logging.getLogger(__name__)

GRACE_S = 60
"""How long a stopped run may take to write its checkpoint."""
EPOCH = "epoch_of_watcher"
"""Key of a line from a worker that is the report of an epoch, for the watcher."""
GROUP = "placement_group"
"""Key of a line from a worker that names the placement group of the workers."""
Epoch = Callable[[dict[str, float]], None]


class TrainingStopped(BaseException):
    """Whoever watches the training asked it to stop; its last checkpoint is there to go on from."""


class Watcher(Protocol):
    """Somebody who follows a training from the process that called it, such as a trial of a search."""

    def report(self, metrics: dict[str, float], path: str) -> None:
        """Take the metrics of a finished epoch, and where its checkpoint is."""
        ...

    def stopping(self) -> bool:
        """Return whether the training shall stop at the next step."""
        ...


def train(
    run: RunConfig, out: Folder, features: Folder | None = None, watcher: Watcher | None = None
) -> Folder:
    """Train the run's model on `features/` and return `checkpoint/`; resumes what was stopped, skips what is
    done.

    Args:
        run: the run.
        out: where the outputs are.
        features: where the features are, if not in `out`.
        watcher: is told of every epoch. With one, a single worker is the calling process, on the run's
            device.
    Raises:
        ManifestError: no finished features, or features of another config.
        TrainingError: the loss is not finite.
        TrainingStopped: the watcher asked for it.
    """
    features, target = features or out / "features", out / "checkpoint"
    manifest = read_manifest(features, "features", "prepare")
    parents = {"features": manifest.digest}
    found = find_manifest(target, KIND)
    if found and found.matches(run.training_digest, parents):
        logger.info(fields(checkpoint="unchanged", path=target.uri))
        return target
    if run.learns_by == "rows":
        return fit(run, out, features, manifest)
    job = Job(run, features, manifest, out)
    job.plan.steps(0)
    if run.training.metric_k > manifest.info["items"]:
        raise ConfigError(
            f"training.metric: {run.training.metric} looks deeper than the {manifest.info['items']} items of "
            "the catalogue"
        )
    kinds = {feature.kind for feature in Schema.from_table(manifest.info["schema"]).of("item")}
    if run.training.metric.startswith(DIVERSITY) and kinds <= {"number"}:
        raise ConfigError(
            f"training.metric: {run.training.metric} needs a categorical item feature, and there is "
            "none; name one in data.items.features and run jobs/prepare.py again, or watch another metric"
        )
    resume, identity = ResumeFolder(out), identity_of(run, manifest)
    if resume.open(identity):
        state = resume.load()
        logger.info(fields(resumed_at_epoch=state.epoch + 1, step=state.step, path=resume.folder.uri))
    _tracked(job, watcher, resume, identity)
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


def _tracked(job: Job, watcher: Watcher | None, resume: ResumeFolder, identity: Mapping[str, str]) -> None:
    """Run the loop here or on workers, and record it in MLflow; of a trial, the search does."""
    tracker = Tracker(TrackingConfig() if watcher else job.run.tracking)
    name = job.out.uri.rpartition("/")[2]
    tracker.start(job.out, name, params_of(job.run), digest([identity]), curve=resume.load().curve)

    def epoch(metrics: dict[str, float]) -> None:
        tracker.epoch(job.out, metrics)

    status = "FAILED"
    try:
        if job.run.cluster.workers == 0 or (watcher and job.run.cluster.workers == 1):
            _train_here(job, watcher, epoch)
        else:
            _train_on_ray(job, watcher, epoch)
        status = "FINISHED"
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        raise
    finally:
        tracker.end(job.out, status)
        tracker.close()


def _train_here(job: Job, watcher: Watcher | None, epoch: Epoch) -> None:
    """Run the loop in the calling process, without Ray: for a debugger, or as a trial of a search."""
    if watcher is None:
        train_loop(job, Rank(0, 1, "cpu", _show, lambda: False, lambda metrics, path: epoch(metrics)))
        return
    device = "cuda" if job.run.cluster.use_gpu else "cpu"
    train_loop(job, Rank(0, 1, device, _show, watcher.stopping, watcher.report))
    if watcher.stopping():
        raise TrainingStopped


def _show(line: dict[str, Any]) -> None:
    logger.log(logging.WARNING if ALARM in line else logging.INFO, fields(**line))


def _train_on_ray(job: Job, watcher: Watcher | None, epoch: Epoch) -> None:
    """Run the loop on a group of Ray Train workers.

    `fit` runs in a thread of its own, because on the main thread Ray Train takes SIGINT for itself and ends
    the process. Here a signal asks the workers to write a checkpoint at the step they are at.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, ScalingConfig
    from ray.train import RunConfig as RayRunConfig
    from ray.train.torch import TorchTrainer

    cluster = job.run.cluster
    # trials of a search share the cluster, and are counted by one CPU a worker
    cpus = _cpu_share(job)
    resources = dict(cluster.resources_per_worker) or {"CPU": float(min(cpus, 1) if watcher else cpus)}
    storage = job.out / ".checkpoint.resume" / "ray"
    local = storage.is_local
    logger.info(fields(starting_workers=cluster.workers, gpu=cluster.use_gpu, each=resources))

    place = ResumeFolder(job.out).folder
    free_group(place)

    def show(line: dict[str, Any]) -> None:
        if GROUP in line:
            note_group(place, line[GROUP])
        elif EPOCH not in line:
            _show(line)
        elif watcher:
            watcher.report(*line[EPOCH])
        else:
            epoch(line[EPOCH][0])

    with Relay(show) as relay:
        trainer = TorchTrainer(
            _worker,
            train_loop_config={
                "job": job,
                "relay": relay,
                "threads": max(1, int(resources.get("CPU", 1))),
                "watched": watcher is not None or bool(job.run.tracking.mlflow),
            },
            scaling_config=ScalingConfig(
                num_workers=cluster.workers,
                use_gpu=cluster.use_gpu,
                resources_per_worker=resources,
                label_selector=dict(cluster.training_labels) or None,
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

        def watch() -> None:
            if watcher and watcher.stopping():
                raise TrainingStopped

        def end() -> None:
            logger.info(fields(stopping="waiting for a checkpoint", at_most_s=GRACE_S))
            relay.stop.remote()

        failure: Exception | None = None
        try:
            in_thread(trainer.fit, watch, end, GRACE_S)
        except Exception as error:
            failure = error
        fatal = ray.get(relay.fatal_error.remote())
    if fatal:
        raise TrainingError(fatal)
    if failure:
        raise failure


def _cpu_share(job: Job) -> int:
    """Return the CPUs of a worker: what all workers can have on the nodes, less one on the largest for the
    data tasks where Ray Data cuts the batches. 0 with GPUs on nodes that declare no CPUs."""
    cpus = list(nodes_with(job.run.cluster.training_labels).values())
    if job.run.cluster.use_gpu and not any(cpus):
        return 0  # nodes that are for training alone, or that the autoscaler has yet to start
    if cpus and job.run.training.source == "ray_data":
        cpus[0] -= 1
    return share_of_cpus(cpus, job.run.cluster.workers)


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
    if context.get_world_rank() == 0:
        relay.put.remote({GROUP: own_group()})
    if context.get_world_rank() == 0 and get(relay.count_start.remote()) > 1:
        relay.put.remote({"restarted": "workers failed; going on from the last checkpoint"})

    def report(metrics: dict[str, float], path: str) -> None:
        if config["watched"] and context.get_world_rank() == 0:
            relay.put.remote({EPOCH: (metrics, path)})
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
        stopping=StopWish(relay),
        report=report,
        on_node=context.get_local_world_size(),
    )
    try:
        train_loop(job, rank)
    except RaysysError as error:
        ray.get(relay.fail.remote(str(error)))
        raise
