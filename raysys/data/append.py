"""A log that has grown: what the features built before it still hold, and how new events join them.

Events are stored in partitions of whole users, so a new day of logs touches the partitions of its users and no
other. A partition built so equals one built from scratch, byte for byte: the same rows, the same total order.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.events import REJECTED_SCHEMA, file_of, pack_place, position_of
from raysys.storage import Folder

EVENTS, DUPLICATES = "events/part-{:05d}.parquet", "rejected/duplicate-{:05d}.parquet"


@dataclass(frozen=True)
class Counts:
    """Rows read, and rows rejected and dropped by reason; of one file or of a log."""

    rows: int = 0
    rejected: dict[str, int] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)

    @staticmethod
    def total(parts: Sequence["Counts"]) -> "Counts":
        """Return the sum, reasons in order of their names."""
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
        with self.folder.open_input(EVENTS.format(partition)) as file:
            table = pq.read_table(file)
        place = np.asarray(table.column("place").to_numpy())
        moved = pack_place(self.renumber[file_of(place)], position_of(place))
        return table.set_column(table.schema.get_field_index("place"), "place", pa.array(moved))

    def rejected_duplicates(self, partition: int) -> pa.Table:
        """Return the duplicates that a partition rejected."""
        if not self.duplicates[partition]:
            return REJECTED_SCHEMA.empty_table()
        with self.folder.open_input(DUPLICATES.format(partition)) as file:
            return pq.read_table(file)

    def move_rejected(self, staged: Folder) -> None:
        """Bring the rows that reading rejected into the new folder, under the new numbers of their files."""
        for name in self.folder.names("rejected"):
            kind, number, rest = (name.split("-", 2) + ["", ""])[:3]
            if kind == "read":
                moved = f"read-{self.renumber[int(number)]:05d}-{rest}"
                self.folder.copy(f"rejected/{name}", staged, f"rejected/{moved}")


def log_entry(
    config: str,
    marks: Mapping[str, str],
    by_file: Mapping[str, Counts],
    duplicates: Mapping[int, int],
    num_partitions: int,
) -> dict[str, Any]:
    """Return what the manifest keeps so that the log can be appended later.

    Args:
        config: digest of what decides which rows become which events.
        marks: file -> size and time of change, in the order of the log.
        by_file, duplicates, num_partitions: as `Base` has them.
    """
    return {
        "config": config,
        "num_partitions": num_partitions,
        "files": [{"file": uri, "mark": mark, "counts": vars(by_file[uri])} for uri, mark in marks.items()],
        "duplicates": {str(number): count for number, count in sorted(duplicates.items())},
    }


def grown(log: Mapping[str, Any], marks: Mapping[str, str]) -> bool:
    """Return whether every file of a manifest's `log` is unchanged in the log as it is now.

    Args:
        log: the manifest's entry.
        marks: file -> its mark (size and time of change) now.
    """
    return all(marks.get(entry["file"]) == entry["mark"] for entry in log["files"])
