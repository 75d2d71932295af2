"""Planning a run: look at its data and its model, try it for some seconds, and put the plan together."""

import argparse
import logging
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from raysys.catalog import Catalog
from raysys.data.shapes import SampleShape
from raysys.distributed.checkpoints import catalog_of
from raysys.distributed.loop import Job
from raysys.distributed.probe import ProbeError, Trial, probe
from raysys.errors import ConfigError
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest
from raysys.models import sample_shape
from raysys.planning.log_sample import sample_log
from raysys.planning.machine import Machine, described, this_machine
from raysys.planning.parameters import ModelSize, model_size
from raysys.planning.plan import Inputs, Plan, make_plan
from raysys.planning.sizes import Sizes, sizes_of
from raysys.planning.training import Probed, of_catalogue
from raysys.planning.trial_features import estimated_sizes, write_trial_features
from raysys.run import ClusterConfig, RunConfig
from raysys.schema import NUM_RESERVED
from raysys.storage import Folder

logger = logging.getLogger(__name__)

PROBE_SHARE = 0.7
"""Share of the free memory that a probe may take."""


def plan_run(
    run: RunConfig, out: Folder, machine: Machine, probing: bool = True, seconds: float = 5.0
) -> Plan:
    """Return the plan of a run. Nothing is written but temporary files, and no cluster is used.

    Args:
        run: to be planned.
        out: its output folder; features there that are those of the run give exact sizes.
        machine: to plan for.
        probing: try the run in processes of this machine for some seconds.
        seconds: of steps that a probe measures.
    Raises:
        DataError, SchemaError: the log cannot be read, or not as `[data]` says.
        ConfigError: a feature or an index kind that does not suit the data or the model.
    """
    with tempfile.TemporaryDirectory(prefix="raysys-plan-") as temporary:
        shape = None
        if run.learns_by == "gradient":
            shape = sample_shape(run.model_name, run.model, run.session)
        features, manifest, sizes = _data(run, out, shape, Folder(temporary) / "features")
        job = Job(run, features, manifest, Folder(temporary) / "out")
        catalog = catalog_of(features, manifest)
        model = model_size(run, catalog, sizes.items + NUM_RESERVED)
        probed, notes = (
            _probes(job, sizes, model, machine, catalog, seconds)
            if probing
            else ({}, ["no probe was asked for"])
        )
        inputs = Inputs(
            run=run,
            machine=machine,
            sizes=sizes,
            model=model,
            chunk_events=_chunk_events(job, sizes),
            probed=probed,
            free_disk=_free_disk(out),
            notes=tuple(notes),
        )
        return make_plan(inputs)


def _data(
    run: RunConfig, out: Folder, shape: SampleShape | None, temporary: Folder
) -> tuple[Folder, Manifest, Sizes]:
    """Return features to look at and try on, and the sizes of the run's own."""
    features = out / "features"
    found = find_manifest(features, "features")
    if found and found.config_digest == run.features_digest:
        return features, found, sizes_of(features, found, shape, run.training.samples_per_user)
    logger.info(fields(step="log", features="none yet, or others", reading="the log, at most some seconds"))
    sample = sample_log(run.data)
    manifest = write_trial_features(run, sample, temporary)
    return temporary, manifest, estimated_sizes(run, sample, temporary, manifest, shape)


def _chunk_events(job: Job, sizes: Sizes) -> int:
    """Return the events of the largest chunk of an epoch."""
    if not sizes.is_exact or job.run.learns_by == "rows":
        return min(sizes.events, max(job.run.training.shuffle_events, sizes.largest_part))
    chunks = job.plan.chunks(0)
    return max(sum(job.plan.events[part] for part in chunk.parts) for chunk in chunks)


def _free_disk(out: Folder) -> int:
    """Return the free bytes where a local output folder is or would be; 0 for an object store."""
    if not out.is_local:
        return 0
    place = Path(out.path)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def add_flags(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add the flags of planning to those that every job has, and return the parser."""
    parser.add_argument("--nodes", type=int, help="plan for so many equal nodes (default: 1)")
    parser.add_argument("--cpus", type=int, help="CPUs of a node (default: those of this machine)")
    parser.add_argument("--memory-gb", type=float, help="memory of a node, in 10^9 bytes")
    parser.add_argument("--gpus", type=int, help="GPUs of a node")
    parser.add_argument("--gpu-memory-gb", type=float, help="memory of a GPU, in 10^9 bytes")
    parser.add_argument("--no-probe", action="store_true", help="try nothing: quicker, and no speed is told")
    return parser


def chosen_machine(arguments: argparse.Namespace) -> Machine:
    """Return the machine of the flags: a running cluster by address, else this one, with what flags say.

    Raises:
        ConfigError: a figure out of range, or no cluster at the address.
    """
    address = arguments.address or os.environ.get("RAY_ADDRESS") or "local"
    base = with_gpus(this_machine()) if address == "local" else machine_of_cluster(address)
    return described(
        base,
        nodes=arguments.nodes,
        cpus=arguments.cpus,
        memory_gb=arguments.memory_gb,
        gpus=arguments.gpus,
        gpu_memory_gb=arguments.gpu_memory_gb,
    )


def machine_of_cluster(address: str) -> Machine:
    """Return the nodes of a running cluster, each as small as the smallest; asks, and takes nothing.

    Memory is what Ray offers of a node, object store included; that of GPUs is not known.
    """
    import ray

    from raysys.distributed.cluster import connect

    connected = ray.is_initialized()
    connect(address, ClusterConfig())
    try:
        alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    finally:
        if not connected:
            ray.shutdown()
    nodes = [node for node in alive if node.get("CPU", 0) >= 1]
    if not nodes:
        raise ConfigError(f"--address {address}: the cluster has no node with CPUs")
    return Machine(
        name=f"the cluster at {address}",
        nodes=len(nodes),
        cpus=int(min(node["CPU"] for node in nodes)),
        memory=int(min(node.get("memory", 0) + node.get("object_store_memory", 0) for node in nodes)),
        gpus=int(min(node.get("GPU", 0) for node in nodes)),
    )


def with_gpus(machine: Machine) -> Machine:
    """Return the machine with the GPUs that torch finds in it."""
    if not torch.cuda.is_available():
        return machine
    memory = torch.cuda.get_device_properties(0).total_memory
    return replace(machine, gpus=torch.cuda.device_count(), gpu_memory=memory)


def _probes(
    job: Job, sizes: Sizes, model: ModelSize, machine: Machine, catalog: Catalog, seconds: float
) -> tuple[dict[int, Probed], list[str]]:
    """Try the run with one worker and with as many as this machine has CPUs for; return what was measured by
    number of workers, and notes on what was not."""
    run, here, notes = job.run, this_machine(), list[str]()
    tried_items = catalog.num_items - NUM_RESERVED
    tried = model_size(run, catalog, catalog.num_items)
    need = 3 * tried.parameter_bytes + tried.optimizer_bytes + 2 * 10**9
    room = PROBE_SHARE * (here.free_memory or here.memory)
    if need > room:
        notes.append(
            f"not tried here: the model alone takes {need / 1e9:.1f} GB of {room / 1e9:.1f} GB; no speed is "
            "told"
        )
        return {}, notes
    if tried_items < sizes.items:
        notes.append(f"tried with {tried_items:,} of {sizes.items:,} items, which is faster than all of them")
    if run.learns_by == "gradient" and sum(job.plan.parts.values()) < run.training.batch_size:
        return {}, ["not tried: the samples do not fill one batch"]
    cuda = run.cluster.use_gpu and torch.cuda.is_available()
    if run.cluster.use_gpu and not cuda:
        return {}, [*notes, "not tried: cluster.use_gpu is set and there is no GPU here; no speed is told"]
    probed: dict[int, Probed] = {}
    for workers in _worlds(run, machine, here, cuda):
        if workers * need > room:
            continue
        asked = run.cluster.resources_per_worker.get("CPU", min(machine.cpus, here.cpus) // workers)
        threads = max(1, int(asked))
        logger.info(fields(step="probe", workers=workers, threads=threads, seconds=seconds))
        try:
            trial = Trial(job, workers, threads, seconds, "cuda" if cuda else "cpu")
            found = probe(trial, _settings())
        except ProbeError as error:
            notes.append(f"the probe of {workers} workers failed: {error}")
            continue
        probed[workers] = of_catalogue(found, tried_items, sizes.items)
    return probed, notes


def _worlds(run: RunConfig, machine: Machine, here: Machine, cuda: bool) -> list[int]:
    """Return the numbers of workers to try."""
    if run.learns_by == "rows" or cuda:
        return [1]
    most = min(here.cpus, machine.nodes * machine.cpus)
    numbers = {1, most, min(most, max(1, run.cluster.workers))}
    return sorted(number for number in numbers if run.training.batch_size % number == 0)


def _settings() -> dict[str, str]:
    """Return the environment of a worker."""
    from raysys.distributed.cluster import WORKER_MEMORY

    return dict(WORKER_MEMORY)
