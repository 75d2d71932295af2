"""The events of a few users, read again from the log itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.events import normalise
from raysys.data.files import list_sources, pieces_of, read_piece
from raysys.data.formats import Block
from raysys.data.log_config import DataConfig
from raysys.data.parsing import combine, plain
from raysys.data.stages import log_schema
from raysys.evaluation.doctor.timeline import NO_ITEM, LoggedEvent
from raysys.schema import NUM_RESERVED

Row = tuple[object, ...]


def same_files(data: DataConfig, recorded: Sequence[Mapping[str, Any]]) -> bool:
    """Return whether the log has the files that the features were made from, by name and size; a copy has
    another folder and another time of change.

    Args:
        data: the run's section.
        recorded: `log.files` of the manifest of features.
    Raises:
        DataError: the log cannot be found.
    """
    found = list_sources(data.events, "data.events", data.format)
    now = sorted((source.name.rpartition("/")[2], source.size) for source in found)
    return now == sorted((file["file"].rpartition("/")[2], int(file["mark"].split()[0])) for file in recorded)


def read_users(data: DataConfig, users: list[str], items: pa.Array) -> dict[str, list[LoggedEvent]]:
    """Return the valid events of some users, repeats of whole rows left out.

    The log is read once, a block at a time; only rows of these users stay in memory.

    Args:
        data: the run's section.
        users: ids as logged.
        items: ids of the vocabulary in the order of item_idx, without the reserved ones. Under a core
            (`min_item_events`, `min_user_events`) events of other items are not in the features.
    """
    sources = list_sources(data.events, "data.events", data.format)
    schema, wanted = log_schema(sources, data), pa.array(users, pa.string())
    tables: list[pa.Table] = [schema.empty_table()]
    for source in sources:
        for piece in pieces_of(source):
            for block in read_piece(piece, list(data.log_columns)):
                column = combine(plain(block.table.column(data.columns_of("user")[0])).cast(pa.string()))
                rows = np.flatnonzero(pc.is_in(column, value_set=wanted).to_numpy(zero_copy_only=False))
                if len(rows):
                    few = Block(block.table.take(pa.array(rows)), block.positions[rows], {})
                    tables.append(normalise(few, data, schema, source.uri, source.number).events)
    events = pa.concat_tables(tables)
    core = data.min_item_events > 1 or data.min_user_events > 1
    return _by_user(events, users, items, data.keep_duplicates, core)


def _by_user(
    events: pa.Table, users: list[str], items: pa.Array, keep_duplicates: bool, core: bool
) -> dict[str, list[LoggedEvent]]:
    found = pc.index_in(events.column("item_id").cast(pa.string()), value_set=items.cast(pa.string()))
    item_idx = [NO_ITEM if place is None else place + NUM_RESERVED for place in found.to_pylist()]
    owners = events.column("user_id").cast(pa.string()).to_pylist()
    columns = {name: events.column(name).to_pylist() for name in events.schema.names}
    blank: list[None] = [None] * events.num_rows
    content = list(zip(*(values for name, values in columns.items() if name != "place"), strict=True))
    result: dict[str, list[LoggedEvent]] = {user: [] for user in users}
    seen: set[Row] = set()
    for row in np.argsort(np.asarray(columns["place"], np.int64), kind="stable").tolist():
        if not keep_duplicates and content[row] in seen:
            continue  # the first one in the log stays
        seen.add(content[row])
        if core and item_idx[row] == NO_ITEM:
            continue
        result[owners[row]].append(
            LoggedEvent(
                item_idx[row],
                columns["time_ns"][row],
                columns.get("order", blank)[row] or 0,
                columns.get("session", blank)[row],
                columns.get("event", blank)[row],
                columns["place"][row],
            )
        )
    return result
