"""The data stage in one process: the package's own stages, called in a loop instead of as Ray tasks."""

from unittest import mock

import pyarrow as pa

from raysys.data.files import pieces_of
from raysys.data.history import last_positions, load_sequences, take
from raysys.data.queries import queries_of
from raysys.data.samples import training_samples
from raysys.data.stages import read_events, write_partition
from raysys.data.vocabulary import Vocabulary
from raysys.distributed import datasets, shuffle
from raysys.run import read_run
from raysys.storage import Folder

COLUMNS = {"user": "user", "item": "item", "time": "time"}


def run_of(events, columns=None, *, data=None, session=None, split=None, **sections):
    """Return a run on a log; the model is of no matter here."""
    tables = {
        "data": {"events": events, "columns": {**COLUMNS, **(columns or {})}, **(data or {})},
        "session": session or {},
        "split": split or {},
        "model": {"name": "mind"},
        **sections,
    }
    return read_run(tables)


def in_a_loop(function, items, *shared, **_):
    """`run_tasks` without Ray."""
    return [function(item, *shared) for item in items]


def shuffle_here(data, sources, new, schema, staged, num_partitions, base, drafting):
    """`shuffle_files` without Ray."""
    pieces = [piece for source in new for piece in pieces_of(source)]
    shards = [
        block
        for number in range(len(pieces))
        for block in read_events(pa.table({"item": [number]}), pieces, data, schema, staged, num_partitions)
    ]
    if not shards:
        return []
    files = [source.uri for source in sources]
    table = pa.concat_tables(shards)
    return write_partition(table, staged, files, data.keep_duplicates, base, drafting).to_pylist()


def prepare_here(run, out, asked=None):
    """`prepare` without Ray; returns the features folder and its manifest's info.

    `asked` gets the names of the files of every shuffle.
    """

    def shuffle_files(data, sources, new, *rest):
        if asked is not None:
            asked.append([source.name for source in new])
        return shuffle_here(data, sources, new, *rest)

    with (
        mock.patch.object(shuffle, "shuffle_files", shuffle_files),
        mock.patch.object(shuffle, "run_tasks", in_a_loop),
        mock.patch.object(datasets, "run_tasks", in_a_loop),
    ):
        features = datasets.prepare(run, Folder(out))
    return features, features.read_json("manifest.json")["info"]


class Outcome:
    """What a features folder says, in plain values that do not depend on partitions."""

    def __init__(self, features, info):
        self.features, self.info = features, info
        self.items = Vocabulary.load(features / "vocabularies", "item")
        self.users = Vocabulary.load(features / "vocabularies", "user")
        names = [f"sequences/{name}" for name in sorted(info["part_events"])]
        columns = ("item_idx", "at", "session", "cut", "long_start", "role")
        self.sequences = load_sequences(features, names, columns)
        self.ids = ["<padding>", "<unknown>", *self.items.ids.to_pylist()]

    def lines(self):
        """user -> list of (item, at, session, cut, long_start, role)."""
        result = {}
        bounds, events = self.sequences.offsets, self.sequences.events
        for row, user in enumerate(self.sequences.user_id.to_pylist()):
            own = slice(bounds[row], bounds[row + 1])
            columns = [events[name][own].tolist() for name in list(events)[1:]]
            items = [self.ids[idx] for idx in events["item_idx"][own]]
            result[user] = list(zip(items, *columns, strict=True))
        return result

    def column(self, name):
        """user -> the stored values of an event column."""
        names = [f"sequences/{part}" for part in sorted(self.info["part_events"])]
        stored = load_sequences(self.features, names, (name,))
        values, bounds = stored.events[name].tolist(), stored.offsets.tolist()
        rows = zip(stored.user_id.to_pylist(), bounds[:-1], bounds[1:], strict=True)
        return {user: values[start:stop] for user, start, stop in rows}

    def samples(self):
        """Sorted (user, history, target) of every training sample."""
        samples = training_samples(self.sequences)
        users = self.sequences.user_id.to_pylist()
        histories = self._histories(samples.history)
        triples = zip(samples.history.user, histories, samples.target, strict=True)
        return sorted((users[user], history, self.ids[item]) for user, history, item in triples)

    def queries(self, part):
        """user -> (history, truth, seen)."""
        queries = queries_of(self.sequences, part)
        histories = self._histories(queries.history)
        result = {}
        for row, user in enumerate(queries.user_id.to_pylist()):
            truth = queries.truth_items[queries.truth_offsets[row] : queries.truth_offsets[row + 1]]
            seen = queries.seen_items[queries.seen_offsets[row] : queries.seen_offsets[row + 1]]
            result[user] = (
                histories[row],
                {self.ids[item] for item in truth},
                {self.ids[item] for item in seen},
            )
        return result

    def _histories(self, history):
        window = take(history.events["item_idx"], *last_positions(history.start, history.stop, 10**6))
        return [[self.ids[item] for item in row if item] for row in window.tolist()]

    def content(self):
        """Everything that must not depend on files, row order, partitions or blocks."""
        return {
            "lines": self.lines(),
            "items": (self.items.ids.to_pylist(), self.items.counts.tolist(), self.items.digest),
            "users": (self.users.ids.to_pylist(), self.users.counts.tolist(), self.users.digest),
            "digest": self.info["data_digest"],
            "samples": self.samples(),
            "valid": self.queries("valid"),
            "test": self.queries("test"),
            "counts": {name: self.info[name] for name in ("events", "sessions", "train_events", "queries")},
        }
