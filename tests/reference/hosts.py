"""Hosts of their own on this machine: each has its network, processes, home and temporary folder.

Ray's launcher logs in to them by commands named `ssh` and `rsync` that stand before the real ones on the
path. They speak over the hosts' network to a small server on each, so that no ssh server is needed; what they
are asked to do is done as asked. As processes are apart, `ray stop` on a host finds none but the host's.
"""

import base64
import json
import os
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import suppress
from pathlib import Path

PORT = 2222
BRIDGE = f"rs{os.getpid() % 10**6}"
NETWORK = "10.213.7"
APART = ("unshare", "--net", "--pid", "--mount", "--uts", "--fork")


class Hosts:
    """`count` hosts with the addresses 10.213.7.1 and on, joined by a bridge; `with` takes them away.

    Raises:
        OSError: this user may not make hosts.
    """

    def __init__(self, folder, count):
        self.folder, self.servers = Path(folder), []
        self.addresses = [f"{NETWORK}.{number + 1}" for number in range(count)]
        self.commands = self.folder / "bin"
        self.commands.mkdir()
        for name in ("ssh", "rsync"):
            command = self.commands / name
            command.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {name} "$@"\n')
            command.chmod(0o755)
        try:
            run("ip", "link", "add", BRIDGE, "type", "bridge")
            run("ip", "addr", "add", f"{NETWORK}.254/24", "dev", BRIDGE)
            run("ip", "link", "set", BRIDGE, "up")
            for number in range(count):
                self._start(number)
        except BaseException:
            self.close()
            raise

    def _start(self, number):
        home = self.folder / f"home-{number}"
        home.mkdir()
        (home / ".profile").write_text(f'export PATH="{self.commands}:$PATH"\n')  # a login sets it anew
        Path("/tmp/ray").mkdir(exist_ok=True)
        script = (
            "mount -t tmpfs none /tmp/ray && mount -t tmpfs -o size=300m none /dev/shm && "
            f"hostname host{number} && while ! ip addr show eth0 >/dev/null 2>&1; do sleep 0.05; done && "
            f"ip link set lo up && ip addr add {self.addresses[number]}/24 dev eth0 && "
            f"ip link set eth0 up && ip route add default via {NETWORK}.254 && "
            f"{{ {sys.executable} {__file__} serve {self.addresses[number]} & wait; }}"
        )
        with (self.folder / f"host-{number}.log").open("w") as log:
            server = subprocess.Popen(
                [*APART, "--kill-child", "--mount-proc", "bash", "-c", script],
                stdout=log,
                stderr=log,
                env=self.environment() | {"HOME": str(home)},
                cwd=home,
                start_new_session=True,
            )
        self.servers.append(server)
        deadline = time.monotonic() + 30
        while not (child := children(server.pid)):
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)
        wire = f"{BRIDGE}v{number}"
        run("ip", "link", "add", wire, "type", "veth", "peer", "name", "eth0", "netns", str(child[0]))
        run("ip", "link", "set", wire, "master", BRIDGE, "up")
        while True:
            with suppress(OSError):
                socket.create_connection((self.addresses[number], PORT), 1).close()
                return
            assert time.monotonic() < deadline, self.told()
            assert server.poll() is None, self.told()
            time.sleep(0.05)

    def environment(self):
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST"))}
        return kept | {
            "PATH": f"{self.commands}:{kept['PATH']}",
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
        }

    def told(self):
        return "\n".join(path.read_text() for path in sorted(self.folder.glob("host-*.log")))

    def close(self):
        for server in self.servers:
            for number in [*children(server.pid), server.pid]:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)  # the first process of a host takes all others with it
            server.wait(30)
        wires = [f"{BRIDGE}v{number}" for number in range(len(self.servers))]
        for link in (*wires, BRIDGE):
            subprocess.run(["ip", "link", "del", link], capture_output=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: {done.stderr.strip()}")


def children(number):
    return [int(word) for word in Path(f"/proc/{number}/task/{number}/children").read_text().split()]


class Login(socketserver.StreamRequestHandler):
    """Does one command and answers with its output and exit code."""

    def handle(self):
        asked = json.loads(self.rfile.readline() or "null")
        if asked is None:
            return
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as given:
            given.write(base64.b64decode(asked["input"]))
            given.seek(0)
            # a daemon keeps its end of a pipe open, so what is said goes to a file
            code = subprocess.run(
                ["bash", "-c", asked["command"]], stdin=given, stdout=output, stderr=subprocess.STDOUT
            ).returncode
            output.seek(0)
            answer = {"code": code, "output": base64.b64encode(output.read()).decode()}
        self.wfile.write(json.dumps(answer).encode() + b"\n")


def serve(address):
    with socketserver.ThreadingTCPServer((address, PORT), Login) as server:
        server.serve_forever()


def ask(address, command, given=b""):
    """Do a command on a host; return its exit code and what it said."""
    with socket.create_connection((address, PORT), 10) as wire:
        wire.settimeout(300)
        line = json.dumps({"command": command, "input": base64.b64encode(given).decode()})
        wire.sendall(line.encode() + b"\n")
        with wire.makefile("rb") as answers:
            answer = json.loads(answers.readline())
    return answer["code"], base64.b64decode(answer["output"])


def ssh(words):
    place = next(i for i, word in enumerate(words) if "@" in word)
    code, output = ask(words[place].partition("@")[2], " ".join(words[place + 1 :]))
    sys.stdout.buffer.write(output)
    return code


def rsync(words):
    """Copy a file or a folder to a host; excluded are entries of the top folder and of any name."""
    source, target = words[-2:]
    host, _, path = target.partition(":")
    excluded = {words[i + 1].removeprefix("**/") for i, word in enumerate(words) if word == "--exclude"}

    def keep(entry):
        return None if excluded & set(Path(entry.name).parts) else entry

    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(source, "content", filter=keep)
        packed.seek(0)
        folder = Path(source).is_dir()
        unpack = f"mkdir -p {path} && tar -x -C {path} --strip-components=1"
        if not folder:
            unpack = f"mkdir -p $(dirname {path}) && tar -x -O > {path}"
        code, output = ask(host.partition("@")[2], unpack, packed.read())
    sys.stderr.buffer.write(output)
    return code


def refusal():
    """Return why no hosts can be made here, or an empty text."""
    if sys.platform != "linux" or os.geteuid():
        return "hosts in namespaces need Linux and root"
    for name in ("ip", "unshare"):
        if shutil.which(name) is None:
            return f"hosts in namespaces need the command {name}"
    tried = subprocess.run([*APART, "true"], capture_output=True)
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.decode().strip()}"


if __name__ == "__main__":
    name, *rest = sys.argv[1:]
    sys.exit(serve(*rest) if name == "serve" else {"ssh": ssh, "rsync": rsync}[name](rest))
