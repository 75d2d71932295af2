"""Finished runs for the doctor, and ways to plant a fault in their files."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from jobs import pipeline
from raysys.distributed.checkpoints import from_bytes, to_bytes
from raysys.distributed.doctor import examine
from raysys.run import load_run
from raysys.storage import Folder
from tests.reference.logs import planted_log, run_file

SDM = """name = "sdm"
embedding_dim = 16
num_heads = 2
num_negatives = 20
history_length = 9
long_features = ["item", "group"]
next_items = 2"""
TRAINING = "epochs = 8\nbatch_size = 64\nlearning_rate = 0.01\nseed = 3"


def finish(folder, **sections):
    """Return a finished run as (run file, output folder)."""
    path = run_file(planted_log(folder), training=TRAINING, **sections)
    assert pipeline.main(["--run", str(path), "--out", str(folder / "out")]) == 0
    return path, folder / "out"


def copied(run, tmp_path):
    path, out = run
    shutil.copytree(out, tmp_path / "out")
    return path, tmp_path / "out"


def checks_of(run, *overrides):
    """Return name -> check of an examined run."""
    path, out = run
    return {check.name: check for check in examine(load_run(str(path), overrides), Folder(out)).checks}


def rewrite(out: Path, name: str, change) -> None:
    """Replace a Parquet file of a stage by what `change` makes of its table."""
    table = change(pq.read_table(out / name))
    pq.write_table(table, out / name)
    sign(out / name.split("/")[0])


def sign(stage: Path) -> None:
    """Write the sizes of the files into the manifest, so that the stage counts as intact."""
    manifest = json.loads((stage / "manifest.json").read_text())
    manifest["files"] = {name: (stage / name).stat().st_size for name in manifest["files"]}
    (stage / "manifest.json").write_text(json.dumps(manifest))


def each_sequence(out: Path, change) -> None:
    for part in sorted((out / "features" / "sequences").iterdir()):
        rewrite(out, f"features/sequences/{part.name}", change)


def with_lists(table: pa.Table, name: str, change) -> pa.Table:
    """Return the table with `change(row)` in place of a column of lists."""
    place = table.schema.get_field_index(name)
    values = [change(row) for row in table.to_pylist()]
    return table.set_column(
        place, table.schema.field(place), pa.array(values, table.schema.field(place).type)
    )


def with_vectors(table: pa.Table, change) -> pa.Table:
    place = table.schema.get_field_index("vector")
    values = change(np.array(table.column("vector").to_pylist(), np.float32))
    flat = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1])
    return table.set_column(place, "vector", flat)


def edit_weights(out: Path, change) -> None:
    weights = from_bytes((out / "checkpoint" / "weights.pt").read_bytes())
    change(weights)
    (out / "checkpoint" / "weights.pt").write_bytes(to_bytes(weights))
    sign(out / "checkpoint")


def padding_first(table):
    first = table.slice(0, 1).set_column(1, "item_idx", pa.array([0], pa.int32()))
    return pa.concat_tables([first, table])
