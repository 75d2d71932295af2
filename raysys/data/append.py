"""A log that has grown: what the features built before it still hold, and how new events join them.

Events are stored in partitions of whole users, so a new day of logs touches the partitions of its users and
no other. A partition built so equals one built from scratch byte for byte: the order of events is total.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from raysys.data.events import POSITION_BITS, file_of, position_of
from raysys.data.parquet import read_table, write_columns, write_table
from raysys.storage import Folder

EVENTS = "events/part-{:05d}.parquet"
DUPLICATES = "rejected/duplicate-{:05d}.parquet"


@dataclass(frozen=True)
class Counts:
    """Rows read, and rows rejected and dropped by reason; of a piece, of a file or of a log.

    `cuts` holds first position and rows of each piece of a text file that was read in several.
    """

    rows: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    cuts: list[tuple[int, int]] = field(default_factory=list)

    @staticmethod
    def total(parts: Sequence["Counts"]) -> "Counts":
        """Return the sum, reasons in order of their names and without cuts."""
        rejected, dropped = Counter[str](), Counter[str]()
        for part in parts:
            rejected.update(part.rejected)
            dropped.update(part.dropped)
        return Counts(sum(part.rows for part in parts), _positive(rejected), _positive(dropped))


def _positive(counter: Mapping[str, int]) -> dict[str, int]:
    return {reason: count for reason, count in sorted(counter.items()) if count}


@dataclass(frozen=True)
class Base:
    """Features of some of a log's files, to which the rest of the log is added.

    Attributes:
        folder: the features.
        num_partitions: of the users.
        counts: file -> what it gave.
        duplicates: partition -> rows rejected as duplicates.
        renumber: (F,) int64, the number of each old file in the log as it is now.
    """

    folder: Folder
    num_partitions: int
    counts: dict[str, Counts]
    duplicates: dict[int, int]
    renumber: np.ndarray

    @staticmethod
    def of(folder: Folder, log: Mapping[str, Any], files: Sequence[str]) -> "Base":
        """Return the base that a manifest's `log` describes; `files` is the log as it is now, in order."""
        number = {uri: i for i, uri in enumerate(files)}
        return Base(
            folder=folder,
            num_partitions=log["num_partitions"],
            counts={entry["file"]: Counts(**entry["counts"]) for entry in log["files"]},
            duplicates={int(name): count for name, count in log["duplicates"].items()},
            renumber=np.array([number[entry["file"]] for entry in log["files"]], dtype=np.int64),
        )

    @property
    def unmoved(self) -> bool:
        """Whether every file has the number that it had."""
        return bool((self.renumber == np.arange(len(self.renumber))).all())

    def events(self, partition: int) -> pa.Table:
        """Return the events of a partition, with places in the log as it is now."""
        table = read_table(self.folder, EVENTS.format(partition))
        place = np.asarray(table.column("place").to_numpy())
        moved = position_of(place) | self.renumber[file_of(place)] << POSITION_BITS
        return table.set_column(table.schema.get_field_index("place"), "place", pa.array(moved))


def move_partition(number: int, staged: Folder, base: Base) -> None:
    """Bring a partition that no new event belongs to into the new folder."""
    if base.unmoved:
        base.folder.copy(EVENTS.format(number), staged, EVENTS.format(number))
    else:
        write_columns(staged, EVENTS.format(number), base.events(number))


def move_rejected(staged: Folder, base: Base) -> None:
    """Bring the rows that the base rejected into the new folder, duplicates beside those found since."""
    for name in base.folder.names("rejected"):
        kind, number, *rest = name.split("-")
        if kind == "read":
            moved = "-".join([kind, f"{base.renumber[int(number)]:05d}", *rest])
            base.folder.copy(f"rejected/{name}", staged, f"rejected/{moved}")
        else:
            tables = [read_table(base.folder, f"rejected/{name}")]
            if staged.exists(f"rejected/{name}"):
                tables.append(read_table(staged, f"rejected/{name}"))
            write_table(staged, f"rejected/{name}", by_row(pa.concat_tables(tables)))


def by_row(rejected: pa.Table) -> pa.Table:
    """Return rejected rows in the order of the log."""
    return rejected.sort_by([("file", "ascending"), ("row", "ascending")]).combine_chunks()


def set_aside(base: Base, place: Folder) -> Base:
    """Copy what a base holds to another folder of its file system, and return the base there."""
    names = [name for name in base.folder.files() if name.startswith(("events/", "rejected/"))]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: base.folder.copy(name, place, name), names))
    return replace(base, folder=place)


def log_entry(
    config: str,
    schema: pa.Schema,
    marks: Mapping[str, str],
    by_file: Mapping[str, Counts],
    duplicates: Mapping[int, int],
    num_partitions: int,
) -> dict[str, Any]:
    """Return what the manifest keeps so that the log can be appended later.

    Args:
        config: digest of what decides which rows become which events.
        schema: of the events.
        marks: file -> size and time of change, in the order of the log.
        by_file, duplicates, num_partitions: as `Base` has them.
    """
    return {
        "config": config,
        "schema": {field.name: str(field.type) for field in schema},
        "num_partitions": num_partitions,
        "files": [{"file": uri, "mark": mark, "counts": vars(by_file[uri])} for uri, mark in marks.items()],
        "duplicates": {str(number): count for number, count in sorted(duplicates.items())},
    }


def grown(log: Mapping[str, Any], schema: pa.Schema, marks: Mapping[str, str]) -> bool:
    """Return whether every file of a manifest's `log` is unchanged in the log as it is now.

    Args:
        log: the manifest's entry.
        schema: of the events of the log as it is now; the order of its columns counts.
        marks: file -> its mark (size and time of change) now.
    """
    same = list(log["schema"].items()) == [(field.name, str(field.type)) for field in schema]
    return same and all(marks.get(entry["file"]) == entry["mark"] for entry in log["files"])
