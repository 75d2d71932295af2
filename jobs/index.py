"""Build the sharded search index of vectors/ in index/; a model that answers from table/ needs none."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.job import run_job
from raysys.distributed.pipeline import index


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("index", __doc__ or "", index, argv)


if __name__ == "__main__":
    sys.exit(main())
