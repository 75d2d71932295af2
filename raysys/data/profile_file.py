"""`features/profile.json`, and what of the rejected rows helps to explain it."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.description import describe
from raysys.data.mistakes import Config, Log, Mistake, likely_mistakes
from raysys.data.parquet import read_table
from raysys.data.profile import PartitionProfile, merge, with_held_out
from raysys.data.tally import Tally
from raysys.data.vocabulary import Vocabulary
from raysys.schema import NUM_RESERVED
from raysys.storage import Folder

COUNTS = (
    "rows", "rejected", "dropped", "events", "users", "items", "sessions", "train_events", "samples",
    "queries",
)  # fmt: skip
"""What profile.json repeats of the manifest."""


def item_counts(items: Vocabulary) -> np.ndarray:
    """Return (V,) training events by item idx; 0 for the reserved ones."""
    return np.concatenate([np.zeros(NUM_RESERVED, np.int64), items.counts])


def rejected_rows(staged: Folder, reasons: Sequence[str], most: int = 1000) -> list[dict[str, Any]]:
    """Return some of the rows that were rejected for these reasons, from the first files that have any."""
    rows: list[dict[str, Any]] = []
    for name in staged.names("rejected"):
        if len(rows) < most:
            table = read_table(staged, f"rejected/{name}")
            kept = table.filter(pc.is_in(table.column("reason"), value_set=pa.array(reasons, pa.string())))
            rows += kept.slice(0, most - len(rows)).to_pylist()
    return rows


def write_profile(
    staged: Folder,
    info: Mapping[str, Any],
    profiles: Sequence[PartitionProfile],
    held_out: Sequence[tuple[Tally, dict[str, int]]],
    vocabularies: Mapping[str, Vocabulary],
    config: Config,
) -> list[Mistake]:
    """Write `profile.json` and return its likely mistakes.

    Args:
        staged: the features folder.
        info: what the manifest says of it.
        profiles, held_out: those of all partitions.
        vocabularies: name -> vocabulary.
        config: what the run asked for.
    """
    total, items = with_held_out(merge(profiles), held_out), vocabularies["item"]
    num_values = {
        name: vocabularies[f"event_{name}"].size - NUM_RESERVED for name in config.data.coded_features
    }
    profile = describe(total, item_counts(items), config.session, num_values)
    timed = [reason for reason in ("time_out_of_range", "unparsable_time") if info["rejected"].get(reason)]
    log = Log(
        total=total,
        rows=info["rows"],
        rejected=info["rejected"],
        rejected_rows=rejected_rows(staged, timed) if timed else [],
        users=vocabularies["user"].ids,
        items=items.ids,
    )
    mistakes = likely_mistakes(profile, log, config)
    counts = {name: info[name] for name in COUNTS}
    staged.write_json("profile.json", {"likely_mistakes": mistakes, "counts": counts, **profile})
    return mistakes
