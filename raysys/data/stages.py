"""What one task of the data stage does to one piece of the log or to one user partition; no Ray, no torch.

The functions take and return small values and read and write files of the staged folder, so they run the same
in a
Ray task, in a loop of a test, and in a debugger.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.budget import count_samples
from raysys.data.events import REJECTED_SCHEMA, DataConfig, check_columns, event_schema, normalise
from raysys.data.files import Piece, read_piece
from raysys.data.parsing import combine
from raysys.data.partitions import content_digest, partition_of, sort_events, split_duplicates
from raysys.data.sequences import SessionConfig, sequence_table, windows_of
from raysys.data.splits import TEST, TRAIN, VALID, SplitConfig
from raysys.data.vocabulary import Vocabulary
from raysys.storage import Folder


def write_table(folder: Folder, name: str, table: pa.Table) -> None:
    with folder.open_output(name) as file:
        pq.write_table(table, file, compression="zstd")


def read_table(folder: Folder, name: str) -> pa.Table:
    with folder.open_input(name) as file:
        return pq.read_table(file)


def read_events(
    batch: pa.Table, pieces: list[Piece], data: DataConfig, staged: Folder, num_partitions: int
) -> Iterator[pa.Table]:
    """Yield the canonical events of some pieces with their partition; rejected rows and counts go to
    files."""
    schema = event_schema(data).append(pa.field("partition", pa.int32()))
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
            partition = partition_of(block.events.column("user_id"), num_partitions)
            yield block.events.append_column(schema.field("partition"), pa.array(partition))
        yield schema.empty_table()
        if rejected:
            write_table(staged, f"rejected/read-{number:05d}.parquet", pa.concat_tables(rejected))
        stats = {"rows": row - piece.first_row, "rejected": dict(reasons), "dropped": dict(dropped)}
        staged.write_json(f"stats/{number:05d}.json", stats)


def write_partition(
    block: pa.Table, staged: Folder, files: list[str], keep_duplicates: bool = False
) -> pa.Table:
    """Sort, de-duplicate and write the partitions of a shuffled block; return one row per partition."""
    numbers = np.asarray(block.column("partition").to_numpy()) if block.num_rows else np.zeros(0, np.int32)
    rows: list[dict[str, int]] = []
    for number in np.unique(numbers):
        events = sort_events(block.filter(pa.array(numbers == number)).drop_columns(["partition"]))
        rejected = REJECTED_SCHEMA.empty_table()
        if not keep_duplicates:
            events, rejected = split_duplicates(events, files)
        write_table(staged, f"events/part-{number:05d}.parquet", events)
        if rejected.num_rows:
            write_table(staged, f"rejected/duplicate-{number:05d}.parquet", rejected)
        rows.append({"partition": int(number), "events": events.num_rows, "duplicates": rejected.num_rows})
    schema = pa.schema([(name, pa.int64()) for name in ("partition", "events", "duplicates")])
    return pa.Table.from_pylist(rows, schema=schema)


@dataclass(frozen=True)
class Core:
    """Which events count: those of kept items (None: all) by users who then have enough of them."""

    kept_items: pa.Array | None
    min_user_events: int

    def apply(self, table: pa.Table) -> pa.Table:
        """Return the events of a partition that belong to the core."""
        if self.kept_items is not None:
            table = table.filter(pc.is_in(table.column("item_id"), value_set=self.kept_items))
        if self.min_user_events > 1 and table.num_rows:
            codes = np.asarray(combine(table.column("user_id")).dictionary_encode().indices)
            table = table.filter(pa.array(np.bincount(codes)[codes] >= self.min_user_events))
        return table


def count_items(part: str, staged: Folder, core: Core) -> tuple[pa.Array, np.ndarray]:
    """Return the items of a partition's core and their event counts."""
    with staged.open_input(f"events/{part}") as file:
        table = core.apply(pq.read_table(file, columns=["user_id", "item_id"]))
    return value_counts(table.column("item_id"), None)


def value_counts(column: pa.ChunkedArray, counted: np.ndarray | None) -> tuple[pa.Array, np.ndarray]:
    """Return the distinct values and how many of their rows count."""
    codes = combine(column).dictionary_encode()
    index = np.asarray(pc.fill_null(codes.indices, -1).to_numpy(zero_copy_only=False))
    keep = index >= 0 if counted is None else (index >= 0) & counted
    return codes.dictionary, np.bincount(index[keep], minlength=len(codes.dictionary)).astype(np.int64)


def count_partition(
    part: str,
    staged: Folder,
    core: Core,
    session: SessionConfig,
    split: SplitConfig,
    features: tuple[str, ...],
) -> dict[str, Any]:
    """Return what one partition adds to the vocabularies (training counts) and to the summary."""
    read = read_table(staged, f"events/{part}")
    table = core.apply(read)
    windows, users = windows_of(table, session, split)
    train = windows.role == TRAIN
    owner = windows.timeline.user
    before = np.concatenate([[0], np.cumsum(train)])
    base = windows.timeline.offsets[:-1][owner]
    has_history = before[base + windows.cut] > before[base]
    values = {
        "user": (users, np.bincount(owner[train], minlength=len(users)).astype(np.int64)),
        "item": value_counts(table.column("item_id"), train),
        **{f"event_{name}": value_counts(table.column(name), train) for name in features},
    }
    return {
        "read": read.num_rows,
        "events": table.num_rows,
        "train": int(train.sum()),
        "samples": int((train & has_history).sum()),
        "sample_counts": count_samples(windows.timeline.offsets, windows.session, train, has_history),
        "newest_train_at": int(windows.timeline.at[train].max(initial=0)),
        "sessions": int((windows.session[windows.timeline.offsets[1:] - 1] + 1).sum()),
        "queries": {
            "valid": len(np.unique(owner[windows.role == VALID])),
            "test": len(np.unique(owner[windows.role == TEST])),
        },
        "digest": content_digest(table),
        "values": values,
    }


def write_sequences(
    part: str,
    staged: Folder,
    core: Core,
    session: SessionConfig,
    split: SplitConfig,
    vocabularies: Mapping[str, Vocabulary],
    profile: Mapping[str, pa.Array],
) -> int:
    """Write `sequences/<part>`; return its number of users."""
    table = core.apply(read_table(staged, f"events/{part}"))
    windows, users = windows_of(table, session, split)
    write_table(staged, f"sequences/{part}", sequence_table(table, windows, users, vocabularies, profile))
    return len(users)
