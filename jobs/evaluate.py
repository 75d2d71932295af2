"""Measure the model on the held-out part and write evaluation/."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.evaluator import evaluate
from raysys.distributed.job import run_job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("evaluate", __doc__ or "", evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
