"""A real cluster of three nodes on this machine, used as the README says: by `ray job submit`."""

import tempfile
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from jobs import pipeline
from raysys.distributed.checkpoints import ResumeFolder
from raysys.storage import Folder
from tests.reference.clusters import Cluster
from tests.reference.logs import planted_log, run_file
from tests.reference.readme import SUBMIT, words

TRAINING = "epochs = 2\nbatch_size = 64\nlearning_rate = 0.01\ncheckpoint_every_steps = 4\nseed = 3"
LONG = (
    "epochs = 100000\nbatch_size = 64\nlearning_rate = 0.001\ncheckpoint_every_steps = 1000000\npatience = 0"
)
PLACED = (
    "workers = 2\nresources_per_worker = {CPU = 0, accelerator = 1}\n"
    'training_labels = {role = "train"}\ndata_labels = {role = "data"}'
)
SPACE = """base = "run.toml"
[search]
metric = "valid/ndcg@10"
algorithm = "random"
scheduler = "none"
trials = 3
max_epochs = 1
repeat_best = 0
[space]
"training.learning_rate" = { type = "float", min = 0.003, max = 0.03 }
"""
MIB = 2**20

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def cluster():
    """Two nodes for data, one of them the head, and one for training; made-up accelerators on both kinds."""
    with (
        tempfile.TemporaryDirectory(prefix="ray") as folder,
        Cluster(folder, cpus=1, labels={"role": "data"}) as cluster,
    ):
        cluster.add(cpus=1, labels={"role": "data"}, resources={"accelerator": 2})
        cluster.add(cpus=0, labels={"role": "train"}, resources={"accelerator": 2})
        yield cluster


def nodes_by_role(cluster):
    roles = defaultdict(set)
    for node in cluster.listed("nodes"):
        roles[node["labels"].get("role")].add(node["node_id"])
    return roles


@pytest.fixture(scope="module")
def submitted(cluster, tmp_path_factory):
    """The pipeline as a job on the cluster: README's command, then what this machine has instead."""
    folder = planted_log(tmp_path_factory.mktemp("cluster"))
    path = run_file(folder, training=TRAINING, cluster=PLACED)
    here = ["--run", str(path), "--out", str(folder / "out"), "--set", "cluster.use_gpu=false"]
    done = cluster.ray(*words(SUBMIT, *here), seconds=600)
    return folder, path, done


def test_a_submitted_pipeline_ends_well_and_its_log_reads_like_that_of_a_laptop(cluster, submitted):
    folder, _, done = submitted
    assert done.returncode == 0, done.stdout + done.stderr
    (job,) = cluster.jobs().values()
    assert (job["status"], job["driver_exit_code"]) == ("SUCCEEDED", 0)
    log = cluster.ray("job", "logs", job["submission_id"]).stdout
    lines = [line for line in log.splitlines() if line]
    own = [line for line in lines if line[2:3] == ":" and line[8:11] == " I "]
    # all but the line of the entrypoint and what Ray says before and after
    assert len(lines) - len(own) <= 8, log
    # that is Ray's word on nodes of one CPU, which real ones are not
    odd = [line for line in lines if "(raylet)" in line and "startup concurrency" not in line]
    assert not odd, log
    assert "Traceback" not in log
    for stage in ("prepare", "train", "export", "index", "evaluate", "report"):
        assert any(f" I {stage} " in line for line in own), stage
    assert f"report={folder}/out/report.html" in own[-1]


def test_the_package_that_is_uploaded_is_the_code_and_no_more(cluster, submitted):
    packages = list(cluster.folder.glob("0/session_*/runtime_resources/working_dir_files/_ray_pkg_*"))
    folders = [path for path in packages if path.is_dir()]
    assert folders
    files = [path.relative_to(folders[0]) for path in folders[0].rglob("*") if path.is_file()]
    assert Path("jobs/pipeline.py") in files
    assert Path("raysys/run.py") in files
    assert not any(
        part in (".git", ".venv", "runs", "__pycache__") for path in files for part in path.parts[:-1][:1]
    )
    assert sum((folders[0] / path).stat().st_size for path in files if path.suffix != ".pyc") < 8 * MIB


def test_three_nodes_give_the_vectors_and_metrics_of_one(submitted, tmp_path, ray_cluster):
    folder, path, _ = submitted
    alone = ["--set", "cluster.resources_per_worker={}", "--set", "cluster.training_labels={}"]
    alone += ["--set", "cluster.data_labels={}", "--set", "cluster.workers=0"]
    assert pipeline.main(["--run", str(path), "--out", str(tmp_path / "out"), *alone]) == 0
    one, three = (Folder(each / "out") for each in (tmp_path, folder))
    data = [each.read_json("features/manifest.json")["info"] for each in (one, three)]
    for key in ("data_digest", "vocabularies", "part_events", "samples"):
        assert data[0][key] == data[1][key]
    vectors = [
        np.array(pq.read_table(each.path + "/vectors/items.parquet").column("vector").to_pylist())
        for each in (one, three)
    ]
    # one worker and two round their sums in another order; vectors are of size 0.1 to 1
    np.testing.assert_allclose(vectors[0], vectors[1], atol=2e-5, rtol=0)
    found = [each.read_json("evaluation/metrics.json")["metrics"] for each in (one, three)]
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        # two items whose scores are equal up to rounding may change places in the list of one of 120 users
        assert found[1][name] == pytest.approx(value, abs=0.01), name


def test_data_work_is_on_data_nodes_training_on_training_nodes_and_shards_apart(cluster, submitted):
    roles = nodes_by_role(cluster)
    assert (len(roles["data"]), len(roles["train"])) == (2, 1)
    actors = cluster.listed("actors")
    workers = [actor for actor in actors if actor["class_name"] == "RayTrainWorker"]
    assert len(workers) == 2
    assert {actor["node_id"] for actor in workers} == roles["train"]
    shards = [actor for actor in actors if actor["class_name"] == "ShardActor"]
    assert len(shards) == 2
    assert {actor["node_id"] for actor in shards} == roles["data"]
    tasks = [task for task in cluster.listed("tasks") if task["type"] == "NORMAL_TASK"]
    for name in ("read_events", "write_sequences", "build_shard", "measure_part"):
        assert any(name in task["name"] for task in tasks), name
    elsewhere = {task["name"] for task in tasks if task["node_id"] not in roles["data"]}
    assert not elsewhere  # reading, the shuffle, sequences, shards and evaluation


def test_trials_of_one_worker_run_on_training_nodes_and_only_these_are_counted(cluster, submitted):
    folder, _, _ = submitted
    space = folder / "space.toml"
    space.write_text(SPACE)
    command = ["python", "jobs/tune.py", "--space", str(space), "--out", str(folder / "out")]
    done = cluster.submit("--", *command, "--set", "cluster.workers=1")
    assert "features=unchanged" in done.stdout
    assert "at_once=2 " in done.stdout  # of the four accelerators
    actors = cluster.listed("actors")
    trials = [actor for actor in actors if actor["class_name"] == "TrialTraining"]
    assert len(trials) >= 2, {actor["class_name"] for actor in actors}
    assert {trial["node_id"] for trial in trials} == nodes_by_role(cluster)["train"]


def test_the_job_record_has_the_exit_code_of_a_mistake(cluster, submitted):
    done = cluster.submit("--", "python", "jobs/train.py", "--run", "jobs/runs/nosuch.toml", check=False)
    assert done.returncode == 1  # Ray's command says no more than "failed"
    (job,) = [job for job in cluster.jobs().values() if "nosuch" in job["entrypoint"]]
    assert (job["status"], job["driver_exit_code"]) == ("FAILED", 2)
    assert "error: --run jobs/runs/nosuch.toml: no such file" in done.stdout


def test_a_stopped_job_keeps_its_checkpoint_and_the_next_submit_goes_on(cluster, submitted):
    folder, _, _ = submitted
    path = run_file(folder, training=LONG, cluster=PLACED)
    out = folder / "long"
    command = ["--no-wait", "--", "python", "jobs/pipeline.py", "--run", str(path), "--out", str(out)]

    def wait_for(name, words):
        cluster.wait_for(lambda: words in cluster.log(name), seconds=300)

    cluster.submit("--submission-id", "first", *command)
    wait_for("first", "samples_per_s=")
    cluster.ray("job", "stop", "first")
    assert cluster.jobs()["first"]["status"] == "STOPPED"
    log = cluster.ray("job", "logs", "first").stdout
    assert "run the same command again" in log
    assert "stopped=signal" in log  # by the workers: the step it was at, not the end of an epoch
    assert "Traceback" not in log
    steps = ResumeFolder(Folder(out)).load().global_step
    assert steps > 0
    cluster.wait_for(lambda: idle(cluster), seconds=60)

    cluster.submit("--submission-id", "second", *command)
    wait_for("second", "resumed_at_epoch")
    assert "features=unchanged" in cluster.log("second")
    wait_for("second", "samples_per_s=")
    cluster.ray("job", "stop", "second")
    assert ResumeFolder(Folder(out)).load().global_step > steps


def idle(cluster):
    """Return whether no training worker is left."""
    time.sleep(0.5)
    actors = [actor for actor in cluster.listed("actors") if actor["class_name"] == "RayTrainWorker"]
    return all(actor["state"] == "DEAD" for actor in actors)
