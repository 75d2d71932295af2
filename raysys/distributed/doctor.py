"""The doctor: reads the finished stages of a run and looks for the failures that make figures wrong.

It needs no Ray: histories, batches and answers are looked at in samples, files are read a block at a time.
Which failures there are and how each is told is in `raysys.evaluation.doctor`.
"""

import dataclasses
import logging
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from raysys import config as configuration
from raysys.data.shapes import SampleShape
from raysys.distributed.checkpoints import KIND as CHECKPOINT
from raysys.distributed.checkpoints import Trained, load_trained
from raysys.distributed.doctor_model import ModelExam
from raysys.distributed.doctor_reading import (
    IdCounts,
    Reading,
    count_neighbours,
    count_recommended,
    sample_histories,
)
from raysys.distributed.doctor_serving import ServingExam
from raysys.errors import DataError
from raysys.evaluation.doctor import history_checks as histories
from raysys.evaluation.doctor import item_checks, outcome_checks
from raysys.evaluation.doctor.census import Census
from raysys.evaluation.doctor.check import Check, Diagnosis, not_checked
from raysys.evaluation.doctor.history_checks import Sampled
from raysys.evaluation.doctor.raw_log import same_files
from raysys.logs import fields
from raysys.manifest import Manifest, read_manifest
from raysys.models import sample_shape
from raysys.run import RunConfig
from raysys.storage import MANIFEST, Folder

logger = logging.getLogger(__name__)

REPORT = "doctor.json"
JOBS = {
    "checkpoint": "train",
    "vectors": "export",
    "table": "export",
    "index": "index",
    "evaluation": "evaluate",
}
"""Stage after `features` -> the job that makes it."""


@dataclass(frozen=True)
class Stages:
    """The finished stages of a run."""

    run: RunConfig
    out: Folder
    manifests: Mapping[str, Manifest]

    @property
    def features(self) -> Folder:
        return self.out / "features"

    def missing(self, stage: str) -> str:
        """Return why a check cannot look at a stage that is not there."""
        return f"{stage}/ is missing; run jobs/{JOBS[stage]}.py"


def examine(run: RunConfig, out: Folder) -> Diagnosis:
    """Examine a run, write `doctor.json` and return what was found.

    Raises:
        ManifestError: no finished features, a damaged stage, or a checkpoint of another vocabulary.
    """
    begin = time.monotonic()
    with _one_thread():
        diagnosis = _diagnose(run, out)
    out.write_json(REPORT, diagnosis.to_table())
    logger.info(fields(doctor=f"{out.uri}/{REPORT}", seconds=time.monotonic() - begin))
    return diagnosis


@contextmanager
def _one_thread() -> Generator[None]:
    """Let torch use one thread: most of what is computed here are single rows, over which several threads
    wait for each other longer than they compute."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _diagnose(run: RunConfig, out: Folder) -> Diagnosis:
    manifests = {"features": read_manifest(out / "features", "features", "prepare")}
    for stage, job in JOBS.items():
        if (out / stage).exists(MANIFEST):
            manifests[stage] = read_manifest(out / stage, stage, job)
    stages = Stages(run, out, manifests)
    trained = load_trained(out / "checkpoint", out / "features") if CHECKPOINT in manifests else None
    reading = _reading(stages, trained)
    census = reading.census()
    counts: IdCounts = {"features/sequences": (census.events, census.reserved)}
    found = [*_data_checks(stages, reading, census, counts), *_outcome_checks(stages, trained)]
    found += _model_checks(stages, reading, trained, census, counts)
    _count_answers(stages, reading, counts)
    found.append(item_checks.reserved_items(counts))
    return Diagnosis.of(found)


def _reading(stages: Stages, trained: Trained | None) -> Reading:
    """Return what is to be read: the run's own data, with the model as it was trained where it was."""
    run = stages.run
    if trained is not None:
        made = trained.run
        run = dataclasses.replace(run, model=made.model, model_name=made.model_name, training=made.training)
    shape: SampleShape = sample_shape(run.model_name, run.model, run.session)
    return Reading(run, stages.features, stages.manifests["features"], shape)


def _data_checks(stages: Stages, reading: Reading, census: Census, counts: IdCounts) -> list[Check]:
    sample, reason = _sample(stages, reading, counts)
    profile = stages.features.read_json("profile.json") if stages.features.exists("profile.json") else None
    named: dict[str, Callable[[Sampled], Check]] = {
        "stored_order": histories.stored_order,
        "held_out_events": histories.held_out_events,
        "history_truncation": histories.history_truncation,
        "short_long_apart": histories.short_long_apart,
        "training_matrix": histories.training_matrix,
    }
    return [
        *(not_checked(name, reason) if sample is None else check(sample) for name, check in named.items()),
        histories.future_items(sample, census, reason),
        histories.split_leakage(census),
        histories.cold_start(census),
        item_checks.likely_mistakes(profile),
        _stages_fit(stages),
    ]


def _sample(stages: Stages, reading: Reading, counts: IdCounts) -> tuple[Sampled | None, str]:
    """Return the sample of histories, or why there is none."""
    manifest = stages.manifests["features"]
    if manifest.config_digest != stages.run.features_digest:
        return None, "features/ were made under another [data], [session] or [split]; run jobs/prepare.py"
    try:
        if not same_files(stages.run.data, manifest.info["log"]["files"]):
            return None, "the log that data.events names has changed since; run jobs/prepare.py again"
        sample, targets = sample_histories(reading)
    except DataError as error:
        return None, f"the log cannot be read: {error}"
    counts.update(targets)
    return sample, ""


def _stages_fit(stages: Stages) -> Check:
    manifests, run = stages.manifests, stages.run
    other = {
        stage: parent
        for stage, manifest in manifests.items()
        for parent, digest in manifest.parents.items()
        if parent in manifests and manifests[parent].digest != digest
    }
    digests = {"features": run.features_digest, "checkpoint": run.training_digest}
    if "index" in manifests:
        digests["index"] = configuration.digest(run.index)
    newer = [
        stage
        for stage, digest in digests.items()
        if stage in manifests and manifests[stage].config_digest != digest
    ]
    return item_checks.stages_fit(other, newer)


def _outcome_checks(stages: Stages, trained: Trained | None) -> list[Check]:
    candidates = int(stages.manifests["features"].info["items"])
    if trained is None:
        curve = not_checked("learning_curve", stages.missing("checkpoint"))
    elif trained.run.learns_by == "rows":
        curve = not_checked("learning_curve", "the model counts; it has no epochs")
    else:
        curve = outcome_checks.learning_curve(trained.state.curve, trained.run.training, candidates)
    if "evaluation" not in stages.manifests:
        return [curve, not_checked("chance_level", stages.missing("evaluation"))]
    return [curve, outcome_checks.chance_level((stages.out / "evaluation").read_json("metrics.json"))]


MODEL_CHECKS = (
    "accidental_hits", "sampler_order", "logq_correction", "same_user_same_vectors", "untrained_self",
    "collapsed_interests", "saturated_gate", "exported_vectors", "training_similarity",
    "vectors_find_targets", "index_order",
)  # fmt: skip


def _model_checks(
    stages: Stages, reading: Reading, trained: Trained | None, census: Census, counts: IdCounts
) -> list[Check]:
    if trained is None:
        return [not_checked(name, stages.missing("checkpoint")) for name in MODEL_CHECKS]
    if trained.run.learns_by == "rows":
        reason = "the model counts: it has no loss, no negatives and no vectors"
        return [not_checked(name, reason) for name in MODEL_CHECKS]
    exam = ModelExam(reading, trained, census)
    checks = exam.training_checks(counts)
    if "vectors" not in stages.manifests:
        reason = stages.missing("vectors")
        names = ("exported_vectors", "training_similarity", "vectors_find_targets", "index_order")
        return [*checks, *exam.without_vectors(), *(not_checked(name, reason) for name in names)]
    return [*checks, *ServingExam(exam, stages.out, stages.manifests.get("index")).checks(counts)]


def _count_answers(stages: Stages, reading: Reading, counts: IdCounts) -> None:
    """Add the ids of lists and tables to the counts."""
    if "evaluation" in stages.manifests:
        found = count_recommended(stages.out / "evaluation", reading.item_ids())
        counts["evaluation/recommendations.parquet"] = found
    if "table" in stages.manifests:
        counts["table/items.parquet"] = count_neighbours(stages.out / "table", reading.num_items)
