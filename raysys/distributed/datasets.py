"""The data stage on Ray: logs to events partitioned by user, vocabularies and sequences.

One hash shuffle by user (Ray Data), then maps over the partitions. What is computed is in `raysys.data`; here
is where it runs and how the results come together.
"""

import itertools
import logging
import threading
import time
from collections import Counter
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import ray.data

from raysys import config as configuration
from raysys.data.events import DataConfig, SideTable, check_columns
from raysys.data.files import Source, fingerprint, list_sources, pieces_of, schema_of
from raysys.data.parsing import combine
from raysys.data.stages import (
    Core,
    count_items,
    count_partition,
    read_events,
    read_table,
    write_partition,
    write_sequences,
    write_table,
)
from raysys.data.tables import encode_side_table, read_side_table, titles
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.cluster import own_errors, run_tasks
from raysys.errors import DataError
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED, Feature, Schema
from raysys.storage import Folder, replacing

logger = logging.getLogger(__name__)
# Ray Data tells its plan and that its bars are off, which is what we ask for: our own lines show progress.
logging.getLogger("ray.data._internal.execution.streaming_executor").setLevel(logging.WARNING)
logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)

KIND = "features"
BYTES_PER_PARTITION = 64 * 2**20
MIN_PARTITIONS = 4


def prepare(run: RunConfig, out: Folder) -> Folder:
    """Build `features/` from the log and return it; nothing happens where it is there and unchanged.

    Raises:
        DataError: unreadable files, too many rejected rows, no event left, an empty split.
        SchemaError: a column is missing or has a type that cannot hold what the config says.
    """
    target, begin = out / "features", time.monotonic()
    sources = list_sources(run.data.events, "data.events")
    parents = {"log": fingerprint(sources), **_side_fingerprints(run.data)}
    found = find_manifest(target, KIND)
    if found and found.matches(run.features_digest, parents):
        logger.info(fields(features="unchanged", path=target.uri))
        return target
    logger.info(
        fields(files=len(sources), mb=round(sum(s.size for s in sources) / 2**20, 1), log=sources[0].uri)
    )
    with ThreadPoolExecutor(16) as pool, replacing(target) as staged:
        list(pool.map(lambda source: check_columns(schema_of(source), run.data, source.uri), sources))
        shuffled = shuffle_events(run.data, sources, staged)
        info = build_sequences(run, staged, shuffled)
        Manifest(kind=KIND, config_digest=run.features_digest, parents=parents, info=info).write(staged)
    logger.info(fields(features=target.uri, seconds=time.monotonic() - begin))
    return target


def _side_fingerprints(data: DataConfig) -> dict[str, str]:
    sides = {"items": data.items, "users": data.users}
    return {
        name: fingerprint(list_sources(side.path, f"data.{name}.path"))
        for name, side in sides.items()
        if side
    }


@dataclass(frozen=True)
class Shuffled:
    """Outcome of the shuffle: the partition files, and counts of rows read, rejected and dropped by
    reason."""

    parts: list[str]
    rows_in: int
    rejected: dict[str, int]
    dropped: dict[str, int]


def shuffle_events(data: DataConfig, sources: list[Source], staged: Folder) -> Shuffled:
    """Write `events/part-*.parquet`, one file per user partition, sorted, and `rejected/`."""
    pieces = [piece for source in sources for piece in pieces_of(source)]
    if not pieces:
        raise DataError(f"{sources[0].uri}: the log holds no rows; data.events names it")
    size = sum(source.size for source in sources)
    num_partitions = data.partitions or max(MIN_PARTITIONS, -(-size // BYTES_PER_PARTITION))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.shuffle_input_batch_bytes = int(np.clip(size // 4, 16 * 2**20, 128 * 2**20))
    files = [source.uri for source in sources]
    with own_errors():
        dataset: Any = (
            _items(len(pieces))
            .map_batches(
                read_events,
                batch_size=1,
                batch_format="pyarrow",
                fn_kwargs={
                    "pieces": pieces,
                    "data": data,
                    "staged": staged,
                    "num_partitions": num_partitions,
                },
            )
            .repartition(num_partitions, keys=["partition"])
            .map_batches(
                write_partition,
                batch_size=None,
                batch_format="pyarrow",
                fn_kwargs={"staged": staged, "files": files, "keep_duplicates": data.keep_duplicates},
            )
        )
        with _progress(staged, len(pieces), num_partitions):
            rows = dataset.take_all()
    result = _gather(staged, rows)
    check_rejected(data, result, staged, sources[0].uri)
    return result


def _gather(staged: Folder, rows: list[dict[str, int]]) -> Shuffled:
    """Return the outcome of the shuffle from its rows and the counts that read tasks left in files."""
    written = [row["partition"] for row in rows]
    if len(set(written)) != len(written):
        raise AssertionError(
            "Ray Data gave a user partition in two pieces; a user's events would be torn apart"
        )
    rejected, dropped = Counter[str](), Counter[str]()
    rows_in = 0
    for name in staged.names("stats"):
        stats = staged.read_json(f"stats/{name}")
        rows_in += stats["rows"]
        rejected.update(stats["rejected"])
        dropped.update(stats["dropped"])
    (staged / "stats").delete()
    rejected.update({"duplicate": sum(row["duplicates"] for row in rows)})
    return Shuffled(
        [f"part-{number:05d}.parquet" for number in sorted(written)],
        rows_in,
        {reason: count for reason, count in sorted(rejected.items()) if count},
        dict(sorted(dropped.items())),
    )


def _items(count: int) -> Any:
    """Return a dataset of the numbers below `count`, a block each, so that each is a task of its own."""
    return ray.data.from_items(list(range(count)), override_num_blocks=count)


@contextmanager
def _progress(staged: Folder, num_pieces: int, num_partitions: int, every_s: float = 10.0) -> Generator[None]:
    """Log every few seconds how many pieces are read and partitions written, by the files that tasks
    leave."""
    done = threading.Event()

    def show() -> None:
        while not done.wait(every_s):
            read, written = len(staged.names("stats")), len(staged.names("events"))
            logger.info(
                fields(step="shuffle", read=f"{read}/{num_pieces}", written=f"{written}/{num_partitions}")
            )

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def check_rejected(data: DataConfig, shuffled: Shuffled, staged: Folder, log: str) -> None:
    total = sum(shuffled.rejected.values())
    logger.info(fields(rows=shuffled.rows_in, rejected=total, **shuffled.rejected, **shuffled.dropped))
    if shuffled.rows_in == 0:
        raise DataError(f"{log}: the log holds no rows; data.events names it")
    if total <= data.max_reject_fraction * shuffled.rows_in:
        if not shuffled.parts:
            raise DataError(
                f"no event is left of {shuffled.rows_in} rows: {total} rejected, "
                f"{sum(shuffled.dropped.values())} "
                "dropped; check data.keep_events and data.min_rating"
            )
        return
    reason = max(shuffled.rejected, key=lambda name: shuffled.rejected[name])
    example = next(
        row
        for name in staged.names("rejected")
        for row in read_table(staged, f"rejected/{name}").to_pylist()
        if row["reason"] == reason
    )
    hints = {
        "time_out_of_range": f"time {example['time']} is not between 1980 and 2100 in {data.time_unit}; "
        f"check "
        "data.time_unit, or whether the log mixes units",
        "unparsable_time": f"time {example['time']!r} is not {data.time_unit}; check data.time_unit",
        "duplicate": "repeats an earlier row in every column; set data.keep_duplicates = true if that is "
        "right",
    }
    hint = hints.get(reason, "mend the log, or raise data.max_reject_fraction if that is acceptable")
    counts = ", ".join(f"{count} {name}" for name, count in shuffled.rejected.items())
    raise DataError(
        f"{total} of {shuffled.rows_in} rows rejected ({counts}), more than data.max_reject_fraction = "
        f"{data.max_reject_fraction}; first {reason}: {example['file']} row {example['row']}: {hint}"
    )


def build_sequences(run: RunConfig, staged: Folder, shuffled: Shuffled) -> dict[str, Any]:
    """Write vocabularies, `items.parquet` and `sequences/`, and return what the manifest is to say."""
    core = Core(kept_items=None, min_user_events=run.data.min_user_events)
    if run.data.min_item_events > 1 or run.data.min_user_events > 1:
        core = find_core(run.data, staged, shuffled.parts)
    counts = run_tasks(
        count_partition,
        shuffled.parts,
        staged,
        core,
        run.session,
        run.split,
        run.data.features,
        progress="count",
    )
    _check_left(run, counts)
    vocabularies = {
        name: Vocabulary.build(*_merge_counts([part["values"][name] for part in counts]))
        for name in ("user", "item", *(f"event_{feature}" for feature in run.data.features))
    }
    described, profile = _write_side_tables(run.data, staged, vocabularies)
    for name, vocabulary in vocabularies.items():
        vocabulary.write(staged / "vocabularies", name)
    run_tasks(
        write_sequences,
        shuffled.parts,
        *(staged, core, run.session, run.split, vocabularies, profile),
        progress="sequences",
    )
    return _describe(run, shuffled, counts, vocabularies, described)


def _check_left(run: RunConfig, counts: list[dict[str, Any]]) -> None:
    """Raise DataError where no event or no query is left."""
    if not sum(part["events"] for part in counts):
        raise DataError(
            f"no event is left of {sum(part['read'] for part in counts)}: data.min_item_events = "
            f"{run.data.min_item_events} and data.min_user_events = {run.data.min_user_events} remove them "
            "all; lower them"
        )
    for part in ("valid", "test"):
        if not sum(count["queries"][part] for count in counts):
            raise DataError(
                f"[split]: the {part} part is empty under kind = {run.split.kind!r}, unit = "
                f"{run.split.unit!r}; check the cut-offs or fractions, or whether users have enough events"
            )


def _describe(
    run: RunConfig,
    shuffled: Shuffled,
    counts: list[dict[str, Any]],
    vocabularies: Mapping[str, Vocabulary],
    described: list[Feature],
) -> dict[str, Any]:
    """Return what the manifest says of the features, and log the summary."""

    def total(name: str) -> int:
        return sum(part[name] for part in counts)

    dropped = dict(shuffled.dropped)
    if total("read") > total("events"):
        dropped["outside_core"] = total("read") - total("events")
    digest = [sum(part["digest"][i] for part in counts) % 2**64 for i in (0, 1)]
    queries = {part: sum(count["queries"][part] for count in counts) for part in ("valid", "test")}
    summary: dict[str, Any] = {
        "events": total("events"),
        "users": vocabularies["user"].size - NUM_RESERVED,
        "items": vocabularies["item"].size - NUM_RESERVED,
        "sessions": total("sessions"),
        "rows": shuffled.rows_in,
        "train_events": total("train"),
        "samples": total("samples"),
    }
    logger.info(fields(**summary, **queries))
    return {
        **summary,
        "queries": queries,
        "rejected": shuffled.rejected,
        "dropped": dropped,
        "data_digest": f"{digest[0]:016x}{digest[1]:016x}",
        "vocabularies": {name: vocabulary.digest for name, vocabulary in vocabularies.items()},
        "part_events": {name: part["events"] for name, part in zip(shuffled.parts, counts, strict=True)},
        "part_samples": {name: part["samples"] for name, part in zip(shuffled.parts, counts, strict=True)},
        "part_sample_counts": {
            name: part["sample_counts"] for name, part in zip(shuffled.parts, counts, strict=True)
        },
        "newest_train_at": max(part["newest_train_at"] for part in counts),
        "schema": Schema(features=tuple(described)).to_table(),
        "split": configuration.to_table(run.split),
        "session": configuration.to_table(run.session),
    }


def find_core(data: DataConfig, staged: Folder, parts: list[str]) -> Core:
    """Return the largest set in which every item and every user has enough events (k-core)."""
    core = Core(None, data.min_user_events)
    for round_number in itertools.count(1):  # items only ever leave, so there is a last round
        ids, counts = _merge_counts(run_tasks(count_items, parts, staged, core))
        kept = ids.filter(pa.array(counts >= data.min_item_events))
        before = None if core.kept_items is None else len(core.kept_items)
        if len(kept) == before:
            logger.info(fields(core_rounds=round_number, items=len(kept)))
            return core
        core = Core(kept, data.min_user_events)
    raise AssertionError("unreachable: the rounds end when no item leaves")


def _merge_counts(parts: list[tuple[pa.Array, np.ndarray]]) -> tuple[pa.Array, np.ndarray]:
    ids = pa.concat_arrays([ids.cast(pa.string()) for ids, _ in parts])
    table = pa.table({"id": ids, "count": pa.array(np.concatenate([counts for _, counts in parts]))})
    merged = table.group_by("id").aggregate([("count", "sum")])
    return combine(merged.column("id")), np.asarray(merged.column("count_sum").to_numpy())


def _write_side_tables(
    data: DataConfig, staged: Folder, vocabularies: dict[str, Vocabulary]
) -> tuple[list[Feature], dict[str, pa.Array]]:
    """Write `items.parquet` and the side vocabularies; return the features and the profile columns by user
    idx."""
    items = vocabularies["item"]
    names = items.ids.to_pylist()
    columns: dict[str, pa.Array] = {}
    features = [
        Feature(name=name, entity="event", kind="id", size=vocabularies[f"event_{name}"].size)
        for name in data.features
    ]
    if data.items:
        table = read_side_table(data.items, "data.items")
        names = titles(data.items, table, items)
        for feature, values, vocabulary in _encode(data.items, table, items, "item"):
            features.append(feature)
            columns[feature.name] = values
            if vocabulary:
                vocabulary.write(staged / "vocabularies", f"item_{feature.name}")
    profile: dict[str, pa.Array] = {}
    if data.users:
        table = read_side_table(data.users, "data.users")
        for feature, values, vocabulary in _encode(data.users, table, vocabularies["user"], "user"):
            features.append(feature)
            profile[f"profile_{feature.name}"] = values
            if vocabulary:
                vocabulary.write(staged / "vocabularies", f"user_{feature.name}")
    blank: list[str | None] = [None] * NUM_RESERVED
    reserved = {
        "item_idx": pa.array(np.arange(items.size, dtype=np.int32)),
        "item_id": pa.array([*blank, *items.ids.to_pylist()], pa.string()),
        "title": pa.array([*blank, *names], pa.string()),
        "count": pa.array(np.concatenate([np.zeros(NUM_RESERVED, np.int64), items.counts])),
    }
    clash = set(reserved) & set(columns)
    if clash:
        raise DataError(
            f"data.items.features.{min(clash)}: this name is taken; choose another and set its `column`"
        )
    write_table(staged, "items.parquet", pa.table({**reserved, **columns}))
    return features, profile


def _encode(side: SideTable, table: pa.Table, ids: Vocabulary, entity: Any) -> Iterator[Any]:
    yield from encode_side_table(side, table, ids, entity)
