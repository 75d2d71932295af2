"""Write the item vectors of checkpoint/ to vectors/."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.exporter import export
from raysys.distributed.job import run_job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("export", __doc__ or "", export, argv)


if __name__ == "__main__":
    sys.exit(main())
