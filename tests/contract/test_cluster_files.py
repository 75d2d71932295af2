"""cluster.yaml is what Ray's launcher accepts, the KubeRay job has its shape, and both pin what is tested."""

import re
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from jobs import pipeline
from raysys.distributed.job import flags
from raysys.run import load_run

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
ON_PREMISE = yaml.safe_load((ROOT / "docs" / "cluster-on-premise.yaml").read_text())
RAY_JOB = yaml.safe_load((ROOT / "docs" / "kuberay.yaml").read_text())
RAY = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]


@pytest.mark.parametrize("config", [CLUSTER, ON_PREMISE], ids=["aws", "on-premise"])
def test_the_launcher_accepts_the_file_and_would_refuse_a_slip(config):
    validate_config(prepare_config(config))
    with pytest.raises(jsonschema.ValidationError):
        validate_config(prepare_config(config | {"setup_command": []}))


def test_the_limits_are_those_of_the_kinds_of_nodes():
    kinds = CLUSTER["available_node_types"]
    assert CLUSTER["head_node_type"] in kinds
    workers = [kind for name, kind in kinds.items() if name != "head"]
    assert CLUSTER["max_workers"] == sum(kind["max_workers"] for kind in workers)
    assert all(kind["min_workers"] <= kind["max_workers"] for kind in workers)
    assert "constraints.txt" in CLUSTER["setup_commands"][0]


def test_the_kuberay_job_has_the_shape_of_the_cluster():
    cluster = RAY_JOB["spec"]["rayClusterSpec"]
    assert (RAY_JOB["kind"], cluster["enableInTreeAutoscaling"]) == ("RayJob", True)
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    kinds = CLUSTER["available_node_types"]
    assert {"head", *groups} == set(kinds)
    for name, group in groups.items():
        assert group["minReplicas"] == kinds[name]["min_workers"]
        assert group["maxReplicas"] == kinds[name]["max_workers"]
        assert group["labels"] == kinds[name]["labels"]
        (container,) = group["template"]["spec"]["containers"]
        assert ("nvidia.com/gpu" in container["resources"]["limits"]) == (name == "train")
    assert cluster["headGroupSpec"]["labels"] == kinds["head"]["labels"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert groups["train"]["rayStartParams"]["num-cpus"] == "0"
    assert kinds["head"]["resources"]["CPU"] == kinds["train"]["resources"]["CPU"] == 0
    assert cluster["autoscalerOptions"]["idleTimeoutSeconds"] == 60 * CLUSTER["idle_timeout_minutes"]


def test_ray_is_the_pinned_release_everywhere():
    images = [CLUSTER["docker"]["image"], CLUSTER["available_node_types"]["train"]["docker"]["worker_image"]]
    assert all(f"ray:{RAY}-" in image for image in images)
    assert RAY_JOB["spec"]["rayClusterSpec"]["rayVersion"] == RAY


def test_the_command_of_the_kuberay_job_is_one_that_the_job_understands():
    words = shlex.split(RAY_JOB["spec"]["entrypoint"])
    assert words[:2] == ["python", f"jobs/{Path(pipeline.__file__).name}"]
    asked = flags("pipeline", "").parse_args(words[2:])
    run = load_run(str(ROOT / "jobs" / "runs" / "mind_completejourney_q1.toml"), asked.set)
    labels = [kind["labels"] for kind in CLUSTER["available_node_types"].values()]
    assert run.cluster.use_gpu
    assert run.cluster.data_labels in labels
    assert run.cluster.training_labels in labels
    assert run.cluster.workers <= CLUSTER["available_node_types"]["train"]["max_workers"]
