"""A log looked at before it is prepared: streamed once, up to a limit, in bounded memory.

What is found is exact where the whole log was read and neither core nor ids were too many, and an estimate
otherwise. Ids are counted exactly up to `MAX_IDS`; beyond, only those with the smallest hashes are kept,
which are a fair sample with exact counts, and the number of all follows from their share of the hashes. Whole
users with the smallest hashes are kept as well, about `SAMPLE_EVENTS` events, for a small features folder.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from raysys.data.events import check_columns, normalise
from raysys.data.files import list_sources, pieces_of, read_piece, rows_of
from raysys.data.formats import Piece, Source
from raysys.data.hashing import Coded
from raysys.data.log_config import DataConfig
from raysys.data.stages import log_schema
from raysys.errors import DataError

MAX_ROWS = 20_000_000
"""Rows of the log that are read at most: some seconds."""
MAX_IDS = 1_000_000
SAMPLE_EVENTS = 500_000
ALL_HASHES = 2.0**64


class DistinctIds:
    """Distinct ids and how often each occurs; of more than `most` a fair sample by hash."""

    def __init__(self, most: int = MAX_IDS) -> None:
        self.most, self.bound = most, ALL_HASHES
        self.ids = pa.array([], pa.large_string())
        self.hashes, self.counts = np.zeros(0, np.uint64), np.zeros(0, np.int64)

    def add(self, coded: Coded) -> None:
        """Count the values of a block."""
        hashes = coded.hashes()[:-1]
        counts = np.bincount(coded.codes, minlength=len(coded.values) + 1)[: len(coded.values)]
        kept = hashes.astype(np.float64) < self.bound
        ids = pa.concat_arrays([self.ids, coded.values.filter(pa.array(kept))])
        hashes = np.concatenate([self.hashes, hashes[kept]])
        counts = np.concatenate([self.counts, counts[kept]])
        self.hashes, first, place = np.unique(hashes, return_index=True, return_inverse=True)
        self.counts = np.bincount(place, weights=counts, minlength=len(first)).astype(np.int64)
        self.ids = ids.take(pa.array(first))
        while len(self.hashes) > self.most:
            self.bound /= 2
            number = int(np.count_nonzero(self.hashes.astype(np.float64) < self.bound))
            # hashes ascend, so those below the bound come first
            self.hashes, self.counts, self.ids = self.hashes[:number], self.counts[:number], self.ids[:number]

    @property
    def share(self) -> float:
        """Share of all ids that were counted; 1 where it is all of them."""
        return self.bound / ALL_HASHES

    @property
    def number(self) -> int:
        """Distinct ids, exactly where `share` is 1."""
        return round(len(self.ids) / self.share)

    def enough(self, least: float) -> np.ndarray:
        """Return (ids,) bool: which occur at least so often."""
        return self.counts >= least


class WholeUsers:
    """All events of the users with the smallest hashes, at most about so many events."""

    def __init__(self, most: int = SAMPLE_EVENTS) -> None:
        self.most, self.bound = most, ALL_HASHES
        self.tables: list[pa.Table] = []
        self.hashes: list[np.ndarray] = []

    def add(self, events: pa.Table, users: Coded) -> None:
        """Keep the events of chosen users; `users` is the coded `user_id`."""
        self.tables.append(events)
        self.hashes.append(users.hashes()[users.codes].astype(np.float64))
        self._choose(len(self.tables) - 1)
        while sum(map(len, self.hashes)) > self.most and self._any_below(self.bound / 2):
            self.bound /= 2
            self._choose(0)

    def _any_below(self, bound: float) -> bool:
        """Return whether a user would be left: one with very many events is kept whole."""
        return any(bool((hashes < bound).any()) for hashes in self.hashes)

    def _choose(self, first: int) -> None:
        for i in range(first, len(self.tables)):
            kept = self.hashes[i] < self.bound
            self.tables[i] = self.tables[i].filter(pa.array(kept))
            self.hashes[i] = self.hashes[i][kept]

    def table(self) -> pa.Table:
        """Return the events in the order of the log."""
        return pa.concat_tables(self.tables).combine_chunks()


@dataclass(frozen=True)
class LogSample:
    """What was found in a log.

    Attributes:
        sources: its files.
        rows: of the whole log, counted or, where a part of it was read, estimated.
        read: rows that were read.
        events: rows read that are neither rejected nor dropped.
        users, items: the ids of these events.
        table: events of whole users.
        growth: factor by which distinct users and items of the whole log exceed those read.
    """

    sources: Sequence[Source]
    rows: int
    read: int
    events: int
    users: DistinctIds
    items: DistinctIds
    table: pa.Table
    growth: tuple[float, float]

    @property
    def share(self) -> float:
        """Share of the rows that was read."""
        return min(1.0, self.read / max(self.rows, 1))


def sample_log(data: DataConfig, max_rows: int = MAX_ROWS) -> LogSample:
    """Read a log, or pieces from all over it with about `max_rows` rows, and return what is in it.

    Raises:
        DataError: unreadable files, or no event in what was read.
        SchemaError: a column is missing or has a type that cannot hold what the config says.
    """
    sources = list_sources(data.events, "data.events", data.format)
    schema = log_schema(sources, data)
    guess = sum(map(rows_of, sources))
    pieces = _spread([piece for source in sources for piece in pieces_of(source)], guess, max_rows)
    users, items, kept = DistinctIds(), DistinctIds(), WholeUsers()
    read, read_bytes, events, is_whole = 0, 0.0, 0, len(pieces.skipped) == 0
    seen: list[tuple[int, int, int]] = []
    for piece in pieces.chosen:
        for raw in read_piece(piece, list(data.log_columns)):
            check_columns(raw.table.schema, data, piece.source.uri)
            block = normalise(raw, data, schema, piece.source.uri, piece.source.number).events
            read, events = read + raw.num_rows, events + block.num_rows
            coded = Coded.of(block.column("user_id"))
            users.add(coded)
            items.add(Coded.of(block.column("item_id")))
            kept.add(block, coded)
            seen.append((events, users.number, items.number))
            if read >= 2 * max_rows:  # a huge compressed file is one piece
                is_whole = False
                break
        else:
            read_bytes += _bytes_of(piece)
    if not events:
        raise DataError(f"{sources[0].uri}: no event in {read} rows that were read; check [data]")
    rows = read if is_whole else max(read, _all_rows(sources, guess, read, read_bytes))
    share = read / max(rows, 1)
    growth = (_growth(seen, 1, share), _growth(seen, 2, share))
    return LogSample(sources, rows, read, events, users, items, kept.table(), growth)


@dataclass(frozen=True)
class _Pieces:
    chosen: list[Piece]
    skipped: list[Piece]


def _spread(pieces: list[Piece], rows: int, max_rows: int) -> _Pieces:
    """Return evenly spaced pieces of about so many rows, at least one, and the others."""
    number = max(1, min(len(pieces), math.floor(len(pieces) * max_rows / max(rows, 1))))
    chosen = {i * len(pieces) // number for i in range(number)}
    return _Pieces(
        [piece for i, piece in enumerate(pieces) if i in chosen],
        [piece for i, piece in enumerate(pieces) if i not in chosen],
    )


def _bytes_of(piece: Piece) -> float:
    source = piece.source
    return float((piece.stop or source.size) - piece.start) if source.kind != "parquet" else 0.0


def _all_rows(sources: Sequence[Source], guess: int, read: int, read_bytes: float) -> int:
    """Return the rows of a log of which a part was read: those of Parquet are known, those of text follow
    from the bytes."""
    text = sum(source.size for source in sources if source.kind != "parquet")
    if not text or not read_bytes:
        return guess
    known = sum(rows_of(source) for source in sources if source.kind == "parquet")
    return known + round(read * text / read_bytes)


def _growth(seen: Sequence[tuple[int, int, int]], column: int, share: float) -> float:
    """Return the factor from the distinct ids read to those of the whole log, by the power law through half
    of what was read and all of it (Heaps 1978)."""
    events, distinct = seen[-1][0], seen[-1][column]
    half = min(seen, key=lambda at: abs(at[0] - events / 2))
    if share >= 1 or half[0] == events or not half[column]:
        return 1.0
    power = math.log(distinct / half[column]) / math.log(events / half[0])
    return share ** -min(max(power, 0.0), 1.0)
