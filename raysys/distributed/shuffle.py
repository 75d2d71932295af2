"""The shuffle by user on Ray Data: files of a log to sorted, de-duplicated partitions of whole users.

Read tasks yield shards (`raysys.data.partitions`), Ray Data brings the shards of a partition together, and
the task that holds them sorts and writes the partition. A log that has grown is appended: only its new files
are read and shuffled, and only partitions of users in them are written again.
"""

import itertools
import logging
import pickle
import threading
from collections import Counter
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import ray
import ray.data

from raysys.data.append import EVENTS, Base, Counts, move_partition, move_rejected
from raysys.data.files import pieces_of
from raysys.data.formats import Source
from raysys.data.log_config import DataConfig
from raysys.data.partitions import num_partitions_of
from raysys.data.stages import Drafting, counts_by_file, number_rejected, read_events, write_partition
from raysys.distributed.cluster import DATA_WORKERS, data_labels, own_errors, run_tasks
from raysys.logs import fields
from raysys.storage import Folder

logger = logging.getLogger(__name__)
# Ray Data tells its plan and that its bars are off, which is what we ask for: our own lines show progress.
logging.getLogger("ray.data._internal.execution.streaming_executor").setLevel(logging.WARNING)
logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)
# An error comes back to the job, which tells it in its own words; Ray Data would tell it twice before.
for _told_twice in ("ray.data._internal.execution.streaming_executor_state", "ray.data.exceptions"):
    logging.getLogger(_told_twice).setLevel(logging.CRITICAL)

BYTES_PER_HANDOVER = 256 * 2**20
"""Shards that one map task of the shuffle hands on."""
MAX_GROWTH = 4
"""A log that has outgrown its partitions by this factor is built anew, with more of them."""


@dataclass(frozen=True)
class Shuffled:
    """Outcome of the shuffle.

    Attributes:
        num_partitions: of the users; some may be empty.
        duplicates: partition with events -> rows rejected as duplicates.
        by_file: file -> its counts.
        summaries: part -> its summary, of the parts whose sequences are drafted.
    """

    num_partitions: int
    duplicates: dict[int, int]
    by_file: dict[str, Counts]
    summaries: dict[str, dict[str, Any]]

    @property
    def parts(self) -> list[str]:
        """Names of the partition files, in order."""
        return [part_name(number) for number in sorted(self.duplicates)]

    @property
    def counts(self) -> Counts:
        """Counts of the whole log, duplicates with them."""
        twice = Counts(rejected={"duplicate": sum(self.duplicates.values())})
        return Counts.total([*self.by_file.values(), twice])


def part_name(number: int) -> str:
    """Return the file name of a partition."""
    return PurePosixPath(EVENTS.format(number)).name


def shuffle_events(
    data: DataConfig,
    sources: Sequence[Source],
    schema: pa.Schema,
    staged: Folder,
    base: Base | None = None,
    drafting: Drafting | None = None,
) -> Shuffled:
    """Write `events/part-*.parquet`, one file per user partition, sorted, and `rejected/`.

    Args:
        data: what the columns mean.
        sources: every file of the log.
        schema: of the events.
        staged: the features folder in the making.
        base: what earlier files gave, where the log has only grown.
        drafting: draft the sequences of what is written; None: not yet.
    """
    num_partitions = base.num_partitions if base else num_partitions_of(data, sources)
    new = [source for source in sources if base is None or source.uri not in base.counts]
    rows = shuffle_files(data, sources, new, schema, staged, num_partitions, base, drafting)
    duplicates = {row["partition"]: row["duplicates"] for row in rows}
    if len(duplicates) != len(rows):
        raise AssertionError("Ray Data gave a user partition in two pieces; users would be torn apart")
    by_file = counts_by_file(new, staged)
    (staged / "stats").delete()
    if base:
        by_file = {source.uri: (base.counts | by_file)[source.uri] for source in sources}
    number_rejected(staged, by_file)
    if base:
        kept = sorted(set(base.duplicates) - set(duplicates))
        logger.info(fields(new_files=len(new), parts_rewritten=len(duplicates), parts_kept=len(kept)))
        run_tasks(move_partition, kept, staged, base, progress="append", runtime_env=DATA_WORKERS)
        move_rejected(staged, base)
        both = Counter(base.duplicates)
        both.update(duplicates)
        duplicates = dict(both)
    summaries = {
        part_name(row["partition"]): pickle.loads(row["summary"])  # noqa: S301 # from our own task, not a file
        for row in rows
        if row["summary"]
    }
    return Shuffled(num_partitions, duplicates, by_file, summaries)


def shuffle_files(
    data: DataConfig,
    sources: Sequence[Source],
    new: Sequence[Source],
    schema: pa.Schema,
    staged: Folder,
    num_partitions: int,
    base: Base | None,
    drafting: Drafting | None,
) -> list[dict[str, Any]]:
    """Read the new files of a log and write their users' partitions; return the rows of `write_partition`."""
    with ThreadPoolExecutor(16) as pool:
        pieces = list(itertools.chain.from_iterable(pool.map(pieces_of, new)))
    if not pieces:
        return []
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.op_resource_reservation_enabled = False
    context.execution_options.label_selector = data_labels() or None
    # The end of the shuffle does not look there (Ray 2.60): what keeps it off a node is a node without CPUs.
    context.shuffle_compression = None if len(ray.nodes()) == 1 else "lz4"
    # Shards need no work but to be handed on, and another task would be another process to start.
    context.shuffle_input_batch_bytes = BYTES_PER_HANDOVER
    reading = {
        "pieces": pieces,
        "data": data,
        "schema": schema,
        "staged": staged,
        "num_partitions": num_partitions,
    }
    files = [source.uri for source in sources]
    writing = {
        "staged": staged,
        "files": files,
        "keep_duplicates": data.keep_duplicates,
        "base": base,
        "drafting": drafting,
    }
    numbers: Any = ray.data.from_items(list(range(len(pieces))), override_num_blocks=len(pieces))
    dataset = (
        numbers.map_batches(
            read_events, batch_size=1, batch_format="pyarrow", fn_kwargs=reading, runtime_env=DATA_WORKERS
        )
        .repartition(num_partitions, keys=["partition"])
        .map_batches(_write, batch_size=None, batch_format="pyarrow", fn_kwargs=writing)
    )
    with own_errors(), _progress(staged, len(pieces), num_partitions):
        return dataset.take_all()


def _write(shards: pa.Table, **options: Any) -> Generator[pa.Table]:
    """Yield what `write_partition` returns: of a generator Ray Data keeps the error, else only its text."""
    yield write_partition(shards, **options)


@contextmanager
def _progress(staged: Folder, num_pieces: int, num_partitions: int, every_s: float = 10.0) -> Generator[None]:
    """Log every few seconds how many pieces are read and partitions written, by what tasks have left."""
    done = threading.Event()

    def show() -> None:
        while not done.wait(every_s):
            read, written = len(staged.names("stats")), len(staged.names("events"))
            logger.info(
                fields(step="shuffle", read=f"{read}/{num_pieces}", written=f"{written}/{num_partitions}")
            )

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
