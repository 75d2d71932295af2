"""What one task of the data stage does to one piece of the log or to one user partition; no Ray, no torch.

The functions take and return small values and read and write files of the staged folder, so they run the same
in a Ray task, in a loop of a test, and in a debugger.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.append import DUPLICATES, EVENTS, Base, Counts
from raysys.data.events import REJECTED_SCHEMA, DataConfig, check_columns, normalise
from raysys.data.files import Piece, Source, read_piece
from raysys.data.partitions import (
    SHARDS,
    Coded,
    content_digest,
    from_shards,
    sort_events,
    split_duplicates,
    to_shards,
)
from raysys.data.sequences import SessionConfig, numbered, sequence_table, user_offsets, windows_of
from raysys.data.splits import TEST, TRAIN, VALID, SplitConfig
from raysys.storage import Folder


def write_table(folder: Folder, name: str, table: pa.Table) -> None:
    with folder.open_output(name) as file:
        pq.write_table(table, file, compression="zstd")


def write_columns(folder: Folder, name: str, table: pa.Table) -> None:
    """Write a big sorted table: differences for whole numbers, dictionaries for text.

    Encoding costs as much as everything else that is done to an event, so what does not pay is left out.
    """
    delta, rest = dict[str, str](), list[str]()
    for field in table.schema:
        is_list = pa.types.is_list(field.type) or pa.types.is_fixed_size_list(field.type)
        kind = field.type.value_type if is_list else field.type
        leaf = f"{field.name}.list.element" if is_list else field.name
        if pa.types.is_int64(kind) or pa.types.is_int32(kind):
            delta[leaf] = "DELTA_BINARY_PACKED"
        else:
            rest.append(leaf)
    with folder.open_output(name) as file:
        pq.write_table(
            table,
            file,
            compression={leaf: "none" for leaf in delta} | {leaf: "zstd" for leaf in rest},
            use_dictionary=rest,
            column_encoding=delta,
            write_statistics=False,
        )


def read_table(folder: Folder, name: str) -> pa.Table:
    with folder.open_input(name) as file:
        return pq.read_table(file)


def read_events(
    batch: pa.Table, pieces: list[Piece], data: DataConfig, staged: Folder, num_partitions: int
) -> Iterator[pa.Table]:
    """Yield the events of some pieces of the log as shards; rejected rows and counts go to files."""
    for number in batch.column("item").to_pylist():
        piece, row, rejected = pieces[number], pieces[number].first_row, []
        reasons, dropped = Counter[str](), Counter[str]()
        for raw in read_piece(piece, list(data.columns.values())):
            check_columns(raw.schema, data, piece.source.uri)
            block = normalise(raw, data, piece.source.uri, piece.source.number, row)
            row += raw.num_rows
            dropped.update(block.dropped)
            reasons.update(block.rejected.column("reason").to_pylist())
            if block.rejected.num_rows:
                rejected.append(block.rejected)
            yield to_shards(block.events, num_partitions)
        yield SHARDS.empty_table()
        name = f"{piece.source.number:05d}-{piece.start:012d}"
        if rejected:
            write_table(staged, f"rejected/read-{name}.parquet", pa.concat_tables(rejected))
        counts = Counts(row - piece.first_row, dict(reasons), dict(dropped))
        staged.write_json(f"stats/{name}.json", vars(counts))


def counts_by_file(sources: Sequence[Source], staged: Folder) -> dict[str, Counts]:
    """Return file -> what the read tasks counted in its pieces."""
    found = dict[int, list[Counts]]()
    for name in staged.names("stats"):
        found.setdefault(int(name.split("-")[0]), []).append(Counts(**staged.read_json(f"stats/{name}")))
    return {source.uri: Counts.total(found.get(source.number, [])) for source in sources}


WRITTEN = pa.schema([(name, pa.int64()) for name in ("partition", "events", "duplicates")])


def write_partition(
    shards: pa.Table,
    staged: Folder,
    files: Sequence[str],
    keep_duplicates: bool = False,
    base: Base | None = None,
) -> pa.Table:
    """Sort, de-duplicate and write the partitions of some shards; return one row per partition.

    Args:
        shards: rows of `to_shards`, every one of the partitions in them.
        staged: the features folder in the making.
        files: the log's files in order.
        keep_duplicates: keep rows that repeat another one.
        base: what earlier files of the log gave.
    """
    rows: list[dict[str, int]] = []
    for number, events in from_shards(shards):
        before = base if base and number in base.duplicates else None
        if before:
            events = pa.concat_tables([before.events(number), events]).combine_chunks()
        events, rejected = sort_events(events), REJECTED_SCHEMA.empty_table()
        if not keep_duplicates:
            events, rejected = split_duplicates(events, files)
        if before:
            rejected = pa.concat_tables([before.rejected_duplicates(number), rejected])
        write_columns(staged, EVENTS.format(number), events)
        if rejected.num_rows:
            order = [(name, "ascending") for name in ("file", "row")]
            write_table(staged, DUPLICATES.format(number), rejected.sort_by(order).combine_chunks())
        rows.append({"partition": number, "events": events.num_rows, "duplicates": rejected.num_rows})
    return pa.Table.from_pylist(rows, schema=WRITTEN)


def move_partition(number: int, staged: Folder, base: Base) -> None:
    """Bring a partition that no new event belongs to into the new folder."""
    if base.unmoved:
        base.folder.copy(EVENTS.format(number), staged, EVENTS.format(number))
    else:
        write_columns(staged, EVENTS.format(number), base.events(number))
    if base.duplicates[number]:
        base.folder.copy(DUPLICATES.format(number), staged, DUPLICATES.format(number))


@dataclass(frozen=True)
class Core:
    """Which events count: those of kept items (None: all) by users who then have enough of them."""

    kept_items: pa.Array | None
    min_user_events: int

    def apply(self, table: pa.Table) -> pa.Table:
        """Return the events of a partition, sorted by user, that belong to the core."""
        if self.kept_items is not None:
            items = Coded.of(table.column("item_id"))
            kept = pc.is_in(items.values, value_set=self.kept_items.cast(pa.large_string()))
            mask = np.append(np.asarray(kept.to_numpy(zero_copy_only=False)), False)[items.codes]
            table = table.filter(pa.array(mask))
        if self.min_user_events > 1 and table.num_rows:
            sizes = np.diff(user_offsets(Coded.of(table.column("user_id"))))
            table = table.filter(pa.array(np.repeat(sizes >= self.min_user_events, sizes)))
        return table


def count_items(part: str, staged: Folder, core: Core) -> tuple[pa.Array, np.ndarray]:
    """Return the items of a partition's core and their event counts."""
    with staged.open_input(f"events/{part}") as file:
        table = core.apply(pq.read_table(file, columns=["user_id", "item_id"]))
    return value_counts(Coded.of(table.column("item_id")), None)


def value_counts(column: Coded, counted: np.ndarray | None) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct values, in the order of their codes, and how many of their rows count."""
    codes = column.codes if counted is None else column.codes[counted]
    counts = np.bincount(codes, minlength=len(column.values) + 1)[:-1]
    return column.values.cast(pa.string()), counts.astype(np.int64)


def draft_sequences(
    part: str,
    staged: Folder,
    core: Core,
    session: SessionConfig,
    split: SplitConfig,
    features: Mapping[str, str],
) -> dict[str, Any]:
    """Write `drafts/<part>`, the sequences but for the numbering of ids, and return what the partition adds.

    Args:
        part: name of the partition's file.
        staged: the features folder in the making.
        core: which events count.
        session, split: what decides sessions and roles.
        features: event-level feature -> its column.
    Returns:
        Counts for the summary, the digest of the events, and under `values` the distinct ids of each vocabulary,
        in the order of their codes in the draft, with their training events.
    """
    read = read_table(staged, f"events/{part}").combine_chunks()
    table = core.apply(read)
    coded = {name: Coded.of(table.column(name)) for name in ("user_id", "item_id", *features.values())}
    windows = windows_of(table, coded["user_id"], session, split)
    draft = sequence_table(table, windows, coded, features)
    with staged.open_output(f"drafts/{part}") as file, pa.ipc.new_file(file, draft.schema) as writer:
        writer.write_table(draft)
    offsets, role = windows.timeline.offsets, windows.role
    train = role == TRAIN
    per_user = np.add.reduceat(np.append(train, False), offsets[:-1], dtype=np.int64)
    return {
        "read": read.num_rows,
        "events": table.num_rows,
        "train": int(train.sum()),
        "samples": int((train & windows.has_history("train")).sum()),
        "sessions": int((windows.session[offsets[1:] - 1] + 1).sum()),
        "queries": {
            name: len(np.unique(np.searchsorted(offsets, np.flatnonzero(role == value), side="right")))
            for name, value in (("valid", VALID), ("test", TEST))
        },
        "digest": content_digest(table, coded),
        "values": {
            "user": (coded["user_id"].values.cast(pa.string()), per_user[: len(offsets) - 1]),
            "item": value_counts(coded["item_id"], train),
            **{f"event_{name}": value_counts(coded[column], train) for name, column in features.items()},
        },
    }


def write_sequences(
    part_and_idx: tuple[str, Mapping[str, np.ndarray]], staged: Folder, profile: Mapping[str, pa.Array]
) -> None:
    """Write `sequences/<part>` from its draft.

    Args:
        part_and_idx: the partition's file, and per vocabulary the idx of the draft's codes.
        staged: the features folder in the making.
        profile: column name -> values aligned to `user_idx`, with the reserved rows.
    """
    part, idx = part_and_idx
    with staged.open_input(f"drafts/{part}") as file:
        draft = pa.ipc.open_file(file).read_all()
    write_columns(staged, f"sequences/{part}", numbered(draft, idx, profile))
