"""Side tables of items and users: text and numbers to aligned idx columns with one vocabulary per feature."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.config import suggest
from raysys.data.columns import column_names, find_column
from raysys.data.files import list_sources, pieces_of, read_piece, schema_of
from raysys.data.log_config import DataConfig, SideFeature, SideTable
from raysys.data.parquet import write_table
from raysys.data.parsing import combine, is_empty, is_text, parse_number
from raysys.data.vocabulary import Vocabulary
from raysys.errors import DataError, SchemaError
from raysys.schema import NUM_RESERVED, UNKNOWN_IDX, Entity, Feature
from raysys.storage import Folder, public_uri

Encoded = tuple[Feature, pa.Array, Vocabulary | None]


def read_side_table(side: SideTable, key: str) -> pa.Table:
    """Return the id as text, the title and the feature columns of a side table.

    Args:
        side: what to read.
        key: the config key, `data.items` or `data.users`, for messages.
    Raises:
        SchemaError: a column is missing or an id has a type that cannot be one.
        DataError: no file, an unreadable file or row, an empty id, an id that occurs twice.
    """
    wanted = {side.id, *side.title, *(feature.column or name for name, feature in side.features.items())}
    tables = _read_tables(side, sorted(wanted), key)
    if not sum(table.num_rows for table in tables):
        raise DataError(f"{public_uri(side.path)}: no rows; {key}.path names it")
    table = pa.concat_tables(_alike(tables), promote_options="permissive")
    kind = table.schema.field(side.id).type
    if not (is_text(kind) or pa.types.is_integer(kind) or pa.types.is_null(kind)):
        raise SchemaError(
            f"{public_uri(side.path)}: column {side.id!r} ({key}.id) has type {kind}, expected text or "
            "integer"
        )
    ids = combine(table.column(side.id).cast(pa.string()))
    empty = int(is_empty(ids).sum())
    if empty:
        raise DataError(
            f"{public_uri(side.path)}: {empty} rows without an id in column {side.id!r}; remove them"
        )
    distinct = pc.count_distinct(ids).as_py()
    if distinct != len(ids):
        counts = pc.value_counts(ids)
        twice = next(row["values"] for row in counts.to_pylist() if row["counts"] > 1)
        raise DataError(
            f"{public_uri(side.path)}: {len(ids) - distinct} rows repeat an id in column {side.id!r} "
            f"(for example {twice!r}); keep one row per id"
        )
    return table.set_column(table.schema.get_field_index(side.id), side.id, ids)


def _read_tables(side: SideTable, wanted: list[str], key: str) -> list[pa.Table]:
    """Return the wanted columns of every block of every file."""
    tables: list[pa.Table] = []
    for source in list_sources(side.path, f"{key}.path", side.format):
        schema = schema_of(source, wanted)
        for column in wanted:
            if find_column(schema, column) is None:
                known = list(column_names(schema))
                raise SchemaError(
                    f"{source.uri}: no column {column!r}, which {key} names{suggest(column, known)}"
                )
        for piece in pieces_of(source):
            for block in read_piece(piece, wanted):
                for reason, rows in block.unreadable.items():
                    place = "row" if piece.start == 0 else "a row after byte"
                    raise DataError(
                        f"{source.uri}: {reason} in {place} {rows[0]}; mend it, or check "
                        f"{source.key}.separator and {source.key}.quote"
                    )
                tables.append(block.table)
    return tables


def _alike(tables: list[pa.Table]) -> list[pa.Table]:
    """Return tables in which a column that is text in one of them and a number in another is text in all."""
    for name in tables[0].schema.names:
        kinds = [table.schema.field(name).type for table in tables]
        if not any(is_text(kind) for kind in kinds):
            continue
        scalar = [is_text(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds]
        for number, (table, simple) in enumerate(zip(tables, scalar, strict=True)):
            if simple:
                at = table.schema.get_field_index(name)
                tables[number] = table.set_column(at, name, table.column(name).cast(pa.string()))
    return tables


def encode_side_table(side: SideTable, table: pa.Table, ids: Vocabulary, entity: Entity) -> Iterable[Encoded]:
    """Yield per feature its description, its values aligned to the ids' idx, and its vocabulary.

    Row 0 (padding) holds padding, row 1 and ids without a row hold unknown. Numbers are standardised over the
    known ids; a missing number is the mean, 0.
    """
    position = pc.index_in(ids.ids, value_set=combine(table.column(side.id)))
    rows = np.asarray(pc.fill_null(position, -1).to_numpy(zero_copy_only=False)).astype(np.int64)
    for name, feature in side.features.items():
        column = table.column(feature.column or name)
        if feature.kind == "numeric":
            yield _numeric(name, column, rows, entity, side.path)
        elif feature.kind == "categorical":
            yield _categorical(name, column, rows, entity)
        else:
            yield _multi_valued(name, column, rows, entity, feature)


def titles(side: SideTable, table: pa.Table, ids: Vocabulary) -> list[str]:
    """Return a readable name per id in order; the id itself where the side table says nothing."""
    position = pc.index_in(ids.ids, value_set=combine(table.column(side.id))).to_pylist()
    columns = [table.column(name).cast(pa.string()).to_pylist() for name in side.title]
    names: list[str] = []
    for identity, row in zip(ids.ids.to_pylist(), position, strict=True):
        parts = [] if row is None else [column[row] for column in columns if column[row]]
        names.append(" / ".join(parts) or identity)
    return names


def _numeric(name: str, column: pa.ChunkedArray, rows: np.ndarray, entity: Entity, path: str) -> Encoded:
    numbers, failed = parse_number(column, path, name)
    bad = np.zeros(len(numbers), dtype=bool) if failed is None else failed
    known = (rows >= 0) & ~bad[rows]
    values = np.where(known, numbers[rows], 0.0)
    mean = values[known].mean() if known.any() else 0.0
    deviation = values[known].std() if known.any() else 0.0
    scaled = np.where(known, (values - mean) / (deviation or 1.0), 0.0).astype(np.float32)
    full = np.concatenate([np.zeros(NUM_RESERVED, dtype=np.float32), scaled])
    return Feature(name=name, entity=entity, kind="number"), pa.array(full), None


def _categorical(name: str, column: pa.ChunkedArray, rows: np.ndarray, entity: Entity) -> Encoded:
    text = combine(column.cast(pa.string())).take(pa.array(rows, mask=rows < 0))
    text = pc.if_else(pa.array(is_empty(text)), pa.scalar(None, pa.string()), text)
    vocabulary = _vocabulary(text)
    full = np.concatenate([np.array([0, UNKNOWN_IDX], dtype=np.int32), vocabulary.encode(text)])
    feature = Feature(name=name, entity=entity, kind="id", size=vocabulary.size)
    return feature, pa.array(full), vocabulary


def _multi_valued(
    name: str, column: pa.ChunkedArray, rows: np.ndarray, entity: Entity, config: SideFeature
) -> Encoded:
    kind = column.type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        lists = combine(column).cast(pa.list_(kind.value_type))
    else:
        lists = pc.split_pattern(combine(column.cast(pa.string())), pattern=config.separator)
    lists = lists.take(pa.array(rows, mask=rows < 0))
    parents = np.asarray(pc.list_parent_indices(lists).to_numpy())
    values = pc.utf8_trim_whitespace(pc.list_flatten(lists).cast(pa.string()))
    filled = ~is_empty(values)
    parents, values = parents[filled], values.filter(pa.array(filled))
    vocabulary = _vocabulary(values)
    place = np.arange(len(parents)) - np.searchsorted(parents, parents)
    kept = place < config.max_values
    length = max(int(place[kept].max(initial=0)) + 1, 1)
    full = np.zeros((len(rows) + NUM_RESERVED, length), dtype=np.int32)
    full[NUM_RESERVED + parents[kept], place[kept]] = vocabulary.encode(values)[kept]
    nothing = full[:, 0] == 0
    nothing[0] = False
    full[nothing, 0] = UNKNOWN_IDX
    feature = Feature(name=name, entity=entity, kind="id_list", length=length, size=vocabulary.size)
    return feature, pa.FixedSizeListArray.from_arrays(pa.array(full.ravel()), length), vocabulary


def _vocabulary(text: pa.Array) -> Vocabulary:
    counts = pc.value_counts(pc.drop_null(text))
    return Vocabulary.build(counts.field("values"), np.asarray(counts.field("counts").to_numpy()))


def write_side_tables(
    data: DataConfig, staged: Folder, vocabularies: dict[str, Vocabulary]
) -> tuple[list[Feature], dict[str, pa.Array]]:
    """Write `items.parquet` and the side vocabularies; return the features and the profile columns by user
    idx."""
    items = vocabularies["item"]
    names = items.ids.to_pylist()
    columns: dict[str, pa.Array] = {}
    features = [
        Feature(name=name, entity="event", kind="id", size=vocabularies[f"event_{name}"].size)
        for name in data.coded_features
    ]
    if data.items:
        table = read_side_table(data.items, "data.items")
        names = titles(data.items, table, items)
        for feature, values, vocabulary in encode_side_table(data.items, table, items, "item"):
            features.append(feature)
            columns[feature.name] = values
            if vocabulary:
                vocabulary.write(staged / "vocabularies", f"item_{feature.name}")
    profile: dict[str, pa.Array] = {}
    if data.users:
        table = read_side_table(data.users, "data.users")
        for feature, values, vocabulary in encode_side_table(data.users, table, vocabularies["user"], "user"):
            features.append(feature)
            profile[f"profile_{feature.name}"] = values
            if vocabulary:
                vocabulary.write(staged / "vocabularies", f"user_{feature.name}")
    blank: list[str | None] = [None] * NUM_RESERVED
    reserved = {
        "item_idx": pa.array(np.arange(items.size, dtype=np.int32)),
        "item_id": pa.array([*blank, *items.ids.to_pylist()], pa.string()),
        "title": pa.array([*blank, *names], pa.string()),
        "count": pa.array(np.concatenate([np.zeros(NUM_RESERVED, np.int64), items.counts])),
    }
    clash = set(reserved) & set(columns)
    if clash:
        raise DataError(
            f"data.items.features.{min(clash)}: this name is taken; choose another and set its `column`"
        )
    write_table(staged, "items.parquet", pa.table({**reserved, **columns}))
    return features, profile
