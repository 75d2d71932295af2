"""Ray clusters on this machine: nodes as processes of their own, on ports of their own, and all of them gone
at the end.

`ray stop` is never called: it would stop the clusters of others too.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.reference.object_store import free_port

ROOT = Path(__file__).resolve().parents[2]
RAY = str(Path(sys.executable).parent / "ray")
STORE_BYTES = 150 * 2**20


def environment():
    """Return what nodes and commands run with: `python` is this one, and no cluster of others is found."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("RAY_ADDRESS", "PYTEST_CURRENT_TEST")
    }
    return kept | {
        "PATH": f"{Path(sys.executable).parent}:{kept.get('PATH', '')}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "180",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_JOB_STOP_WAIT_TIME_S": "90",  # what a driver may take to write its checkpoint; Ray's own is 3
        "PYTHONUNBUFFERED": "1",
    }


class Cluster:
    """A head and worker nodes on one machine; `with` ends every process of it.

    Args:
        folder: for logs of the nodes; its path must be short, because sockets lie below it.
        cpus: of the head.
        resources: of the head, beside its CPUs.
        labels: of the head.
    """

    def __init__(self, folder, cpus=2, resources=None, labels=None):
        self.folder, self.nodes = Path(folder), []
        self.workers = {}  # id -> its process
        self.port, self.dashboard_port = free_port(), free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.dashboard = f"http://127.0.0.1:{self.dashboard_port}"
        head = [
            "--head",
            f"--port={self.port}",
            f"--dashboard-port={self.dashboard_port}",
            "--include-dashboard=true",
        ]
        head += [f"--ray-client-server-port={free_port()}"]
        try:
            self.start(head, cpus, resources, labels)
            self.wait_for(lambda: self.jobs() is not None and self.alive())
        except BaseException:
            self.close()
            raise

    def add(self, cpus=2, resources=None, labels=None):
        """Start a worker node, wait for it, and return its id."""
        before = self.alive()
        node = self.start([f"--address={self.address}"], cpus, resources, labels)
        self.wait_for(lambda: self.alive() - before)
        (node_id,) = self.alive() - before
        self.workers[node_id] = node
        return node_id

    def start(self, arguments, cpus, resources, labels):
        more = [
            f"--num-cpus={cpus}",
            f"--object-store-memory={STORE_BYTES}",
            "--disable-usage-stats",
            "--block",
        ]
        # a folder for each, as on machines of their own: each node unpacks a job's package anew
        more += [f"--temp-dir={self.folder}/{len(self.nodes)}"]
        more += [f"--dashboard-agent-listen-port={free_port()}", "--node-ip-address=127.0.0.1"]
        more += [f"--resources={json.dumps(resources or {})}"]
        more += (
            ["--labels", ",".join(f"{name}={value}" for name, value in (labels or {}).items())]
            if labels
            else []
        )
        with (self.folder / f"node-{len(self.nodes)}.log").open("w") as log:
            node = subprocess.Popen(
                [RAY, "start", *arguments, *more],
                stdout=log,
                stderr=log,
                start_new_session=True,
                env=environment(),
                cwd=self.folder,
            )
        self.nodes.append(node)
        return node

    def ray(self, *arguments, seconds=240, check=True):
        """Run a command of Ray's command line from the repository's root, as a user does; return its end."""
        done = subprocess.run(
            [RAY, *arguments],
            env=environment() | {"RAY_API_SERVER_ADDRESS": self.dashboard, "RAY_ADDRESS": self.dashboard},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=seconds,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def submit(self, *arguments, seconds=600, check=True):
        """Submit a job with the repository as its package, as the README does."""
        return self.ray("job", "submit", "--working-dir", ".", *arguments, seconds=seconds, check=check)

    def jobs(self):
        """Return job id -> its record, or None where nobody answers yet."""
        try:
            with urllib.request.urlopen(f"{self.dashboard}/api/jobs/", timeout=10) as answer:
                return {job["submission_id"]: job for job in json.load(answer) if job["submission_id"]}
        except (OSError, ValueError):
            return None

    def log(self, name):
        """Return what a job has said; quicker than Ray's command, which `ray` runs."""
        with urllib.request.urlopen(f"{self.dashboard}/api/jobs/{name}/logs", timeout=60) as answer:
            return json.load(answer)["logs"]

    def listed(self, what):
        """Return what Ray's state interface knows of all "nodes", "actors" or "tasks" that ever were."""
        url = f"{self.dashboard}/api/v0/{what}?limit=10000&detail=1"
        with urllib.request.urlopen(url, timeout=60) as answer:
            return json.load(answer)["data"]["result"]["result"]

    def alive(self):
        """Return the ids of the nodes that are up."""
        return {node["node_id"] for node in self.listed("nodes") if node["state"] == "ALIVE"}

    def wait_for(self, condition, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self.told()
            assert all(node.poll() is None for node in self.nodes), self.told()
            time.sleep(0.2)

    def told(self):
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("node-*.log")))

    def lose(self, node_id):
        """End a worker node and everything on it at once, as a machine that fails does."""
        self.kill(self.workers.pop(node_id))

    def kill(self, node):
        self.nodes.remove(node)
        for number in [*descendants(node.pid), node.pid]:
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        node.wait(30)

    def close(self):
        for node in reversed(self.nodes[:]):
            self.kill(node)
        for number in self.leftovers():
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)

    def leftovers(self):
        """Return processes of this cluster, which are told by its folder in their command or environment."""
        found = []
        for name in os.listdir("/proc"):
            if name.isdigit() and int(name) != os.getpid():
                with suppress(OSError):
                    text = (Path("/proc") / name / "cmdline").read_bytes()
                    text += (Path("/proc") / name / "environ").read_bytes()
                    if f"{self.folder}/".encode() in text:
                        found.append(int(name))
        return found

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def descendants(number):
    """Return the processes below one, the nearest first."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with suppress(OSError):
                text = (Path("/proc") / name / "stat").read_text()
                parents.setdefault(int(text.rpartition(")")[2].split()[1]), []).append(int(name))
    found, wave = [], [number]
    while wave:
        wave = [child for parent in wave for child in parents.get(parent, [])]
        found += wave
    return found
