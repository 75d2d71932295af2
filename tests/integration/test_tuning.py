"""Searches on a real local cluster: what they find, leave, survive, and give back."""

import json
import time

import pyarrow.parquet as pq
import pytest
import ray
import torch
from ray.util import placement_group_table

from jobs import pipeline, tune
from raysys.config import to_literal
from raysys.distributed.checkpoints import ResumeFolder
from raysys.run import load_run
from raysys.storage import Folder
from raysys.tuning.trials import read_trials
from tests.reference.logs import planted_log, run_file

METRIC = "valid/ndcg@10"
SPACE = """base = "run.toml"
[search]
metric = "valid/ndcg@10"
{search}
[space]
"model.num_interests" = {{ type = "int", min = 1, max = 4 }}
"model.train_score" = {{ type = "choice", values = ["served", "label_aware"] }}
"model.temperature" = {{ type = "choice", values = [1.0, 2.0], when = {{"model.train_score" = ["served"]}} }}
"training.learning_rate" = {{ type = "choice", values = [0.003, 0.01, 0.03, {rate}] }}
"""
RANDOM = 'algorithm = "random"\nscheduler = "none"\ntrials = 3\nmax_epochs = 2\nrepeat_best = 0'
ASHA = "trials = 4\nmax_epochs = 4\nreduction_factor = 2.0\nrepeat_best = 0"


def space_file(folder, search, rate=0.02, **replaced):
    planted_log(folder)
    run_file(folder, **{"cluster": "workers = 1\nobject_store_mb = 150", **replaced})
    path = folder / "space.toml"
    path.write_text(SPACE.format(search=search, rate=rate))
    return path


def search(path, out, *more):
    return tune.main(["--space", str(path), "--out", str(out), *more])


def trials_of(out):
    return read_trials(Folder(out / "tune"))


def free_resources():
    """Return whether every CPU is free and no placement group is left; waits for what is on its way out."""
    for _ in range(100):
        total, free = ray.cluster_resources(), ray.available_resources()
        groups = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
        if free.get("CPU") == total["CPU"] and not groups:
            return True
        time.sleep(0.2)
    return False


@pytest.fixture(scope="module")
def finished(tmp_path_factory, ray_cluster):
    """A finished search of three random trials without early stopping."""
    folder = tmp_path_factory.mktemp("tune")
    path = space_file(folder, RANDOM)
    assert search(path, folder / "out") == 0
    return path, folder / "out"


def test_the_untuned_run_is_the_first_trial_and_every_trial_has_its_files(finished):
    path, out = finished
    trials = trials_of(out)
    assert [trial.number for trial in trials] == [0, 1, 2]
    assert {trial.status for trial in trials} == {"finished"}
    base = load_run(str(path.parent / "run.toml"))
    untuned = trials[0].values
    assert untuned["model.num_interests"] == base.model.num_interests
    assert untuned["training.learning_rate"] == base.training.learning_rate
    assert len({json.dumps(trial.literals) for trial in trials}) == 3
    for trial in trials:
        folder = out / "tune" / "trials" / f"{trial.number:04d}"
        assert (folder / "checkpoint" / "manifest.json").is_file()
        assert any((folder / "logs").iterdir())
        assert [entry["epoch"] for entry in trial.curve] == [1.0, 2.0]
    assert not (out / "tune" / ".ray").exists()


def test_the_best_run_file_is_the_best_trial(finished):
    _, out = finished
    trials = trials_of(out)
    best = max(trials, key=lambda trial: trial.best(METRIC))
    run = load_run(str(out / "tune" / "best.toml"))
    for key, value in best.values.items():
        section, _, name = key.partition(".")
        assert to_literal(getattr(getattr(run, section), name)) == to_literal(value)
    rows = pq.read_table(out / "tune" / "trials.parquet").to_pylist()
    assert [row[METRIC] for row in rows] == [trial.best(METRIC) for trial in trials]


def test_trials_share_one_set_of_features(finished):
    _, out = finished
    assert (out / "features" / "manifest.json").is_file()
    assert not list((out / "tune" / "trials").glob("*/features"))


def test_a_search_that_was_cut_short_goes_on_as_if_it_had_not_been(finished, tmp_path):
    path, out = finished
    short = tmp_path / "out"
    assert search(path, short, "--set", "search.trials=1") == 0
    assert search(path, short) == 2  # a search is there
    assert search(path, short, "--resume") == 0
    whole, again = trials_of(out), trials_of(short)
    assert [trial.literals for trial in again] == [trial.literals for trial in whole]
    assert [[entry[METRIC] for entry in trial.curve] for trial in again] == [
        [entry[METRIC] for entry in trial.curve] for trial in whole
    ]


def test_time_that_is_up_leaves_trials_that_go_on_to_the_same_end(finished, tmp_path):
    path, out = finished
    short = tmp_path / "out"
    assert search(path, short, "--set", "search.max_minutes=0.0001") == 1  # no trial has a value yet
    assert {trial.status for trial in trials_of(short)} == {"running"}
    assert search(path, short, "--resume", "--set", "search.max_minutes=10") == 0
    whole, again = trials_of(out), trials_of(short)
    assert [trial.best(METRIC) for trial in again] == [trial.best(METRIC) for trial in whole]


def test_a_search_for_small_values_ends_with_the_smallest(tmp_path, ray_cluster):
    metric = "valid/popularity_bias@10"
    text = ASHA.replace("trials = 4", "trials = 6\nstartup_trials = 2")
    path = space_file(tmp_path, text)
    path.write_text(path.read_text().replace(METRIC, metric))
    assert search(path, tmp_path / "out") == 0
    trials = trials_of(tmp_path / "out")
    smallest = min(entry[metric] for trial in trials for entry in trial.curve)
    assert f"for {metric}: {smallest:.4f}" in (tmp_path / "out" / "tune" / "best.toml").read_text()
    ended = [trial.best(metric) for trial in trials if trial.status == "stopped"]
    assert ended
    assert min(ended) >= smallest


COUNTING = """base = "run.toml"
[search]
metric = "valid/recall@10"
algorithm = "random"
trials = 4
[space]
"model.similarity" = { type = "choice", values = ["cosine", "tf_idf", "bm25"] }
"model.num_neighbours" = { type = "int", min = 1, max = 100 }
"model.decay" = { type = "float", min = 0.5, max = 1.0 }
"""


def test_a_counting_model_is_searched_by_the_metrics_that_its_evaluation_has(tmp_path, ray_cluster):
    path = space_file(tmp_path, RANDOM, model='name = "item_cf"', training="seed = 3")
    path.write_text(COUNTING)
    out = tmp_path / "out"
    assert search(path, out) == 0
    trials = trials_of(out)
    assert [trial.status for trial in trials] == ["finished"] * 4
    assert all(trial.epochs == 1 and trial.kind == "search" for trial in trials)
    best = max(trials, key=lambda trial: trial.best("valid/recall@10"))
    flags = ["--run", str(out / "tune" / "best.toml"), "--out", str(tmp_path / "best")]
    assert pipeline.main([*flags, "--set", "evaluation.part=valid", "--set", "evaluation.ks=[10]"]) == 0
    measured = json.loads((tmp_path / "best" / "evaluation" / "metrics.json").read_text())["metrics"]
    for name in ("recall@10", "hit_rate@10", "ndcg@10"):
        assert best.curve[0][f"valid/{name}"] == pytest.approx(measured[name], abs=1e-12)
    assert len({trial.best("valid/recall@10") for trial in trials}) > 1


PBT = """base = "run.toml"
[search]
metric = "valid/ndcg@10"
algorithm = "random"
scheduler = "pbt"
trials = 4
max_epochs = 3
exploit_epochs = 2
exploit_share = 0.5
repeat_best = 0
[space]
"training.learning_rate" = { type = "float", min = 1e-4, max = 0.05, scale = "log" }
"training.weight_decay" = { type = "float", min = 0.0, max = 0.1 }
"model.temperature" = { type = "choice", values = [0.5, 1.0, 2.0] }
"""


@pytest.fixture(scope="module")
def population(tmp_path_factory, ray_cluster):
    """A finished population of four trials in generations of two epochs and of one."""
    folder = tmp_path_factory.mktemp("pbt")
    path = space_file(folder, RANDOM)
    path.write_text(PBT)
    assert search(path, folder / "out") == 0
    return path, folder / "out"


def generations_of(out):
    return json.loads((out / "tune" / "population.json").read_text())["generations"]


def test_a_population_hands_weights_on_and_trains_to_the_end(population):
    _, out = population
    trials, generations = trials_of(out), generations_of(out)
    assert [trial.status for trial in trials] == ["finished"] * 4
    assert [(generation["epoch"], generation["made"]) for generation in generations] == [(2, True)]
    assert len(generations[0]["moves"]) == 2
    of, to = (trials[generations[0]["moves"][0][name]] for name in ("of", "number"))
    values = [[entry[METRIC] for entry in trial.curve] for trial in trials]
    assert all(len(curve) == 3 for curve in values)
    assert values[to.number][:2] == values[of.number][:2]  # the same weights up to here
    assert values[to.number][2] != values[of.number][2]
    assert to.literals == generations[0]["moves"][0]["literals"]
    for trial in trials:
        checkpoint = out / "tune" / "trials" / f"{trial.number:04d}" / "checkpoint"
        state = json.loads((checkpoint / "state.json").read_text())
        assert [entry[METRIC] for entry in state["curve"]] == values[trial.number]
        run = load_run(str(checkpoint / "run.toml"))
        assert run.training.weight_decay == trial.values["training.weight_decay"]
        optimizer = torch.load(checkpoint / "optimizer.pt", weights_only=True)
        assert optimizer["param_groups"][0]["weight_decay"] == trial.values["training.weight_decay"]


def test_a_population_that_was_cut_short_makes_the_same_moves(population, tmp_path, monkeypatch):
    path, out = population
    take, taken = ResumeFolder.take, []

    def fail_at_the_second(self, other, identity):
        taken.append(self)
        if len(taken) == 2:
            raise RuntimeError("the driver dies")
        take(self, other, identity)

    monkeypatch.setattr(ResumeFolder, "take", fail_at_the_second)
    assert search(path, tmp_path / "out") == 1
    assert [generation["made"] for generation in generations_of(tmp_path / "out")] == [False]
    assert search(path, tmp_path / "out", "--resume") == 0
    assert generations_of(tmp_path / "out") == generations_of(out)
    whole, again = trials_of(out), trials_of(tmp_path / "out")
    assert [trial.literals for trial in again] == [trial.literals for trial in whole]
    assert [[entry[METRIC] for entry in trial.curve] for trial in again] == [
        [entry[METRIC] for entry in trial.curve] for trial in whole
    ]


def test_a_key_that_makes_another_model_is_refused_before_anything_is_trained(tmp_path, ray_cluster, capsys):
    path = space_file(tmp_path, RANDOM)
    path.write_text(PBT + '"model.embedding_dim" = { type = "choice", values = [16, 32] }\n')
    assert search(path, tmp_path / "out") == 2
    assert "space.model.embedding_dim: under another value the model has other" in capsys.readouterr().err
    assert not (tmp_path / "out" / "tune" / "trials").exists()


def test_a_trial_that_cannot_be_trained_fails_alone(tmp_path, ray_cluster, caplog):
    path = space_file(tmp_path, RANDOM.replace("trials = 3", "trials = 5"), rate=1e30)
    assert search(path, tmp_path / "out") == 0
    trials = trials_of(tmp_path / "out")
    failed = [trial for trial in trials if trial.status == "failed"]
    assert failed
    assert len(failed) < len(trials)
    assert all(trial.values["training.learning_rate"] == 1e30 for trial in failed)
    assert all("loss" in trial.error for trial in failed)
    assert load_run(str(tmp_path / "out" / "tune" / "best.toml")).training.learning_rate < 1


def test_trials_of_two_workers_that_are_ended_early_give_everything_back(tmp_path, ray_cluster):
    """In Ray 2.60 a killed trial leaves the placement group of its trainer behind, and later trials wait."""
    path = space_file(tmp_path, ASHA, cluster="workers = 2\nobject_store_mb = 150")
    assert search(path, tmp_path / "out") == 0
    trials = trials_of(tmp_path / "out")
    assert len(trials) == 4
    assert {trial.status for trial in trials} == {"finished", "stopped"}
    assert not list((tmp_path / "out" / "tune" / "trials").glob("*/.checkpoint.resume"))
    assert free_resources()


def test_the_best_are_trained_again_under_the_same_other_seeds(tmp_path, ray_cluster):
    path = space_file(tmp_path, RANDOM.replace("repeat_best = 0", "repeat_best = 1\nrepeat_seeds = 2"))
    assert search(path, tmp_path / "out") == 0
    trials = trials_of(tmp_path / "out")
    repeats = [trial for trial in trials if trial.kind == "repeat"]
    best = max(trials[:3], key=lambda trial: trial.best(METRIC)).number
    assert {trial.of for trial in repeats} == {best, 0}
    seeds = {of: sorted(trial.seed for trial in repeats if trial.of == of) for of in {best, 0}}
    assert len(set(seeds[0])) == 2
    assert seeds[best] == seeds[0]
    assert free_resources()


def test_session_keys_are_prepared_once_for_each_value(tmp_path, ray_cluster):
    path = space_file(tmp_path, RANDOM)
    text = path.read_text() + '"session.gap_s" = { type = "choice", values = [600, 60] }\n'
    path.write_text(text)
    assert search(path, tmp_path / "out") == 0
    prepared = list((tmp_path / "out" / "tune" / "prepared").iterdir())
    assert len(prepared) == 1
    assert {trial.values["session.gap_s"] for trial in trials_of(tmp_path / "out")} == {60, 600}


def test_wrong_input_is_told_before_the_cluster_is_asked(tmp_path, capsys):
    path = space_file(tmp_path, RANDOM)
    path.write_text(path.read_text().replace("num_interests", "num_interest"))
    assert search(path, tmp_path / "out") == 2
    assert capsys.readouterr().err == (
        "error: model.num_interest: unknown key; did you mean model.num_interests?\n"
    )
    assert not (tmp_path / "out").exists()


def test_a_trial_that_the_cluster_has_no_room_for_is_an_error(tmp_path, ray_cluster, capsys):
    path = space_file(tmp_path, RANDOM, cluster="workers = 8\nobject_store_mb = 150")
    assert search(path, tmp_path / "out") == 2
    assert "cluster.workers: a trial needs 8 times 1 CPU" in capsys.readouterr().err
