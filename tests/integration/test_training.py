"""Training is a function of the run: of no number of workers, no interruption and no source of batches."""

import dataclasses
import logging
import os
import signal
import threading
import time

import pytest
import torch

from raysys.distributed.checkpoints import ResumeFolder, from_bytes, load_trained
from raysys.distributed.datasets import prepare
from raysys.distributed.loop import ALARM
from raysys.distributed.trainer import Job, Rank, train, train_loop
from raysys.errors import ManifestError, TrainingError
from raysys.manifest import Manifest, find_manifest, read_manifest
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

TOLERANCE = 2e-5
"""Sums over another number of ranks are rounded in another order; weights are of size 0.1 to 1."""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, ray_cluster):
    """A planted log with its features, and its run file."""
    folder = planted_log(tmp_path_factory.mktemp("planted"))
    path = run_file(folder)
    prepare(load_run(str(path)), Folder(folder))
    return folder, path


def job_of(prepared, tmp_path, *overrides):
    folder, path = prepared
    run = load_run(str(path), overrides)
    out = Folder(tmp_path)
    features = tmp_path / "features"
    tmp_path.mkdir(exist_ok=True)
    if not features.exists():
        features.symlink_to(folder / "features")
    return Job(run, out / "features", read_manifest(out / "features", "features", "prepare"), out)


def weights_of(folder):
    return from_bytes((Folder(folder) / "checkpoint").read_bytes("weights.pt"))


def largest_difference(a, b):
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def trained(prepared, tmp_path, *overrides):
    job = job_of(prepared, tmp_path, *overrides)
    train(job.run, job.out)
    return weights_of(tmp_path), (Folder(tmp_path) / "checkpoint").read_json("state.json")


@pytest.fixture(scope="module")
def in_process(prepared, tmp_path_factory):
    """The uninterrupted run in this process: what every other way of running is compared with."""
    return trained(prepared, tmp_path_factory.mktemp("in_process"))


def test_the_loss_falls_and_the_curve_is_kept(in_process):
    _, state = in_process
    losses = [entry["train/loss"] for entry in state["curve"]]
    assert len(losses) == 3
    assert losses[-1] < losses[0] - 0.3  # from chance, ln 60, towards what is possible, about ln 25
    assert all(0 <= entry["valid/ndcg@10"] <= 1 for entry in state["curve"])


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_on_ray_give_the_weights_of_one_process(prepared, in_process, tmp_path, workers):
    weights, state = trained(prepared, tmp_path, f"cluster.workers={workers}")
    assert largest_difference(weights, in_process[0]) < TOLERANCE
    for ours, theirs in zip(state["curve"], in_process[1]["curve"], strict=True):
        assert ours["samples"] == theirs["samples"]
        assert ours["train/loss"] == pytest.approx(theirs["train/loss"], rel=1e-5)
        assert ours["valid/ndcg@10"] == pytest.approx(theirs["valid/ndcg@10"], abs=1e-3)
        health = {name: value for name, value in theirs.items() if name.startswith("health/")}
        assert len(health) == 3 + 3 + 3
        for name, value in health.items():
            assert ours[name] == pytest.approx(value, abs=0.01), name  # one of 120 users' answers may change


def test_batches_cut_by_ray_data_are_those_of_the_files(prepared, in_process, tmp_path):
    weights, _ = trained(prepared, tmp_path, "cluster.workers=1", "training.source=ray_data")
    assert largest_difference(weights, in_process[0]) < TOLERANCE


@pytest.mark.parametrize("loss", ["full_softmax", "in_batch", "mixed"])
def test_other_losses_on_two_workers_are_those_of_one_process(prepared, tmp_path, loss):
    options = (f"training.loss={loss}", "training.epochs=1")
    one, _ = trained(prepared, tmp_path / "one", *options)
    two, _ = trained(prepared, tmp_path / "two", *options, "cluster.workers=2")
    assert largest_difference(one, two) < TOLERANCE


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_stopped_and_resumed_equals_uninterrupted_to_the_bit(prepared, in_process, tmp_path, stop_after):
    job = job_of(prepared, tmp_path)
    asked = []

    def stopping():
        asked.append(1)
        return len(asked) == stop_after

    ResumeFolder(job.out).open({"training": job.run.training_digest, "features": job.manifest.digest})
    train_loop(job, Rank(0, 1, "cpu", lambda line: None, stopping, lambda metrics, path: None))
    stopped_at = ResumeFolder(job.out).load()
    assert 0 < stopped_at.global_step < 48
    assert find_manifest(job.out / "checkpoint", "checkpoint") is None
    train(job.run, job.out)
    assert largest_difference(weights_of(tmp_path), in_process[0]) == 0.0
    assert (Folder(tmp_path) / "checkpoint").read_json("state.json")["samples"] == in_process[1]["samples"]


SCHEDULED = (
    "training.schedule=cosine",
    "training.warmup_steps=3",
    "model.history_dropout=0.3",
    "model.recency=gap",
    "model.latest_items=1",
    "model.next_items=2",
    "model.train_score=served",
)


@pytest.mark.parametrize("options", [("model.dropout=0.3",), SCHEDULED])
def test_dropout_and_schedule_resume_to_the_bit(prepared, tmp_path, options):
    options = (*options, "training.epochs=1")
    whole, _ = trained(prepared, tmp_path / "whole", *options)
    job = job_of(prepared, tmp_path / "cut", *options)
    ResumeFolder(job.out).open({"training": job.run.training_digest, "features": job.manifest.digest})
    train_loop(job, Rank(0, 1, "cpu", lambda line: None, lambda: True, lambda metrics, path: None))
    train(job.run, job.out)
    assert largest_difference(weights_of(tmp_path / "cut"), whole) == 0.0


def test_a_budget_per_user_is_the_same_draw_for_any_workers_sources_and_interruptions(prepared, tmp_path):
    budget = ("training.samples_per_user=4", "training.epochs=2")
    whole, state = trained(prepared, tmp_path / "whole", *budget)
    assert state["samples"] == 2 * (120 * 4 // 64) * 64  # 120 users with four samples each
    job = job_of(prepared, tmp_path / "cut", *budget)
    ResumeFolder(job.out).open({"training": job.run.training_digest, "features": job.manifest.digest})
    train_loop(job, Rank(0, 1, "cpu", lambda line: None, lambda: True, lambda metrics, path: None))
    train(job.run, job.out)
    assert largest_difference(weights_of(tmp_path / "cut"), whole) == 0.0
    others = ("cluster.workers=2", "training.source=ray_data")
    assert largest_difference(trained(prepared, tmp_path / "ray", *budget, *others)[0], whole) < TOLERANCE


def test_a_killed_worker_costs_no_more_than_the_steps_since_the_checkpoint(prepared, in_process, tmp_path):
    job = job_of(prepared, tmp_path, "cluster.workers=2", "training.epochs=3")
    killed = []

    def kill_one():
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not killed:
            steps = ResumeFolder(job.out)._steps()
            if steps and steps[-1] >= 4:
                for process in worker_pids():
                    os.kill(process, signal.SIGKILL)
                    killed.append(process)
                    return
            time.sleep(0.02)

    thread = threading.Thread(target=kill_one)
    thread.start()
    train(job.run, job.out)
    thread.join()
    assert killed, "no worker was there to be killed"
    assert largest_difference(weights_of(tmp_path), in_process[0]) < TOLERANCE


def worker_pids():
    """Return the processes of Ray Train workers, found as the operating system lists them."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/cmdline", "rb") as file:
                    if b"RayTrainWorker" in file.read():
                        found.append(int(name))
            except OSError:
                continue  # it ended meanwhile
    return found


def test_a_second_call_trains_nothing_and_another_config_trains_anew(prepared, tmp_path):
    job = job_of(prepared, tmp_path, "training.epochs=1")
    train(job.run, job.out)
    first = read_manifest(job.out / "checkpoint", "checkpoint", "train").digest
    train(job.run, job.out)
    assert read_manifest(job.out / "checkpoint", "checkpoint", "train").digest == first
    other = job_of(prepared, tmp_path, "training.epochs=1", "training.seed=9")
    train(other.run, other.out)
    assert read_manifest(job.out / "checkpoint", "checkpoint", "train").digest != first


def lines_of(prepared, tmp_path, *overrides):
    """Return the progress lines of a run in this process."""
    job, lines = job_of(prepared, tmp_path, *overrides), []
    ResumeFolder(job.out).open({"training": job.run.training_digest, "features": job.manifest.digest})
    train_loop(job, Rank(0, 1, "cpu", lines.append, lambda: False, lambda metrics, path: None))
    return lines, ResumeFolder(job.out).load().curve


def test_collapsed_interests_ring_the_alarm_once(prepared, tmp_path):
    """All logits of the routing start equal and training is too slow to part them."""
    equal = ("model.routing_sigma=1e-12", "training.learning_rate=1e-9", "training.patience=0")
    lines, curve = lines_of(prepared, tmp_path, *equal)
    assert len(curve) == 3
    assert all(entry["health/pairwise_cosine"] > 0.999 for entry in curve)
    assert all(entry["health/wins_1"] == 1.0 for entry in curve)
    heard = [line for line in lines if ALARM in line]
    assert [line["epoch"] for line in heard] == [1]
    assert "point the same way" in heard[0][ALARM]
    assert "model.routing_regularisation" in heard[0][ALARM]
    assert "interest 1 finds the first item of 100%" in heard[0][ALARM]


def test_the_alarm_is_a_warning_and_healthy_interests_are_not_alarmed_about(
    prepared, tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(logging.getLogger("raysys"), "propagate", True)
    with caplog.at_level(logging.INFO, logger="raysys"):
        train(job_of(prepared, tmp_path / "one", "training.epochs=1", "model.routing_sigma=1e-12",
                     "training.learning_rate=1e-9").run, Folder(tmp_path / "one"))  # fmt: skip
        warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1
    assert warnings[0].startswith(ALARM)
    lines, curve = lines_of(prepared, tmp_path / "two", "training.epochs=2")
    assert not [line for line in lines if ALARM in line or "no longer" in str(line.get("interests"))]
    assert curve[-1]["health/pairwise_cosine"] < 0.95
    shown = [line for line in lines if "best" in line][-1]
    assert shown["interests"] == 3
    assert shown["cosine"] == round(curve[-1]["health/pairwise_cosine"], 2)
    assert not [name for name in shown if name.startswith("health/")]


def test_early_stopping_keeps_the_best_epoch(prepared, tmp_path):
    _, state = trained(
        prepared, tmp_path, "training.epochs=30", "training.patience=2", "training.learning_rate=0.05"
    )
    values = [entry["valid/ndcg@10"] for entry in state["curve"]]
    assert state["stopped"] == "patience"
    assert len(values) == state["best_epoch"] + 1 + 2
    assert values[state["best_epoch"]] == max(values)


def test_max_minutes_ends_the_run_with_a_checkpoint(prepared, tmp_path):
    _, state = trained(
        prepared, tmp_path, "training.epochs=1000", "training.max_minutes=0.01", "training.patience=0"
    )
    assert state["stopped"] == "max_minutes"
    assert len(state["curve"]) < 1000


@pytest.mark.parametrize("workers", [0, 2])
def test_a_loss_that_is_not_finite_stops_the_run_with_step_and_rank(prepared, tmp_path, workers):
    job = job_of(prepared, tmp_path, "training.learning_rate=1e30", f"cluster.workers={workers}")
    with pytest.raises(TrainingError, match=r"step \d+, rank \d: the loss is"):
        train(job.run, job.out)
    assert not (tmp_path / "checkpoint").exists()


def test_a_checkpoint_of_another_vocabulary_is_refused(prepared, tmp_path):
    job = job_of(prepared, tmp_path, "training.epochs=1")
    train(job.run, job.out)
    other = Folder(tmp_path / "other")
    info = {**job.manifest.info, "vocabularies": {"item": "0123456789abcdef"}}
    Manifest(kind="features", config_digest="", parents={}, info=info).write(other)
    with pytest.raises(ManifestError, match="item vocabulary"):
        load_trained(job.out / "checkpoint", other)


def test_a_model_loads_as_it_was_trained(prepared, tmp_path):
    job = job_of(prepared, tmp_path, "training.epochs=1")
    train(job.run, job.out)
    loaded = load_trained(job.out / "checkpoint", job.out / "features")
    assert dataclasses.asdict(loaded.run.model) == dataclasses.asdict(job.run.model)
    batch = {"history": torch.tensor([[0, 0, 2, 5, 9]])}
    first, second = (loaded.model.encode_users(batch)[0] for _ in range(2))
    assert torch.equal(first, second)


def test_tensorboard_has_the_curve(prepared, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    _, state = trained(prepared, tmp_path, "training.epochs=2")
    events = EventAccumulator(str(tmp_path / "logs"))
    events.Reload()
    for name in ("valid/ndcg@10", "health/pairwise_cosine", "health/wins_3", "health/recall_with_1"):
        shown = [point.value for point in events.Scalars(name)]
        assert shown == pytest.approx([entry[name] for entry in state["curve"]], abs=1e-6)
