"""The whole line: every stage in order, each skipping itself where nothing changed."""

import logging
import time

from raysys.distributed.checkpoints import KIND as CHECKPOINT
from raysys.distributed.datasets import prepare
from raysys.distributed.evaluator import evaluate
from raysys.distributed.exporter import export
from raysys.distributed.index import build
from raysys.distributed.tables import is_table
from raysys.distributed.trainer import train
from raysys.evaluation.report import build_report
from raysys.logs import configure, fields
from raysys.manifest import read_manifest
from raysys.run import RunConfig
from raysys.storage import Folder

logger = logging.getLogger(__name__)


def pipeline(run: RunConfig, out: Folder) -> None:
    """Run prepare, train, export, index, evaluate and report into `out`."""
    begin = time.monotonic()
    for name, stage in (
        ("prepare", prepare),
        ("train", train),
        ("export", export),
        ("index", index),
        ("evaluate", evaluate),
    ):
        configure(name)
        stage(run, out)
    configure("report")
    build_report([out], out)
    logger.info(fields(report=f"{out.uri}/report.html", seconds=time.monotonic() - begin))


def index(run: RunConfig, out: Folder) -> None:
    """Build `index/`, unless the model answers from its table and needs none.

    Raises:
        ManifestError: no finished checkpoint or vectors.
    """
    if is_table(read_manifest(out / "checkpoint", CHECKPOINT, "train")):
        logger.info(fields(index="none", reason=f"{out.uri}/table answers without one"))
        return
    build(run, out)
