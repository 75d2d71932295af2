"""What a serving system loads of a checkpoint: item vectors as Parquet, which the index is built from, and
the user encoder as a program; of a counting model its table.
"""

import logging
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from raysys.data.vocabulary import Vocabulary
from raysys.distributed.checkpoints import KIND as CHECKPOINT
from raysys.distributed.checkpoints import load_trained
from raysys.distributed.tables import export_table, is_table
from raysys.errors import ConfigError
from raysys.logs import fields
from raysys.manifest import Manifest, find_manifest, read_manifest
from raysys.nn.embedding import select_features
from raysys.retrieval.program import example_users, export_user_encoder, free_columns, program_bytes
from raysys.retrieval.vectors import encode_catalogue
from raysys.run import RunConfig
from raysys.schema import NUM_RESERVED, Schema
from raysys.storage import Folder, replacing

logger = logging.getLogger(__name__)

KIND = "vectors"
PROGRAM_KIND = "user_encoder"
PROGRAM_CONTENT = "2"
"""Version of what its folder holds; one of another version is exported again."""


def export(run: RunConfig, out: Folder) -> Folder:
    """Write `vectors/items.parquet` (item_id, item_idx, vector) in the order of item_idx and return the
    folder; of a counting model `table/`, see `raysys.distributed.tables.export_table`.

    Raises:
        ManifestError: no finished checkpoint, or one of another vocabulary.
    """
    target, begin = out / "vectors", time.monotonic()
    checkpoint = read_manifest(out / "checkpoint", CHECKPOINT, "train")
    if is_table(checkpoint):
        return export_table(out, checkpoint)
    parents = {"checkpoint": checkpoint.digest}
    found = find_manifest(target, KIND)
    if found and found.matches("", parents):
        logger.info(fields(vectors="unchanged", path=target.uri))
        return target
    trained = load_trained(out / "checkpoint", out / "features")
    vocabulary = Vocabulary.load(out / "features" / "vocabularies", "item")
    dim = trained.run.model.embedding_dim
    schema = pa.schema(
        [("item_id", pa.string()), ("item_idx", pa.int32()), ("vector", pa.list_(pa.float32(), dim))]
    )
    with replacing(target) as staged:
        with (
            staged.open_output("items.parquet") as file,
            pq.ParquetWriter(file, schema, compression="zstd") as writer,
        ):
            for item_idx, vectors in encode_catalogue(trained.model, vocabulary.size):
                columns = [
                    vocabulary.decode(item_idx),
                    pa.array(item_idx.astype(np.int32)),
                    pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim),
                ]
                writer.write_table(pa.table(columns, schema=schema))
        info = {
            "items": vocabulary.size - NUM_RESERVED,
            "dim": dim,
            "metric": "inner_product",
            "vocabularies": {"item": vocabulary.digest},
        }
        Manifest(kind=KIND, config_digest="", parents=parents, info=info).write(staged)
    logger.info(
        fields(vectors=target.uri, **{k: info[k] for k in ("items", "dim")}, seconds=time.monotonic() - begin)
    )
    return target


def export_program(run: RunConfig, out: Folder) -> Folder:
    """Write `user_encoder/user_encoder.pt2`, see `raysys.retrieval.program`, and return the folder.

    Raises:
        ManifestError: no finished checkpoint, or one of another vocabulary.
        ConfigError: a model without a user encoder.
    """
    target, begin = out / PROGRAM_KIND, time.monotonic()
    checkpoint = read_manifest(out / "checkpoint", CHECKPOINT, "train")
    if is_table(checkpoint):
        raise ConfigError(
            f"--program: the model of {out.uri}/checkpoint counts and has no user encoder; its answers are "
            "rows of table/items.parquet, added up over the history"
        )
    parents = {"checkpoint": checkpoint.digest}
    found = find_manifest(target, PROGRAM_KIND)
    if found and found.matches(PROGRAM_CONTENT, parents):
        logger.info(fields(user_encoder="unchanged", path=target.uri))
        return target
    trained = load_trained(out / "checkpoint", out / "features")
    known = Schema.from_table(read_manifest(out / "features", "features", "prepare").info["schema"]).of(
        "user"
    )
    shape = trained.shape
    features = select_features(known, shape.profile_features, "model.profile_features")
    batch = example_users(shape, features)
    program = export_user_encoder(trained.model, batch, shape)
    with replacing(target) as staged:
        staged.write_bytes("user_encoder.pt2", program_bytes(program))
        info = {
            "history_length": shape.history_length,
            "inputs": sorted(batch),
            "columns": {name: columns.longest for columns in free_columns(shape) for name in columns.names},
            "vocabularies": trained.manifest.info["vocabularies"],
        }
        Manifest(kind=PROGRAM_KIND, config_digest=PROGRAM_CONTENT, parents=parents, info=info).write(staged)
    logger.info(fields(user_encoder=target.uri, seconds=time.monotonic() - begin))
    return target
