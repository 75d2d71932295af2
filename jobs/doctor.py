"""Examine the finished stages of a run for the failures that make figures wrong, and write doctor.json."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.doctor import examine
from raysys.distributed.job import run_job
from raysys.run import RunConfig
from raysys.storage import Folder


def examine_and_tell(run: RunConfig, out: Folder) -> None:
    """Print a line per check; a fault is an error."""
    diagnosis = examine(run, out)
    print(f"\n{diagnosis.text}")
    diagnosis.raise_faults()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("doctor", __doc__ or "", examine_and_tell, argv, on_ray=lambda run: False)


if __name__ == "__main__":
    sys.exit(main())
