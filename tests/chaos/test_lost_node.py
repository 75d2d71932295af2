"""A node that is lost while it trains, and one while its shard serves: the result is the undisturbed one."""

import subprocess
import sys
import tempfile

import pytest

from raysys.distributed.checkpoints import ResumeFolder, from_bytes
from raysys.storage import Folder
from tests.reference.clusters import ROOT, Cluster, environment
from tests.reference.logs import planted_log, run_file

TRAINING = (
    "epochs = 60\nbatch_size = 64\nlearning_rate = 0.005\ncheckpoint_every_steps = 5\npatience = 0\nseed = 3"
)
SERVE = """
import sys, time
from pathlib import Path
import numpy as np
from raysys.distributed.cluster import connect
from raysys.distributed.index import open_index
from raysys.run import ClusterConfig
from raysys.storage import Folder

address, out, signal = sys.argv[1:]
connect(address, ClusterConfig())
index, manifest = open_index(Folder(out) / "index", 1)
queries = np.random.default_rng(0).standard_normal((50, manifest.info["dim"])).astype(np.float32)
before = index.search(queries, 10)
print("serving", flush=True)
while not Path(signal).exists():
    time.sleep(0.1)
for _ in range(3):
    after = index.search(queries, 10)
    assert np.array_equal(before.item_idx, after.item_idx)
    assert np.array_equal(before.score, after.score)
print("equal", flush=True)
index.close()
"""

pytestmark = pytest.mark.chaos


@pytest.fixture
def cluster():
    """A head for drivers only, and two nodes, each of which has room for all."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder, Cluster(folder, cpus=0) as cluster:
        for _ in range(2):
            cluster.add(cpus=2)
        yield cluster


def homes(cluster, name):
    """Return the ids of the nodes where actors of a class are alive."""
    actors = cluster.listed("actors")
    return {actor["node_id"] for actor in actors if actor["class_name"] == name and actor["state"] == "ALIVE"}


def weights(out):
    return from_bytes((Folder(out) / "checkpoint").read_bytes("weights.pt"))


@pytest.mark.timeout(900)
def test_a_node_lost_in_training_and_one_lost_in_search_change_nothing(cluster, tmp_path):
    workers = "workers = 2\nresources_per_worker = {CPU = 1}"
    path = run_file(planted_log(tmp_path), training=TRAINING, cluster=workers)
    command = ["--", "python", "jobs/pipeline.py", "--run", str(path), "--out"]
    cluster.submit(*command, str(tmp_path / "whole"))

    cluster.submit("--no-wait", "--submission-id", "cut", *command, str(tmp_path / "cut"))
    resume = ResumeFolder(Folder(tmp_path / "cut"))
    cluster.wait_for(lambda: resume.load().global_step >= 20, seconds=240)
    lost = homes(cluster, "RayTrainWorker")
    assert lost
    cluster.lose(min(lost))
    cluster.wait_for(lambda: cluster.jobs()["cut"]["status"] not in ("PENDING", "RUNNING"), seconds=400)
    log = cluster.ray("job", "logs", "cut").stdout
    assert cluster.jobs()["cut"]["status"] == "SUCCEEDED", log
    assert "going on from the last checkpoint" in log
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "cut")
    # the same sums over the same two ranks, on another node
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 2e-5
    found = [
        Folder(tmp_path / name).read_json("evaluation/metrics.json")["metrics"] for name in ("whole", "cut")
    ]
    for name, value in found[0].items():
        assert found[1][name] == pytest.approx(value, abs=0.01), name  # one of 120 users' answers may change

    cluster.add(cpus=2)
    signal, told = tmp_path / "signal", tmp_path / "told"
    with told.open("w") as log:
        search = subprocess.Popen(
            [sys.executable, "-c", SERVE, cluster.address, str(tmp_path / "whole"), str(signal)],
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env=environment() | {"PYTHONPATH": str(ROOT)},
        )
        try:
            cluster.wait_for(lambda: "serving" in told.read_text(), seconds=120)
            homes_of_shards = homes(cluster, "ShardActor")
            assert len(homes_of_shards) == 2, "shards spread over the nodes"
            cluster.lose(min(homes_of_shards))
            signal.touch()
            assert search.wait(300) == 0, told.read_text()
            assert "equal" in told.read_text()
        finally:
            search.kill()
            search.wait(30)
