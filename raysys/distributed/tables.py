"""Counting models: their rows computed in blocks by Ray tasks, the table that is served, and its answers.

The stages are those of every model: `train` fits and writes `checkpoint/rows.parquet`, `export` writes
`table/items.parquet`, `evaluate` answers from it. No search index is built.
"""

import dataclasses
import itertools
import logging
import time
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.interactions import Entries, Interactions, read_entries
from raysys.data.parquet import join_tables, write_table
from raysys.data.parsing import combine
from raysys.data.queries import Queries, read_queries
from raysys.data.vocabulary import Vocabulary
from raysys.distributed.checkpoints import KIND as CHECKPOINT
from raysys.distributed.checkpoints import Trained, load_trained
from raysys.distributed.cluster import run_tasks
from raysys.distributed.validation import Watched, batches_by_seen, ragged_rows, user_batches
from raysys.errors import DataError
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest, read_manifest
from raysys.models import build_row_model
from raysys.models.contract import RowModel
from raysys.retrieval.candidates import Candidates
from raysys.retrieval.index import IndexConfig
from raysys.retrieval.table import NeighbourTable, TableRetriever
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED
from raysys.storage import Folder, replacing
from raysys.training_config import TrainingConfig

logger = logging.getLogger(__name__)

KIND = "table"
ROWS = "rows.parquet"
ITEMS = "items.parquet"
BLOCK_PRODUCTS = 2**24
"""About how many products of cells make a block, the work of a second; no result depends on it."""
BATCH = 512


def is_table(checkpoint: Manifest) -> bool:
    """Return whether a checkpoint answers with its rows: from `table/`, and not from `index/`."""
    return ROWS in checkpoint.files


def fit(run: RunConfig, out: Folder, features: Folder, manifest: Manifest) -> Folder:
    """Fit the run's counting model on features and return `checkpoint/`.

    Args:
        run: whose `cluster.workers` = 0 computes everything in the calling process, for a debugger.
        out: the run's folder.
        features: where they are.
        manifest: theirs.
    Raises:
        DataError: no training event.
    """
    target, begin = out / "checkpoint", time.monotonic()
    _warn_of_unused(run)
    model = build_row_model(run.model_name, run.model)
    parts = sorted(manifest.info["part_events"])
    entries = Entries.merge(_each(run, read_part, parts, features))
    if not len(entries.user_idx):
        raise DataError(f"{features.uri}: no training event to count; check [split]")
    sizes = (manifest.info["users"] + NUM_RESERVED, manifest.info["items"] + NUM_RESERVED)
    seen = Interactions.build(entries, *sizes)
    with replacing(target) as staged:
        blocks = row_blocks(seen, BLOCK_PRODUCTS)
        _each(run, write_rows, blocks, model, model.weigh(seen), staged, progress="fit")
        join_tables(staged, [_part_name(start) for start, _ in blocks], ROWS)
        (staged / "rows").delete()
        seconds = time.monotonic() - begin
        info = {
            "vocabularies": {"item": manifest.info["vocabularies"]["item"]},
            "samples": manifest.info["train_events"],
            "samples_per_s": manifest.info["train_events"] / max(seconds, 1e-9),
            "epochs": 1,
            "best_epoch": 1,
            "stopped": "",
            "workers": run.cluster.workers,
            "metric": {},
        }
        staged.write_bytes("run.toml", run.to_toml().encode())
        parents = {"features": manifest.digest}
        Manifest(kind=CHECKPOINT, config_digest=run.training_digest, parents=parents, info=info).write(staged)
    logger.info(
        fields(checkpoint=target.uri, cells=len(entries.user_idx), blocks=len(blocks), seconds=seconds)
    )
    return target


def _warn_of_unused(run: RunConfig) -> None:
    """Name what the run file sets and a counting model does not read."""
    unused = ["cluster.use_gpu"] if run.cluster.use_gpu else []
    read = {name: getattr(run.training, name) for name in ("seed", "metric", "valid_users")}  # by searches
    sections = {"training": (run.training, TrainingConfig(**read))}
    for section, (given, default) in {**sections, "index": (run.index, IndexConfig())}.items():
        names = [field.name for field in dataclasses.fields(given)]
        unused += [f"{section}.{name}" for name in names if getattr(given, name) != getattr(default, name)]
    if unused:
        reason = f"{run.model_name} counts: it takes no steps and needs no index"
        logger.warning(fields(unused=", ".join(unused), reason=reason))


def _each(run: RunConfig, function: Any, items: Iterable[Any], *shared: Any, progress: str = "") -> list[Any]:
    """Return `function(item, *shared)` for each item, as Ray tasks or, without workers, in a loop."""
    if run.cluster.workers == 0:
        return [function(item, *shared) for item in items]
    return run_tasks(function, items, *shared, progress=progress)


def read_part(part: str, features: Folder) -> Entries:
    """Return the training cells of one sequence file."""
    return read_entries(features, part)


def row_blocks(seen: Interactions, products: int) -> list[tuple[int, int]]:
    """Return ranges of sources [start, stop) of about so many products of cells each, at least one source.

    The products of a source are the cells of all rows that share a column with it. The reserved sources have
    no row.
    """
    reach = np.diff(seen.by_user.offsets)[seen.by_item.columns]
    ends = np.concatenate([[0], np.cumsum(reach)])[seen.by_item.offsets]
    num_items = len(seen.by_item)
    block = (ends[NUM_RESERVED:-1] - ends[NUM_RESERVED]) // products
    cuts = np.flatnonzero(np.diff(block)) + 1 + NUM_RESERVED
    return list(itertools.pairwise([NUM_RESERVED, *cuts.tolist(), num_items]))


def _part_name(start: int) -> str:
    return f"rows/{start:010d}.parquet"


def write_rows(block: tuple[int, int], model: RowModel, seen: Interactions, staged: Folder) -> None:
    """Compute the rows of one block of sources and write them."""
    sources = np.arange(*block)
    item_idx, score = model.rows(seen, sources)
    real = item_idx >= 0
    offsets = pa.array(np.concatenate([[0], np.cumsum(real.sum(axis=1))]).astype(np.int32))
    columns = {
        "item_idx": pa.array(sources.astype(np.int32)),
        "neighbour_idx": pa.ListArray.from_arrays(offsets, pa.array(item_idx[real].astype(np.int32))),
        "score": pa.ListArray.from_arrays(offsets, pa.array(score[real])),
    }
    write_table(staged, _part_name(block[0]), pa.table(columns))


def export_table(out: Folder, checkpoint: Manifest) -> Folder:
    """Write `table/items.parquet` (item_id, item_idx, neighbour_id, neighbour_idx, score) in the order of
    item_idx, neighbours best first, and return the folder.

    Raises:
        ManifestError: a checkpoint of another vocabulary.
    """
    target, begin = out / KIND, time.monotonic()
    parents = {"checkpoint": checkpoint.digest}
    found = find_manifest(target, KIND)
    if found and found.matches("", parents):
        logger.info(fields(table="unchanged", path=target.uri))
        return target
    trained = load_trained(out / "checkpoint", out / "features")
    vocabulary = Vocabulary.load(out / "features" / "vocabularies", "item")
    schema = pa.schema(
        [
            ("item_id", pa.string()),
            ("item_idx", pa.int32()),
            ("neighbour_id", pa.list_(pa.string())),
            ("neighbour_idx", pa.list_(pa.int32())),
            ("score", pa.list_(pa.float32())),
        ]
    )
    width = 0
    with replacing(target) as staged, (out / "checkpoint").open_input(ROWS) as source:
        rows = pq.ParquetFile(source)
        with (
            staged.open_output(ITEMS) as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for group in range(rows.metadata.num_row_groups):
                block = rows.read_row_group(group)
                offsets, neighbours = _flat(block, "neighbour_idx")
                names = vocabulary.decode(neighbours.astype(np.int64))
                item_idx = np.asarray(block.column("item_idx").to_numpy())
                columns = [
                    vocabulary.decode(item_idx.astype(np.int64)),
                    combine(block.column("item_idx")),
                    pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), names),
                    combine(block.column("neighbour_idx")),
                    combine(block.column("score")),
                ]
                writer.write_table(pa.table(columns, schema=schema))
                width = max(width, int(np.diff(offsets).max(initial=0)))
        info = {
            "items": vocabulary.size - NUM_RESERVED,
            "neighbours": width,
            "metric": trained.run.model.similarity,
            "vocabularies": {"item": vocabulary.digest},
            "build_s": time.monotonic() - begin,
        }
        Manifest(kind=KIND, config_digest="", parents=parents, info=info).write(staged)
    logger.info(
        fields(table=target.uri, items=info["items"], neighbours=width, seconds=time.monotonic() - begin)
    )
    return target


def _flat(table: pa.Table, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the (R + 1,) offsets and the flat values of a column of lists."""
    column = combine(table.column(name))
    lengths = np.asarray(column.value_lengths().to_numpy()).astype(np.int64)
    return np.concatenate([[0], np.cumsum(lengths)]), np.asarray(column.flatten().to_numpy())


def open_table(folder: Folder) -> tuple[TableRetriever, Manifest]:
    """Return the retriever of a finished table; row r of the table is item_idx r.

    Raises:
        ManifestError: no finished table.
    """
    manifest = read_manifest(folder, KIND, "export")
    return _retriever(folder, ITEMS, manifest.info["items"]), manifest


def _retriever(folder: Folder, name: str, num_items: int) -> TableRetriever:
    """Return the retriever of a file of rows."""
    with folder.open_input(name) as file:
        table = pq.read_table(file, columns=["item_idx", "neighbour_idx", "score"])
    offsets, neighbours = _flat(table, "neighbour_idx")
    _, scores = _flat(table, "score")
    sizes = np.diff(offsets)
    shape = (num_items + NUM_RESERVED, max(1, int(sizes.max(initial=0))))
    item_idx, score = np.full(shape, -1, np.int64), np.full(shape, -np.inf, np.float32)
    row = np.repeat(np.asarray(table.column("item_idx").to_numpy()), sizes)
    place = np.arange(len(row)) - np.repeat(offsets[:-1], sizes)
    item_idx[row, place], score[row, place] = neighbours, scores
    return TableRetriever(NeighbourTable(item_idx, score))


def validate_table(run: RunConfig, checkpoint: Folder, features: Folder) -> dict[str, float]:
    """Return what `raysys.distributed.validation.validate` returns, of a counting model that is fitted."""
    manifest = read_manifest(features, "features", "prepare")
    trained, watched = load_trained(checkpoint, features), Watched(run.training, features, manifest)
    retriever = _retriever(checkpoint, ROWS, manifest.info["items"])
    for part in sorted(manifest.info["part_events"]):
        queries = read_queries(features, part, "valid", trained.shape)
        for rows, _ in user_batches(queries, run.training, manifest.info["queries"]["valid"]):
            candidates = answer_from_table(trained, queries, rows, run, retriever, run.training.metric_k)
            watched.add(queries, rows, candidates)
    return watched.result()


def answer_from_table(
    trained: Trained,
    queries: Queries,
    rows: np.ndarray,
    run: RunConfig,
    retriever: TableRetriever,
    depth: int,
) -> Candidates:
    """Return (rows, depth) candidates of some queries under the run's rule for seen items."""
    seeds, weights = trained.model.seeds(queries.batch(rows))
    seen = ragged_rows(queries.seen_offsets, queries.seen_items, rows) if run.split.filter_seen else None
    return retriever.retrieve(seeds, weights, depth, seen).top(depth)


def answer_all_from_table(
    trained: Trained, queries: Queries, run: RunConfig, retriever: TableRetriever
) -> tuple[Candidates, float]:
    """Return the candidates of every query, in order, and the seconds it took."""
    depth, begin = run.evaluation.search_depth, time.monotonic()
    item_idx = np.full((len(queries), depth), -1, dtype=np.int64)
    score = np.full((len(queries), depth), -np.inf, dtype=np.float32)
    for rows in batches_by_seen(queries, np.arange(len(queries)), BATCH):
        answer = answer_from_table(trained, queries, rows, run, retriever, depth)
        item_idx[rows], score[rows] = answer.item_idx, answer.score
    return Candidates(item_idx, score), time.monotonic() - begin


def table_figures(manifest: Manifest, depth: int, queries_per_s: float) -> dict[str, Any]:
    """Return the `index` section of metrics.json: a table is searched as a whole, so it misses nothing."""
    return {
        "kind": KIND,
        "shards": 1,
        "replicas": 1,
        "metric": manifest.info["metric"],
        f"recall_vs_exact@{depth}": 1.0,
        "queries_per_s": queries_per_s,
        "build_s": manifest.info["build_s"],
    }
