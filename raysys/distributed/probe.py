"""A few seconds of the real training loop in processes of its own, to measure speed and memory before a run.

The processes are set up like Ray Train workers (threads, memory settings, niceness, gloo between several),
without Ray: nothing of a cluster is taken, and a probe that the system ends takes nobody with it. Each reads
what to do from its standard input; the first of them answers with one line of JSON.
"""

import contextlib
import json
import math
import os
import pickle
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.distributed
from torch import nn

import raysys
from raysys.data.epochs import drawn_rows, read_samples
from raysys.data.interactions import Entries, Interactions, read_entries
from raysys.distributed.loop import Job, Loop, make_loop
from raysys.distributed.rank import Rank
from raysys.distributed.validation import validate
from raysys.models import build_row_model
from raysys.planning.process_memory import Memory, array_bytes
from raysys.planning.training import Probed
from raysys.schema import NUM_RESERVED
from raysys.storage import Folder
from raysys.training import StepTotals, train_steps

CHUNK_EVENTS = 500_000
"""Events that a probe reads at most, unless one sequence file has more."""
WARM_UP_STEPS = 3
VALID_USERS = (16, 64, 512)
"""A validation is tried with so many users, more of them while it is quick."""
VALID_S = 2.0
TIMEOUT_S, POLL_S = 180.0, 0.05
NICENESS = "RAY_worker_niceness"
"""Ray starts workers at this niceness, 15 where it is not set."""


@dataclass(frozen=True)
class Trial:
    """What the processes of a probe do.

    Attributes:
        job: on features that may be small; its output folder is one to throw away.
        world: processes, which share a batch as workers do.
        threads: of each.
        seconds: of steps to measure.
        device: "cpu" or "cuda".
    """

    job: Job
    world: int = 1
    threads: int = 1
    seconds: float = 5.0
    device: str = "cpu"


class ProbeError(Exception):
    """A probe gave no answer; says why."""


def probe(trial: Trial, settings: Mapping[str, str]) -> Probed:
    """Run a trial and return what it measured.

    Args:
        trial: what to do.
        settings: environment of the processes, beside that of this one.
    Raises:
        ProbeError: the processes failed, were ended by the system, or took too long.
    """
    package = str(Path(raysys.__file__).resolve().parents[1])
    path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH", "")) if part)
    own = {"PYTHONPATH": path, "OMP_NUM_THREADS": str(trial.threads)}
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="raysys-probe-") as folder:
        try:
            for rank in range(trial.world):
                processes.append(_start(trial, rank, Path(folder), os.environ | settings | own))
            return _answer(processes, Path(folder))
        finally:
            for process in processes:
                process.kill()
                process.wait()
                if process.stdout is not None:
                    process.stdout.close()


def _start(
    trial: Trial, rank: int, folder: Path, environment: Mapping[str, str]
) -> "subprocess.Popen[bytes]":
    """Start one process of a trial and tell it what to do."""
    with (folder / f"errors-{rank}").open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "raysys.distributed.probe"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=environment,
        )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin as stdin:
        stdin.write(pickle.dumps((trial, rank, str(folder))))
    return process


def _answer(processes: Sequence["subprocess.Popen[bytes]"], folder: Path) -> Probed:
    """Return what the first process says; the others go on until they are killed."""
    deadline = time.monotonic() + TIMEOUT_S
    first = processes[0]
    assert first.stdout is not None
    while time.monotonic() < deadline:
        # the first one last: another may fail because it has ended
        codes = [process.poll() for process in processes[::-1]][::-1]
        if codes[0] == 0 and (lines := first.stdout.read().decode().splitlines()):
            return Probed(**json.loads(lines[-1]))
        for rank, code in enumerate(codes):
            if code is not None:
                raise ProbeError(_reason(code, folder / f"errors-{rank}"))
        time.sleep(POLL_S)
    raise ProbeError(f"no answer within {TIMEOUT_S:.0f} s")


def _reason(code: int, errors: Path) -> str:
    """Return why a process ended without an answer."""
    if code < 0:
        return f"the system ended it (signal {-code}), likely for want of memory"
    said = errors.read_text(errors="replace").strip().splitlines()
    return said[-1] if said else f"exit code {code}"


class _Clock:
    """Times the steps of an epoch after its first one, and stops when enough is known."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.begin = self.last = time.monotonic()
        self.steps, self.spent, self.all_steps = 0, 0.0, 0
        self.first_of_epoch = True

    def after_step(self, step: int, totals: StepTotals) -> bool:
        """Count a step; returns whether to stop."""
        now = time.monotonic()
        if not self.first_of_epoch and self.all_steps >= WARM_UP_STEPS:
            self.steps, self.spent = self.steps + 1, self.spent + now - self.last
        self.all_steps += 1
        self.first_of_epoch, self.last = False, now
        return self.done

    @property
    def done(self) -> bool:
        return self.steps > 0 and self.spent >= self.seconds


def run_trial(trial: Trial, rank: int, folder: str) -> Probed:
    """Do what one process of a trial does."""
    os.nice(int(os.environ.get(NICENESS, "15")))
    torch.set_num_threads(trial.threads)
    if trial.world > 1:
        torch.distributed.init_process_group(
            "gloo", init_method=f"file://{folder}/group", rank=rank, world_size=trial.world
        )
    training = trial.job.run.training
    few = min(training.shuffle_events, CHUNK_EVENTS)
    # Ray Data cuts the same batches, on other CPUs
    small = replace(training, shuffle_events=few, source="files")
    out = Folder(f"{folder}/out-{rank}")
    job = replace(trial.job, run=replace(trial.job.run, training=small), out=out)
    if job.run.learns_by == "rows":
        return _try_counting(job, trial.seconds)
    place = Rank(rank, trial.world, trial.device, _ignore, _never, _ignore_report, trial.world)
    return _try_training(job, place, trial.seconds)


def _ignore(line: dict[str, Any]) -> None:
    del line


def _never() -> bool:
    return False


def _ignore_report(metrics: dict[str, float], path: str) -> None:
    del metrics, path


def _try_training(job: Job, rank: Rank, seconds: float) -> Probed:
    memory = Memory()
    start = memory.now()
    chunk = job.plan.chunks(0)[0]
    events = sum(job.plan.events[part] for part in chunk.parts)
    memory.forget_peak()
    begin = time.monotonic()
    samples = read_samples(job.plan, chunk.parts, job.features, 0)
    order = np.random.default_rng(0).permutation(drawn_rows(job.plan, samples, 0))
    samples.batch(order[:1])  # what is made once for all batches
    load_s = time.monotonic() - begin
    held, peak = array_bytes((samples, order)), memory.peak() - start
    del samples, order
    loop = make_loop(job, rank)
    memory.forget_peak()
    # the first one alone decides when it is enough: the others would leave it waiting for their gradients
    clock = _Clock(seconds if rank.rank == 0 else math.inf)
    rate = job.run.training.learning_rate
    while not clock.done:
        clock.first_of_epoch = True
        train_steps(
            loop.wrapped,
            loop.optimizer,
            loop.tensors(0),
            job.run.training,
            clock.after_step,
            rank.rank,
            lambda step: rate,
        )
        loop.state.epoch += 1
        if clock.all_steps and not clock.steps:  # epochs of one step
            clock.first_of_epoch, clock.all_steps = False, WARM_UP_STEPS
    model_bytes = _tensor_bytes(loop.model, loop.optimizer)
    data = held / max(events, 1)
    beyond = _peak(memory, rank.device) - (start if rank.device == "cpu" else 0) - model_bytes
    step_bytes = max(0, beyond - (held if rank.device == "cpu" else 0))
    step_s = clock.spent / clock.steps
    valid_s, valid_user_s = _time_validation(job, loop) if rank.world == 1 else (0.0, 0.0)
    return Probed(
        samples_per_s=job.run.training.batch_size / step_s,
        step_s=step_s,
        load_s=load_s / max(events, 1),
        start_bytes=start,
        data_bytes=data,
        data_peak_bytes=peak / max(events, 1),
        step_bytes=step_bytes,
        valid_s=valid_s,
        valid_user_s=valid_user_s,
    )


def _peak(memory: Memory, device: str) -> int:
    return memory.peak() if device == "cpu" else int(torch.cuda.max_memory_allocated())


def _tensor_bytes(model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Return the bytes of parameters, gradients, buffers and the optimiser's state."""
    tensors: list[torch.Tensor] = [*model.parameters(), *model.buffers()]
    tensors += [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    for state in optimizer.state.values():
        tensors += [value for value in cast("dict[str, Any]", state).values() if torch.is_tensor(value)]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _time_validation(job: Job, loop: Loop) -> tuple[float, float]:
    """Return the seconds of a validation without users, and of each user."""
    total = job.manifest.info["queries"]["valid"]
    spent: dict[int, float] = {}
    for users in dict.fromkeys(min(number, total) for number in VALID_USERS):
        if users and sum(spent.values()) < VALID_S:
            training = replace(job.run.training, valid_users=users)
            run, begin = replace(job.run, training=training), time.monotonic()
            validate(loop.model, run, job.features, job.manifest, loop.rank)
            spent[users] = time.monotonic() - begin
    few, many = min(spent, default=0), max(spent, default=0)
    if few == many:
        return 0.0, spent[few] / few if few else 0.0
    each = max(0.0, spent[many] - spent[few]) / (many - few)
    return max(0.0, spent[few] - few * each), each


def _try_counting(job: Job, seconds: float) -> Probed:
    """Count rows of some sources on one sequence file, whose users are whole."""
    memory = Memory()
    start, begin = memory.now(), time.monotonic()
    part = min(job.manifest.info["part_events"])
    entries = Entries.merge([read_entries(job.features, part)])
    info = job.manifest.info
    seen = Interactions.build(entries, info["users"] + NUM_RESERVED, info["items"] + NUM_RESERVED)
    model = build_row_model(job.run.model_name, job.run.model)
    weighed = model.weigh(seen)
    events = max(int(entries.count.sum()), 1)
    load_s, peak = (time.monotonic() - begin) / events, memory.peak() - start
    # the products of a source are the cells of all users that share it
    reach = np.diff(seen.by_user.offsets)[seen.by_item.columns]
    ends = np.concatenate([[0], np.cumsum(reach)])[seen.by_item.offsets]
    sources = np.random.default_rng(0).permutation(np.arange(NUM_RESERVED, len(seen.by_item)))
    done, counted, begin = 0, 0, time.monotonic()
    while done < len(sources) and time.monotonic() - begin < seconds:
        block = np.sort(sources[done : done + 16])
        model.rows(weighed, block)
        counted += int((ends[block + 1] - ends[block]).sum())
        done += len(block)
    spent = time.monotonic() - begin
    products = float(ends[-1]) / events
    per_s = counted / max(spent, 1e-9)
    return Probed(
        samples_per_s=per_s / max(products, 1e-9),
        load_s=load_s,
        start_bytes=start,
        data_bytes=len(entries.user_idx) / events,
        data_peak_bytes=peak / events,
        products=products,
        products_per_s=per_s,
    )


if __name__ == "__main__":
    print_to = sys.stdout
    asked = pickle.load(sys.stdin.buffer)  # noqa: S301 # from the process that started this one
    answer = run_trial(*asked)
    print_to.write(json.dumps(asdict(answer)) + "\n")
    print_to.flush()
    os._exit(0)  # other processes of the group are ended, not waited for
