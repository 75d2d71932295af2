"""A plan as text for a terminal."""

from collections.abc import Iterable, Sequence

from raysys.planning.plan import Plan
from raysys.planning.stages import Serving
from raysys.planning.training import TrainingTime, WorkerMemory

Row = tuple[str, str, str]
UNITS = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "kB"))


def size(number: float) -> str:
    """Return bytes with the unit that leaves one to three digits before the point."""
    for unit, name in UNITS:
        if number >= unit:
            return f"{number / unit:.{0 if number >= 100 * unit else 1}f} {name}"
    return f"{number:.0f} B"


def seconds(number: float) -> str:
    """Return a time in the unit that suits it."""
    if number < 100:
        return f"{number:.1f} s"
    return f"{number / 60:.0f} min" if number < 2 * 3600 else f"{number / 3600:.1f} h"


def page(plan: Plan) -> str:
    """Return the plan: one table per section, then what to set and what does not fit."""
    inputs = plan.inputs
    machine, sizes = inputs.machine, inputs.sizes
    gpus = f", {machine.gpus} GPUs of {size(machine.gpu_memory)}" if machine.gpus else ""
    parts = [
        f"Plan of {inputs.run.model_name} for {machine.name}: {machine.nodes} x {machine.cpus} CPUs, "
        f"{size(machine.memory)} of memory{gpus}\nData: {sizes.source}",
        _table("Data", _data_rows(plan)),
    ]
    if inputs.model.parameters:
        parts.append(_table("Model", _model_rows(plan)))
    if plan.worker:
        parts.append(
            _table(f"One training worker of {inputs.workers}", _worker_rows(plan.worker, plan.scores))
        )
    if plan.counted:
        parts.append(_table("Counting", _counting_rows(plan)))
    if plan.serving:
        parts.append(_table("Index", _index_rows(plan.serving, inputs.run.index.kind)))
    parts.append(_table("On disk, at most", [(f"{name}/", size(n), "") for name, n in plan.disk.items()]))
    parts.append(_table("Memory of a node, at most", _node_rows(plan)))
    if plan.times:
        parts.append(_table("Time", [row for time in plan.times for row in _time_rows(time)]))
    if inputs.probed and plan.counted:
        parts.append(_table("Time", _counting_time(plan)))
    if plan.suggestions:
        rows = [(s.key, f"{s.value:,}", _changed(s.value, s.now) + s.reason) for s in plan.suggestions]
        parts.append(_table("Suggested", rows))
    for name, lines in (("Note", inputs.notes), ("Warning", plan.warnings), ("DOES NOT FIT", plan.problems)):
        parts += [f"{name}: {line}" for line in lines]
    if not plan.problems:
        parts.append("The run fits.")
    return "\n\n".join(parts)


def _changed(value: int, now: int) -> str:
    return "" if value == now else f"(now {now:,}) "


def _table(title: str, rows: Iterable[Row]) -> str:
    listed = list(rows)
    first = max(len(row[0]) for row in listed)
    second = max(len(row[1]) for row in listed)
    lines = [f"  {name:{first}}  {value:>{second}}  {note}".rstrip() for name, value, note in listed]
    return "\n".join([title, *lines])


def _data_rows(plan: Plan) -> list[Row]:
    sizes = plan.inputs.sizes
    about = "" if sizes.is_exact else "about "
    counts: Sequence[tuple[str, int, str]] = (
        ("rows of the log", sizes.rows, ""),
        ("events", sizes.events, f"{about}{sizes.train_events:,} to train on"),
        ("users", sizes.users, ""),
        ("items", sizes.items, ""),
        ("samples of an epoch", sizes.samples, ""),
    )
    return [
        *((name, f"{about}{value:,}", note) for name, value, note in counts),
        ("feature store on disk", size(sizes.feature_bytes), f"{sizes.parts} parts of events and sequences"),
    ]


def _model_rows(plan: Plan) -> list[Row]:
    model = plan.inputs.model
    tables = [parameter for parameter in model.parameters if parameter.is_table]
    others = [parameter for parameter in model.parameters if not parameter.is_table]
    rows: list[Row] = [
        (
            f"table {t.name}",
            size(t.bytes),
            f"{t.shape[0]:,} x {t.shape[1]} numbers of {t.element_bytes} bytes",
        )
        for t in tables
    ]
    numbers = sum(parameter.numbers for parameter in others)
    rows.append(("other parameters", size(sum(p.bytes for p in others)), f"{numbers:,} numbers"))
    total = sum(parameter.numbers for parameter in model.parameters)
    rows.append(("all parameters", size(model.parameter_bytes), f"{total:,} numbers"))
    rows.append(("not trained", size(model.buffer_bytes), "features of items, and the like"))
    return rows


def _worker_rows(worker: WorkerMemory, scores: int) -> list[Row]:
    told = "measured" if worker.is_measured else "by rule of thumb"
    place = " (on the GPU)" if worker.on_gpu else ""
    rows = [
        ("interpreter, torch and Ray", size(worker.start), told),
        (f"parameters{place}", size(worker.parameters), "every worker has the whole model"),
        (f"gradients{place}", size(worker.gradients), ""),
        (f"optimiser{place}", size(worker.optimizer), "two moments of Adam for each parameter"),
        ("not trained", size(worker.buffers), "features of items, tables of the sampler"),
        ("data, held", size(worker.data), "a chunk of training.shuffle_events at most"),
        ("data, while read", size(worker.data_peak), told),
        (f"a step beyond the model{place}", size(worker.step), f"{told}: activations, gradients of tables"),
        ("  of it the scores of the loss", size(scores), "the largest tensor, several times at once"),
        ("validation", size(worker.validation), "vectors of all items"),
        ("checkpoint, while written", size(worker.checkpoint), "a copy of the optimiser's state"),
        ("peak of memory", size(worker.host), ""),
    ]
    return [*rows, ("peak of a GPU's memory", size(worker.gpu), "")] if worker.on_gpu else rows


def _index_rows(found: Serving, kind: str) -> list[Row]:
    shard = found.shard
    told = "" if shard.is_known else "this kind is not known and counts as flat"
    return [
        ("item vectors", size(found.vectors), ""),
        (f"a shard of {kind}, on disk", size(shard.file), told or f"{found.shards} shards"),
        ("a shard in memory", size(shard.resident), f"{found.processes} processes with the replicas"),
        ("while it is loaded", size(shard.loading), "file, Faiss index and ours"),
        ("while it is built", size(shard.building), ""),
    ]


def _counting_rows(plan: Plan) -> list[Row]:
    counted = plan.counted or {}
    return [
        ("matrix of users and items", size(counted["matrix"]), "by user and by item"),
        ("table of neighbours", size(counted["table"]), "at most, on disk"),
    ]


def _node_rows(plan: Plan) -> list[Row]:
    machine = plan.inputs.machine
    return [
        (stage, size(need), f"of {size(machine.usable)} usable" if need <= machine.usable else
         f"MORE than the {size(machine.usable)} that are usable")
        for stage, need in plan.node_bytes.items()
    ]  # fmt: skip


def _time_rows(time: TrainingTime) -> list[Row]:
    told = "measured" if time.is_measured else "worked out from fewer workers"
    who = f"{time.workers} worker" + ("s" if time.workers > 1 else "")
    return [
        (f"{who}: samples/s", f"{time.samples_per_s:,.0f}", told),
        (f"{who}: epoch", seconds(time.epoch_s), f"{time.steps:,} steps"),
        (f"{who}: validation", seconds(time.validation_s), "after each epoch"),
        (f"{who}: training", seconds(time.total_s), "if patience does not end it earlier"),
    ]  # fmt: skip


def _counting_time(plan: Plan) -> list[Row]:
    sizes, found = plan.inputs.sizes, plan.inputs.probed[1]
    rate = found.samples_per_s * max(1, plan.inputs.run.cluster.workers and plan.inputs.machine.cpus)
    return [
        ("events counted/s", f"{found.samples_per_s:,.0f}", "measured, one CPU"),
        (
            "fit",
            seconds(sizes.train_events / max(rate, 1e-9)),
            f"{found.products:,.0f} products for each event",
        ),
    ]
