"""The core of a log: items and users with enough events, and what of a partition belongs to it."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.hashing import Coded
from raysys.data.sequences import user_offsets
from raysys.storage import Folder


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
