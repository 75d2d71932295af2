"""A small features folder made of whole users of the log, to try a run on before the log is prepared.

It is what the data stage makes of these users, with every item of the log: the stage's own functions write
it. From its sizes follow those of the features of the whole log.
"""

from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.append import EVENTS
from raysys.data.budget import SAMPLE_COUNTS, sample_counts_table
from raysys.data.core import Core
from raysys.data.log_config import DataConfig
from raysys.data.parquet import write_columns, write_table
from raysys.data.partitions import num_partitions_of, sort_events, split_duplicates
from raysys.data.profile_file import item_counts
from raysys.data.shapes import SampleShape
from raysys.data.stages import Drafting, draft_sequences, write_sequences
from raysys.data.tables import write_side_tables
from raysys.data.vocabulary import Vocabulary
from raysys.errors import DataError
from raysys.manifest import Manifest, read_manifest
from raysys.planning.log_sample import LogSample
from raysys.planning.sizes import Sizes, sizes_of
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED, Schema
from raysys.storage import Folder

PART = EVENTS.format(0).rpartition("/")[2]


def write_trial_features(run: RunConfig, sample: LogSample, staged: Folder) -> Manifest:
    """Write a features folder of the sampled users and return its manifest.

    Raises:
        DataError: no event is left, or side tables that cannot be read.
    """
    events = core_of(run.data, sample)
    if not events.num_rows:
        raise DataError(
            f"{sample.sources[0].uri}: data.min_item_events = {run.data.min_item_events} and "
            f"data.min_user_events = {run.data.min_user_events} leave no event of those looked at; lower them"
        )
    write_columns(staged, EVENTS.format(0), events)
    drafting = Drafting(Core(None, 1), run.session, run.split, run.data.coded_features)
    draft = draft_sequences(PART, staged, drafting)
    values, others = draft.pop("values"), _other_items(run.data, sample)
    merged = {name: Vocabulary.merge([part]) for name, part in values.items() if name != "item"}
    merged["item"] = Vocabulary.merge([values["item"], others])
    vocabularies = {name: vocabulary for name, (vocabulary, _) in merged.items()}
    described, profile = write_side_tables(run.data, staged, vocabularies)
    for name, vocabulary in vocabularies.items():
        vocabulary.write(staged / "vocabularies", name)
    idx = {name: numbers[0] for name, (_, numbers) in merged.items()}
    write_sequences((PART, idx), staged, profile, item_counts(vocabularies["item"]))
    (staged / "drafts").delete()
    write_table(staged, SAMPLE_COUNTS, sample_counts_table({PART: draft["sample_counts"]}))
    info: dict[str, Any] = {
        "rows": sample.rows,
        "events": draft["events"],
        "users": vocabularies["user"].size - NUM_RESERVED,
        "items": vocabularies["item"].size - NUM_RESERVED,
        "train_events": draft["train"],
        "samples": draft["samples"],
        "queries": draft["queries"],
        "part_events": {PART: draft["events"]},
        "part_samples": {PART: draft["samples"]},
        "newest_train_at": draft["newest_train_at"],
        "schema": Schema(features=tuple(described)).to_table(),
        "vocabularies": {name: vocabulary.digest for name, vocabulary in vocabularies.items()},
    }
    Manifest(kind="features", config_digest=run.features_digest, parents={}, info=info).write(staged)
    return read_manifest(staged, "features", "plan")


def core_of(data: DataConfig, sample: LogSample) -> pa.Table:
    """Return the sorted events of the sampled users without repeats and without rare items and users.

    One round of the core's rule, by the counts of the whole log: a user may be left with fewer events.
    """
    events = sort_events(sample.table)
    if not data.keep_duplicates:
        events, _ = split_duplicates(events, [source.uri for source in sample.sources])
    if data.min_item_events > 1:
        rare = sample.items.ids.filter(pa.array(~_frequent(data, sample)))
        ids = events.column("item_id").cast(pa.large_string())
        events = events.filter(pc.invert(pc.is_in(ids, value_set=rare)))
    return Core(None, data.min_user_events).apply(events).combine_chunks()


def _frequent(data: DataConfig, sample: LogSample) -> np.ndarray:
    """Return (ids,) bool: which of the sampled items occur often enough in the whole log."""
    return sample.items.enough(data.min_item_events * sample.share)


def _other_items(data: DataConfig, sample: LogSample) -> tuple[pa.Array, np.ndarray]:
    """Return every item that belongs to the catalogue, and its events."""
    kept = _frequent(data, sample)
    return sample.items.ids.filter(pa.array(kept)).cast(pa.string()), sample.items.counts[kept]


def estimated_sizes(
    run: RunConfig, sample: LogSample, features: Folder, manifest: Manifest, shape: SampleShape | None
) -> Sizes:
    """Return the sizes of the whole log's features, from those of the sampled users'.

    Args:
        run: whose log it is.
        sample: of the log.
        features: the folder of the sampled users, from `write_trial_features`.
        manifest: of the folder.
        shape: of the training samples; None where a model learns without them.
    """
    small = sizes_of(features, manifest, shape, run.training.samples_per_user)
    left = small.events / max(sample.table.num_rows, 1)
    events = round(sample.events / sample.share * left)
    users_left = small.users / max(pc.count_distinct(sample.table.column("user_id")).as_py(), 1)
    users = max(1, round(sample.users.number * sample.growth[0] * users_left))
    items = max(1, round(small.items / sample.items.share * sample.growth[1]))
    by_event, by_item, by_user = events / small.events, items / small.items, users / small.users
    by_sample = by_user if run.training.samples_per_user else by_event
    parts = num_partitions_of(run.data, sample.sources)
    read = "read once" if sample.share >= 1 else f"{sample.share:.0%} of its rows read"
    return replace(
        small,
        source=f"estimates from the log ({read}; {small.users} users looked at closely)",
        is_exact=False,
        rows=sample.rows,
        events=events,
        users=users,
        items=items,
        train_events=round(small.train_events * by_event),
        samples=round(small.samples * by_sample),
        queries=round(small.queries * by_user),
        parts=parts,
        largest_part=-(-events // parts),
        event_bytes=round(small.event_bytes * by_event),
        item_bytes=round(small.item_bytes * by_item),
        user_bytes=round(small.user_bytes * by_user),
    )
