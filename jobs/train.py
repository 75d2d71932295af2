"""Train the model of [model] on features/ and write checkpoint/ and logs/."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.job import run_job
from raysys.distributed.trainer import train


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("train", __doc__ or "", train, argv, on_ray=lambda run: run.cluster.workers > 0)


if __name__ == "__main__":
    sys.exit(main())
