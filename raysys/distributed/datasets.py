"""The data stage on Ray: logs to events partitioned by user, vocabularies and sequences.

One hash shuffle by user (Ray Data), then maps over the partitions. What is computed is in `raysys.data`; here
is where it runs and how the results come together.
"""

import itertools
import logging
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any

import pyarrow as pa

from raysys import __version__
from raysys import config as configuration
from raysys.data.append import Base, grown, log_entry, set_aside
from raysys.data.budget import SAMPLE_COUNTS, sample_counts_table
from raysys.data.core import Core, count_items
from raysys.data.files import fingerprint, list_sources, mark_of
from raysys.data.formats import Source
from raysys.data.log_config import DataConfig
from raysys.data.mistakes import Config
from raysys.data.parquet import write_table
from raysys.data.partitions import num_partitions_of
from raysys.data.profile_file import item_counts, rejected_rows, write_profile
from raysys.data.rejects import remedy
from raysys.data.stages import Drafting, draft_sequences, log_schema, write_sequences
from raysys.data.tables import write_side_tables
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.cluster import DATA_WORKERS, run_tasks
from raysys.distributed.shuffle import MAX_GROWTH, Shuffled, shuffle_events
from raysys.errors import DataError
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED, Feature, Schema
from raysys.storage import Folder, replacing

logger = logging.getLogger(__name__)

KIND = "features"


def prepare(run: RunConfig, out: Folder) -> Folder:
    """Build `features/` from the log and return it; nothing happens where it is there and unchanged.

    Raises:
        DataError: unreadable files, too many rejected rows, no event left, an empty split.
        SchemaError: a column is missing or has a type that cannot hold what the config says.
    """
    target, begin = out / "features", time.monotonic()
    sources = list_sources(run.data.events, "data.events", run.data.format)
    parents = {"log": fingerprint(sources), **_side_fingerprints(run.data)}
    found = find_manifest(target, KIND)
    if found and found.matches(run.features_digest, parents):
        logger.info(fields(features="unchanged", path=target.uri))
        return target
    logger.info(
        fields(files=len(sources), mb=round(sum(s.size for s in sources) / 2**20, 1), log=sources[0].uri)
    )
    schema = log_schema(sources, run.data)
    has_log = found is not None and "log" in found.info  # features of an older commit lack it
    base = base_of(run, target, found if has_log else None, sources, schema)
    with _kept(base, target) as base, replacing(target) as staged:
        drafting = None if needs_core(run.data) else drafting_of(run, Core(None, 1))
        shuffled = shuffle_events(run.data, sources, schema, staged, base, drafting)
        check_rejected(run.data, shuffled, staged, sources[0].uri)
        info = build_sequences(run, staged, shuffled)
        info["log"] = log_entry(
            run.events_digest,
            schema,
            {source.uri: mark_of(source) for source in sources},
            shuffled.by_file,
            shuffled.duplicates,
            shuffled.num_partitions,
        )
        Manifest(kind=KIND, config_digest=run.features_digest, parents=parents, info=info).write(staged)
    logger.info(fields(features=target.uri, seconds=time.monotonic() - begin))
    return target


@contextmanager
def _kept(base: Base | None, target: Folder) -> Generator[Base | None]:
    """Yield the base where it outlives its folder; an object store deletes the old features first."""
    if base is None or target.is_local:
        yield base
        return
    parent, name = target.parent
    aside = parent / f".{name}.base"
    aside.delete()
    try:
        yield set_aside(base, aside)
    finally:
        aside.delete()


def _side_fingerprints(data: DataConfig) -> dict[str, str]:
    sides = {"items": data.items, "users": data.users}
    return {
        name: fingerprint(list_sources(side.path, f"data.{name}.path", side.format))
        for name, side in sides.items()
        if side
    }


def base_of(
    run: RunConfig, target: Folder, found: Manifest | None, sources: list[Source], schema: pa.Schema
) -> Base | None:
    """Return what the features there are hold of this log, or None where they must be built from scratch."""
    if found is None or found.code_version != __version__ or found.info["log"]["config"] != run.events_digest:
        return None
    log = found.info["log"]
    if not grown(log, schema, {source.uri: mark_of(source) for source in sources}):
        return None
    if num_partitions_of(run.data, sources) > MAX_GROWTH * log["num_partitions"]:
        logger.info(fields(append="no", reason="the log has outgrown its partitions"))
        return None
    return Base.of(target, log, [source.uri for source in sources])


def check_rejected(data: DataConfig, shuffled: Shuffled, staged: Folder, log: str) -> None:
    counts = shuffled.counts
    total = sum(counts.rejected.values())
    logger.info(fields(rows=counts.rows, rejected=total, **counts.rejected, **counts.dropped))
    if counts.rows == 0:
        raise DataError(f"{log}: the log holds no rows; data.events names it")
    if total <= data.max_reject_fraction * counts.rows:
        if not shuffled.parts:
            raise DataError(
                f"no event is left of {counts.rows} rows: {total} rejected, "
                f"{sum(counts.dropped.values())} "
                "dropped; check data.keep_events and data.min_rating"
            )
        return
    reason = max(counts.rejected, key=lambda name: counts.rejected[name])
    rows = rejected_rows(staged, [reason])
    hint = remedy(reason, rows, data, mixed=10 * counts.rejected[reason] < 9 * counts.rows)
    reasons = ", ".join(f"{count} {name}" for name, count in counts.rejected.items())
    raise DataError(
        f"{total} of {counts.rows} rows rejected ({reasons}), more than data.max_reject_fraction = "
        f"{data.max_reject_fraction}; first {reason}: {rows[0]['file']} row {rows[0]['row']}: {hint}"
    )


def needs_core(data: DataConfig) -> bool:
    """Return whether the run asks for items or users with more than one event."""
    return data.min_item_events > 1 or data.min_user_events > 1


def drafting_of(run: RunConfig, core: Core) -> Drafting:
    """Return what decides the run's sequences."""
    return Drafting(core, run.session, run.split, run.data.coded_features)


def draft_all(run: RunConfig, staged: Folder, shuffled: Shuffled) -> list[dict[str, Any]]:
    """Draft the sequences of every partition that the shuffle has not; return the summaries in order."""
    core = find_core(run.data, staged, shuffled.parts) if needs_core(run.data) else Core(None, 1)
    rest = [part for part in shuffled.parts if part not in shuffled.summaries]
    drafted = run_tasks(
        draft_sequences, rest, staged, drafting_of(run, core), progress="sessions", runtime_env=DATA_WORKERS
    )
    summaries = shuffled.summaries | dict(zip(rest, drafted, strict=True))
    return [summaries[part] for part in shuffled.parts]


def build_sequences(run: RunConfig, staged: Folder, shuffled: Shuffled) -> dict[str, Any]:
    """Write vocabularies, `items.parquet` and `sequences/`, and return what the manifest is to say."""
    counts = draft_all(run, staged, shuffled)
    _check_left(run, counts)
    merged = {
        name: Vocabulary.merge([part["values"].pop(name) for part in counts])
        for name in ("user", "item", *(f"event_{feature}" for feature in run.data.coded_features))
    }
    vocabularies = {name: vocabulary for name, (vocabulary, _) in merged.items()}
    described, profile = write_side_tables(run.data, staged, vocabularies)
    for name, vocabulary in vocabularies.items():
        vocabulary.write(staged / "vocabularies", name)
    numbered = [
        (part, {name: idx[number] for name, (_, idx) in merged.items()})
        for number, part in enumerate(shuffled.parts)
    ]
    train_events = item_counts(vocabularies["item"])
    held_out = run_tasks(
        write_sequences,
        numbered,
        staged,
        profile,
        train_events,
        progress="sequences",
        runtime_env=DATA_WORKERS,
    )
    (staged / "drafts").delete()
    samples = {part: summary["sample_counts"] for part, summary in zip(shuffled.parts, counts, strict=True)}
    write_table(staged, SAMPLE_COUNTS, sample_counts_table(samples))
    info = _describe(run, shuffled, counts, vocabularies, described)
    profiles = [part["profile"] for part in counts]
    config = Config(run.data, run.session, run.split)
    for mistake in write_profile(staged, info, profiles, held_out, vocabularies, config):
        logger.warning(fields(likely_mistake=mistake["code"], text=mistake["text"]))
    return info


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

    log = shuffled.counts
    dropped = dict(log.dropped)
    if total("read") > total("events"):
        dropped["outside_core"] = total("read") - total("events")
    digest = [sum(part["digest"][i] for part in counts) % 2**64 for i in (0, 1)]
    queries = {part: sum(count["queries"][part] for count in counts) for part in ("valid", "test")}
    summary: dict[str, Any] = {
        "events": total("events"),
        "users": vocabularies["user"].size - NUM_RESERVED,
        "items": vocabularies["item"].size - NUM_RESERVED,
        "sessions": total("sessions"),
        "rows": log.rows,
        "train_events": total("train"),
        "samples": total("samples"),
    }
    logger.info(fields(**summary, **queries))
    return {
        **summary,
        "queries": queries,
        "rejected": log.rejected,
        "dropped": dropped,
        "data_digest": f"{digest[0]:016x}{digest[1]:016x}",
        "vocabularies": {name: vocabulary.digest for name, vocabulary in vocabularies.items()},
        "part_events": {name: part["events"] for name, part in zip(shuffled.parts, counts, strict=True)},
        "part_samples": {name: part["samples"] for name, part in zip(shuffled.parts, counts, strict=True)},
        "newest_train_at": max(part["newest_train_at"] for part in counts),
        "schema": Schema(features=tuple(described)).to_table(),
        "split": configuration.to_table(run.split),
        "session": configuration.to_table(run.session),
    }


def find_core(data: DataConfig, staged: Folder, parts: list[str]) -> Core:
    """Return the largest set in which every item and every user has enough events (k-core)."""
    core = Core(None, data.min_user_events)
    for round_number in itertools.count(1):  # items only ever leave, so there is a last round
        items = Vocabulary.merge(run_tasks(count_items, parts, staged, core, runtime_env=DATA_WORKERS))[0]
        kept = items.ids.filter(pa.array(items.counts >= data.min_item_events))
        before = None if core.kept_items is None else len(core.kept_items)
        if len(kept) == before:
            logger.info(fields(core_rounds=round_number, items=len(kept)))
            return core
        core = Core(kept, data.min_user_events)
    raise AssertionError("unreachable: the rounds end when no item leaves")
