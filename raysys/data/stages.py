"""What one task of the data stage does to one piece of the log or to one user partition; no Ray, no torch.

The functions take and return small values and read and write files of the staged folder, so they run the same
in a Ray task, in a loop of a test, and in a debugger.
"""

import pickle
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa

from raysys.data.append import DUPLICATES, EVENTS, Base, Counts, by_row
from raysys.data.budget import count_samples
from raysys.data.core import Core, value_counts
from raysys.data.events import REJECTED_SCHEMA, check_columns, event_schema, normalise
from raysys.data.files import number_rows, read_piece, schema_of
from raysys.data.formats import Piece, Source
from raysys.data.hashing import Coded, content_digest
from raysys.data.log_config import DataConfig
from raysys.data.parquet import read_table, write_columns, write_table
from raysys.data.parsing import combine
from raysys.data.partitions import sort_events, split_duplicates
from raysys.data.profile import held_out, profile_partition
from raysys.data.sequences import SessionConfig, numbered, sequence_table, windows_of
from raysys.data.shards import SHARDS, from_shards, to_shards
from raysys.data.splits import TEST, TRAIN, VALID, SplitConfig
from raysys.data.tally import Tally
from raysys.storage import Folder


def log_schema(sources: Sequence[Source], data: DataConfig) -> pa.Schema:
    """Return the schema of the log's events, having looked at the columns of every file.

    Raises:
        DataError: a file cannot be read.
        SchemaError: a file lacks a column that the config names, or has it twice.
    """
    columns = list(data.log_columns)
    with ThreadPoolExecutor(16) as pool:
        schemas = list(pool.map(lambda source: schema_of(source, columns), sources))
    for source, schema in zip(sources, schemas, strict=True):
        check_columns(schema, data, source.uri)
    return event_schema(data, schemas)


def read_events(
    batch: pa.Table,
    pieces: Sequence[Piece],
    data: DataConfig,
    schema: pa.Schema,
    staged: Folder,
    num_partitions: int,
) -> Iterator[pa.Table]:
    """Yield the events of some pieces of the log as shards; rejected rows and counts go to files.

    Args:
        batch: a column `item`, places in `pieces`.
        pieces: of the log.
        data: what the columns mean.
        schema: of the events, from `log_schema`.
        staged: the features folder in the making; rejected rows hold positions, see `number_rejected`.
        num_partitions: of the users.
    """
    for number in batch.column("item").to_pylist():
        piece, rows, rejected = pieces[number], 0, list[pa.Table]()
        reasons, dropped = Counter[str](), Counter[str]()
        for raw in read_piece(piece, list(data.log_columns)):
            check_columns(raw.table.schema, data, piece.source.uri)
            block = normalise(raw, data, schema, piece.source.uri, piece.source.number)
            rows += raw.num_rows
            dropped.update(block.dropped)
            reasons.update(block.rejected.column("reason").to_pylist())
            if block.rejected.num_rows:
                rejected.append(block.rejected)
            yield to_shards(block.events, num_partitions)
        yield SHARDS.empty_table()
        name = f"{piece.source.number:05d}-{piece.start:012d}"
        if rejected:
            write_table(staged, f"rejected/read-{name}.parquet", pa.concat_tables(rejected).combine_chunks())
        counts = Counts(rows, dict(reasons), dict(dropped), [(piece.first_position, rows)])
        staged.write_json(f"stats/{name}.json", vars(counts))


def counts_by_file(sources: Sequence[Source], staged: Folder) -> dict[str, Counts]:
    """Return file -> what the read tasks counted in its pieces."""
    found = {source.number: list[Counts]() for source in sources}
    for name in staged.names("stats"):
        found[int(name.split("-")[0])].append(Counts(**staged.read_json(f"stats/{name}")))
    result: dict[str, Counts] = {}
    for source in sources:
        pieces = found[source.number]
        is_cut = source.kind != "parquet" and len(pieces) > 1
        cuts = sorted(cut for piece in pieces for cut in piece.cuts) if is_cut else []
        result[source.uri] = replace(Counts.total(pieces), cuts=cuts)
    return result


def number_rejected(staged: Folder, by_file: Mapping[str, Counts]) -> None:
    """Put row numbers in place of positions in `rejected/`, once every piece is read."""
    cuts = {uri: counts.cuts for uri, counts in by_file.items() if counts.cuts}
    for name in staged.names("rejected") if cuts else ():
        numbered_rows = number_rows(read_table(staged, f"rejected/{name}"), cuts)
        write_table(staged, f"rejected/{name}", numbered_rows)


@dataclass(frozen=True)
class Drafting:
    """What decides the sequences of a partition.

    Attributes:
        core: which events count.
        session, split: what decides sessions and roles.
        features: event-level feature -> its column.
    """

    core: Core
    session: SessionConfig
    split: SplitConfig
    features: dict[str, str]


WRITTEN = pa.schema([("partition", pa.int64()), ("duplicates", pa.int64()), ("summary", pa.large_binary())])


def write_partition(
    shards: pa.Table,
    staged: Folder,
    files: Sequence[str],
    keep_duplicates: bool = False,
    base: Base | None = None,
    drafting: Drafting | None = None,
) -> pa.Table:
    """Sort, de-duplicate and write the partitions of some shards; return one row per partition.

    Args:
        shards: rows of `to_shards`, every one of the partitions in them.
        staged: the features folder in the making.
        files: the log's files in order.
        keep_duplicates: keep rows that repeat another one.
        base: what earlier files of the log gave; the duplicates that they had are not counted again.
        drafting: draft the sequences too, while the events are at hand; None: not yet.
    Returns:
        Partition, its new duplicates, and its pickled summary from `draft_sequences` or nothing.
    """
    rows: list[dict[str, Any]] = []
    for number, events in from_shards(shards):
        if base and number in base.duplicates:
            events = pa.concat_tables([base.events(number), events]).combine_chunks()
        events, rejected = sort_events(events), REJECTED_SCHEMA.empty_table()
        if not keep_duplicates:
            events, rejected = split_duplicates(events, files)
        write_columns(staged, EVENTS.format(number), events)
        if rejected.num_rows:
            write_table(staged, DUPLICATES.format(number), by_row(rejected))
        part = PurePosixPath(EVENTS.format(number)).name
        summary = pickle.dumps(_draft(events, part, staged, drafting)) if drafting else b""
        rows.append({"partition": number, "duplicates": rejected.num_rows, "summary": summary})
    return pa.Table.from_pylist(rows, schema=WRITTEN)


def draft_sequences(part: str, staged: Folder, drafting: Drafting) -> dict[str, Any]:
    """Write `drafts/<part>`, the sequences but for the numbering of ids, and return what the partition adds.

    Args:
        part: name of the partition's file.
        staged: the features folder in the making.
        drafting: what decides the sequences.
    Returns:
        Counts for the summary, the digest of the events, and under `values` the distinct ids of each
        vocabulary, in the order of their codes in the draft, with their training events.
    """
    return _draft(read_table(staged, f"events/{part}").combine_chunks(), part, staged, drafting)


def _draft(read: pa.Table, part: str, staged: Folder, drafting: Drafting) -> dict[str, Any]:
    session, split, features = drafting.session, drafting.split, drafting.features
    table = drafting.core.apply(read)
    coded = {name: Coded.of(table.column(name)) for name in ("user_id", "item_id", *features.values())}
    windows = windows_of(table, coded["user_id"], session, split)
    draft = sequence_table(table, windows, coded, features)
    with staged.open_output(f"drafts/{part}") as file, pa.ipc.new_file(file, draft.schema) as writer:
        writer.write_table(draft)
    offsets, role = windows.timeline.offsets, windows.role
    train, has_history = role == TRAIN, windows.has_history("train")
    per_user = np.add.reduceat(np.append(train, False), offsets[:-1], dtype=np.int64)
    return {
        "read": read.num_rows,
        "events": table.num_rows,
        "train": int(train.sum()),
        "samples": int((train & has_history).sum()),
        "sample_counts": count_samples(offsets, windows.session, train, has_history),
        "newest_train_at": int(windows.timeline.at[train].max(initial=0)),
        "sessions": int((windows.session[offsets[1:] - 1] + 1).sum()),
        "queries": {
            name: len(np.unique(np.searchsorted(offsets, np.flatnonzero(role == value), side="right")))
            for name, value in (("valid", VALID), ("test", TEST))
        },
        "digest": content_digest(table, coded),
        "profile": profile_partition(
            offsets=offsets,
            users=coded["user_id"].values,
            at=windows.timeline.at,
            time_ns=np.asarray(table.column("time_ns").to_numpy()),
            item=coded["item_id"].codes,
            num_items=len(coded["item_id"].values),
            session=windows.session,
            role=role,
            config=session,
            whole=windows.timeline.unit if split.unit == "session" else None,
            event=table.column("event") if "event" in table.schema.names else None,
            nulls={name: table.column(column).null_count for name, column in features.items()},
        ),
        "values": {
            "user": (coded["user_id"].values.cast(pa.string()), per_user[: len(offsets) - 1]),
            "item": value_counts(coded["item_id"], train),
            **{f"event_{name}": value_counts(coded[column], train) for name, column in features.items()},
        },
    }


def write_sequences(
    part_and_idx: tuple[str, Mapping[str, np.ndarray]],
    staged: Folder,
    profile: Mapping[str, pa.Array],
    item_counts: np.ndarray,
) -> tuple[Tally, dict[str, int]]:
    """Write `sequences/<part>` from its draft; return its held-out items, for `profile.json`.

    Args:
        part_and_idx: the partition's file, and per vocabulary the idx of the draft's codes.
        staged: the features folder in the making.
        profile: column name -> values aligned to `user_idx`, with the reserved rows.
        item_counts: (V,) training events by item idx.
    """
    part, idx = part_and_idx
    with staged.open_input(f"drafts/{part}") as file:
        draft = pa.ipc.open_file(file).read_all()
    sequences = numbered(draft, idx, profile)
    write_columns(staged, f"sequences/{part}", sequences)
    item, role = (
        np.asarray(combine(sequences.column(name)).values.to_numpy()) for name in ("item_idx", "role")
    )
    return held_out(item, role, item_counts)
