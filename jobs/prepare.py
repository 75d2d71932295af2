"""Build features/ from the raw logs named in [data], and print what was made of them."""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.datasets import prepare
from raysys.distributed.job import run_job
from raysys.evaluation.data_summary import data_summary
from raysys.run import RunConfig
from raysys.storage import Folder


def prepare_and_tell(run: RunConfig, out: Folder) -> None:
    """Prepare the features and print the summary."""
    features = prepare(run, out)
    print("\n" + "\n\n".join(text for text in (data_summary(features), f"features: {features.uri}") if text))


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    return run_job("prepare", __doc__ or "", prepare_and_tell, argv)


if __name__ == "__main__":
    sys.exit(main())
