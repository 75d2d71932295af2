"""Build the sharded search index of vectors/ in index/."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.index import build
from raysys.distributed.job import run_job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("index", __doc__ or "", build, argv)


if __name__ == "__main__":
    sys.exit(main())
