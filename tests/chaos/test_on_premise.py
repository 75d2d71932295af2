"""docs/cluster-on-premise.yaml brought up for real: two hosts, one command, and work on both."""

import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from tests.reference.hosts import Hosts, ask, refusal

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.chaos  # minutes, and it wants a machine to itself
RAY = str(Path(sys.executable).parent / "ray")
WORK = """
import socket, time, ray
ray.init(address="auto", log_to_driver=False)
begin = time.monotonic()
while sum(node["Alive"] for node in ray.nodes()) < 2:
    assert time.monotonic() - begin < 240, "the second host does not come"
    time.sleep(0.2)
here = ray.remote(num_cpus=1, scheduling_strategy="SPREAD")(lambda: socket.gethostname())
found = set()
while found != {"host0", "host1"}:
    assert time.monotonic() - begin < 120, found
    found |= set(ray.get([here.remote() for _ in range(4)]))
print("work on", *sorted(found))
"""


@pytest.mark.skipif(bool(refusal()), reason=refusal())
@pytest.mark.timeout(600)
def test_the_launcher_brings_up_two_hosts_and_takes_them_down():
    with tempfile.TemporaryDirectory(prefix="raysys") as folder, Hosts(folder, 2) as hosts:
        config = yaml.safe_load((ROOT / "docs" / "cluster-on-premise.yaml").read_text())
        head, worker = hosts.addresses
        config["cluster_name"] = Path(folder).name
        config["provider"] |= {"head_ip": head, "worker_ips": [worker]}
        config["min_workers"] = config["max_workers"] = 1
        (Path(folder) / "key").write_text("")
        config["auth"]["ssh_private_key"] = f"{folder}/key"
        # the environment is the one that runs this test: nothing is installed here
        config["setup_commands"] = [f"ln -sfn {Path(sys.executable).parents[1]} ~/raysys/.venv"]
        for kind in ("head", "worker"):
            start = config[f"{kind}_start_ray_commands"]
            start[-1] += " --num-cpus=1 --object-store-memory=100000000 --disable-usage-stats"
        file = Path(folder) / "cluster.yaml"
        file.write_text(yaml.safe_dump(config))
        (Path(folder) / "work.py").write_text(WORK)

        def ray(*arguments):
            return subprocess.run(
                [RAY, *arguments],
                cwd=ROOT,
                env=hosts.environment(),
                capture_output=True,
                text=True,
                timeout=300,
            )

        up = ray("up", "--yes", "--no-config-cache", str(file))
        assert up.returncode == 0, up.stdout + up.stderr
        work = ray("exec", "--no-config-cache", str(file), f"~/raysys/.venv/bin/python {folder}/work.py")
        _, log = ask(head, "tail -n 60 /tmp/ray/session_latest/logs/monitor*")
        assert "work on host0 host1" in work.stdout, work.stdout + work.stderr + log.decode()
        down = ray("down", "--yes", str(file))
        assert down.returncode == 0, down.stdout + down.stderr
        for left in Path("/tmp/ray").glob(f"cluster-{config['cluster_name']}.*"):  # the launcher's own notes
            left.unlink()
