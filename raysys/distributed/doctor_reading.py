"""What the doctor reads of a run: a sample of users with their histories, real batches, item vectors, lists.

Nothing here judges; what is read goes to the checks of `raysys.evaluation.doctor`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from raysys.data.epochs import drawn_rows, read_samples
from raysys.data.interactions import read_entries
from raysys.data.parsing import combine
from raysys.data.queries import Queries, read_queries
from raysys.data.samples import Samples
from raysys.data.shapes import SampleShape
from raysys.distributed.loop import Job
from raysys.evaluation.doctor.census import COLUMNS, Census
from raysys.evaluation.doctor.history_checks import Sampled, Shown, Stored
from raysys.evaluation.doctor.raw_log import read_users
from raysys.evaluation.doctor.timeline import TEST, TRAIN, VALID, Timeline, build_timeline
from raysys.manifest import Manifest
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED
from raysys.seeds import generator
from raysys.storage import Folder

MOST_PARTS = 4
MOST_USERS = 128
"""Users whose histories are compared with the log."""
MOST_EVENTS = 20_000
"""Events of such a user at most: what should be is worked out event by event."""
PER_USER = 8
"""Training samples of a user that are looked at."""
MOST_TESTED = 512
"""Users that are encoded and answered."""
MOST_ROWS = 4096
"""Rows of a real batch."""
BATCHES = 4
BLOCK = 8192
PARTS = {"valid": VALID, "test": TEST}

IdCounts = dict[str, tuple[int, int]]
"""Place -> item ids looked at, and those that stand for no item."""


@dataclass(frozen=True)
class Reading:
    """The features of a run, and what decides its samples."""

    run: RunConfig
    features: Folder
    manifest: Manifest
    shape: SampleShape

    @property
    def num_items(self) -> int:
        """Rows of an item table, the reserved ones included."""
        return int(self.manifest.info["items"]) + NUM_RESERVED

    @property
    def parts(self) -> list[str]:
        """A few of the sequence files, by chance."""
        names = sorted(name for name, events in self.manifest.info["part_events"].items() if events)
        order = generator(self.run.training.seed, "doctor", "parts").permutation(len(names))
        return sorted(names[i] for i in order[:MOST_PARTS])

    def census(self) -> Census:
        """Count over all sequence files, one in memory at a time."""
        return Census.of(self.num_items, self._tables())

    def _tables(self) -> Iterator[pa.Table]:
        for part in sorted(self.manifest.info["part_events"]):
            yield read_columns(self.features, f"sequences/{part}", COLUMNS)

    def item_ids(self) -> pa.Array:
        """Return the ids of the vocabulary in the order of item_idx, without the reserved ones."""
        table = read_columns(self.features, "vocabularies/item.parquet", ("idx", "id"))
        return combine(table.sort_by("idx").column("id"))

    def samples(self, part: str) -> Samples:
        """Return the training samples of one sequence file, as training cuts them."""
        job = Job(self.run, self.features, self.manifest, self.features)
        return read_samples(job.plan, [part], self.features, 0)

    def batches(self) -> list[dict[str, np.ndarray]]:
        """Return some real batches of one sequence file, without what the loss adds."""
        job = Job(self.run, self.features, self.manifest, self.features)
        samples = self.samples(self.parts[0])
        order = generator(self.run.training.seed, "doctor", "rows").permutation(
            drawn_rows(job.plan, samples, 0)
        )
        size = min(self.run.training.batch_size, MOST_ROWS)
        return [samples.batch(order[start : start + size]) for start in range(0, len(order), size)[:BATCHES]]


def read_columns(folder: Folder, name: str, columns: tuple[str, ...]) -> pa.Table:
    """Return some columns of a Parquet file."""
    with folder.open_input(name) as file:
        return pq.read_table(file, columns=list(columns))


@dataclass(frozen=True)
class Chosen:
    """Some users of one sequence file: their rows in it, ids and stored events."""

    part: str
    rows: np.ndarray
    users: list[str]
    stored: dict[str, Stored]


def choose_users(reading: Reading) -> list[Chosen]:
    """Return users of a few sequence files: half of them by chance, half of those with histories that have to
    be cut, as far as there are any."""
    chosen: list[Chosen] = []
    share = -(-MOST_USERS // len(reading.parts))
    longest = reading.shape.history_length or reading.shape.reach or 50
    for part in reading.parts:
        table = read_columns(reading.features, f"sequences/{part}", ("user_id", "item_idx", "at", "role"))
        sizes = np.asarray(pc.list_value_length(table.column("item_idx")).to_numpy())
        draw = generator(reading.run.training.seed, "doctor", "users", part).permutation(len(sizes))
        draw = draw[sizes[draw] <= MOST_EVENTS]
        long = draw[sizes[draw] > longest + 2][: share // 2]
        rows = np.sort(
            np.concatenate([long, np.setdiff1d(draw, long, assume_unique=True)[: share - len(long)]])
        )
        few = table.take(pa.array(rows))
        users = few.column("user_id").to_pylist()
        columns = (few.column(name).to_pylist() for name in ("item_idx", "at", "role"))
        stored = {user: Stored(*events) for user, *events in zip(users, *columns, strict=True)}
        chosen.append(Chosen(part, rows, users, stored))
    return chosen


def sample_histories(reading: Reading) -> tuple[Sampled, IdCounts]:
    """Return a sample of users with what the log, `sequences/` and the batches say of them, and counts of the
    ids in targets.

    Raises:
        DataError: the log cannot be read.
    """
    chosen = choose_users(reading)
    users = [user for some in chosen for user in some.users]
    logged = read_users(reading.run.data, users, reading.item_ids())
    stored = {user: events for some in chosen for user, events in some.stored.items()}
    timelines = {
        user: build_timeline(logged[user], reading.run.session, reading.run.split, stored[user].roles)
        for user in users
    }
    shown: list[Shown] = []
    counts: IdCounts = {}
    for some in chosen:
        if reading.run.learns_by == "gradient" and reading.shape.kind == "next_item":
            shown += _shown_in_training(reading, some, timelines)
        for part in PARTS:
            queries = read_queries(reading.features, some.part, part, reading.shape)
            shown += _shown_in_queries(queries, part, some, timelines)
    for part in ("train", *PARTS):
        targets = np.array([item for one in shown if one.part == part for item in one.targets], np.int64)
        if len(targets):
            counts[f"{part} targets"] = count_ids(targets, reading.num_items)
    matrix = _matrix(reading, chosen) if reading.run.learns_by == "rows" else None
    return Sampled(timelines, stored, shown, reading.shape, matrix), counts


def count_ids(item_idx: np.ndarray, num_items: int) -> tuple[int, int]:
    """Return how many ids there are, and how many of them stand for no item."""
    return len(item_idx), int(((item_idx < NUM_RESERVED) | (item_idx >= num_items)).sum())


def _matrix(reading: Reading, chosen: list[Chosen]) -> dict[str, dict[int, int]]:
    """Return user -> item_idx -> events, as a counting model reads them."""
    result: dict[str, dict[int, int]] = {}
    for some in chosen:
        entries = read_entries(reading.features, some.part)
        numbers = read_columns(reading.features, f"sequences/{some.part}", ("user_idx",)).column("user_idx")
        for row, user in zip(some.rows.tolist(), some.users, strict=True):
            mine = np.flatnonzero(entries.user_idx == numbers[row].as_py())
            pairs = zip(entries.item_idx[mine].tolist(), entries.count[mine].tolist(), strict=True)
            result[user] = dict(pairs)
    return result


def _shown_in_training(reading: Reading, some: Chosen, timelines: Mapping[str, Timeline]) -> list[Shown]:
    samples = reading.samples(some.part)
    owners, places = samples.owner, samples.place
    mine = np.flatnonzero(np.isin(owners, some.rows))
    draw = generator(reading.run.training.seed, "doctor", "samples", some.part).permutation(len(mine))
    rows, taken = list[int](), dict[int, int]()
    ends = np.append(np.flatnonzero(np.diff(owners[mine])), len(mine) - 1) if len(mine) else draw
    for place in dict.fromkeys([*ends.tolist(), *draw.tolist()]):  # the last one of every user is among them
        owner = int(owners[mine[place]])
        taken[owner] = taken.get(owner, 0) + 1
        if taken[owner] <= PER_USER:
            rows.append(int(mine[place]))
    if not rows:
        return []
    batch, user_of = samples.batch(np.array(rows)), dict(zip(some.rows.tolist(), some.users, strict=True))
    targets = batch["target"].reshape(len(rows), -1)
    result: list[Shown] = []
    for number, row in enumerate(rows):
        user, place = user_of[int(owners[row])], int(places[row])
        trained = [p for p, role in enumerate(timelines[user].roles) if role == TRAIN]
        position = trained[place] if place < len(trained) else -1
        real = targets[number, :1].tolist() + [item for item in targets[number, 1:].tolist() if item]
        result.append(Shown(user, "train", position, _real(batch, number), real))
    return result


def _shown_in_queries(
    queries: Queries, part: str, some: Chosen, timelines: Mapping[str, Timeline]
) -> list[Shown]:
    mine = pc.is_in(queries.user_id, value_set=pa.array(some.users, queries.user_id.type))
    rows = np.flatnonzero(mine.to_numpy(zero_copy_only=False))
    if not len(rows):
        return []
    batch = queries.batch(rows)
    result: list[Shown] = []
    for number, row in enumerate(rows.tolist()):
        user = queries.user_id[row].as_py()
        roles = timelines[user].roles
        position = roles.index(PARTS[part]) if PARTS[part] in roles else -1
        truth = queries.truth_items[queries.truth_offsets[row] : queries.truth_offsets[row + 1]].tolist()
        result.append(Shown(user, part, position, _real(batch, number), truth))
    return result


def _real(batch: Mapping[str, np.ndarray], row: int) -> dict[str, list[int]]:
    """Return the items that a row shows; padding stands before them, and nowhere else."""
    names = [name for name in ("history", "short", "long_item") if name in batch]
    return {name: np.trim_zeros(batch[name][row], "f").tolist() for name in names}


def read_vectors(vectors: Folder) -> Iterator[tuple[np.ndarray, pa.Array, np.ndarray]]:
    """Yield item_idx (M,) int64, item_id and vectors (M, D) of blocks of `items.parquet`."""
    with vectors.open_input("items.parquet") as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=BLOCK):
            column = batch.column("vector")
            values = np.asarray(column.flatten().to_numpy(zero_copy_only=False)).reshape(batch.num_rows, -1)
            yield (
                np.asarray(batch.column("item_idx").to_numpy()).astype(np.int64),
                batch.column("item_id"),
                values,
            )


def count_recommended(evaluation: Folder, ids: pa.Array) -> tuple[int, int]:
    """Return the rows of `recommendations.parquet`, and those whose item is none of the vocabulary's."""
    rows = wrong = 0
    with evaluation.open_input("recommendations.parquet") as file:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=2**18, columns=["item_id"]):
            known = pc.is_in(batch.column("item_id").cast(ids.type), value_set=ids)
            rows, wrong = rows + batch.num_rows, wrong + int(pc.sum(pc.invert(known)).as_py() or 0)
    return rows, wrong


def count_neighbours(table: Folder, num_items: int) -> tuple[int, int]:
    """Return the ids in `table/items.parquet`, and those that stand for no item."""
    total = wrong = 0
    with table.open_input("items.parquet") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["item_idx", "neighbour_idx"]):
            found: list[Any] = [batch.column("item_idx"), batch.column("neighbour_idx").flatten()]
            for values in found:
                some = count_ids(np.asarray(values.to_numpy(zero_copy_only=False)), num_items)
                total, wrong = total + some[0], wrong + some[1]
    return total, wrong
