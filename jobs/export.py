"""Write the item vectors of checkpoint/ to vectors/, or the table of a counting model to table/.

With --program it also writes the user encoder to user_encoder/.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[1])
)  # a cluster runs this without the package installed

from raysys.distributed.exporter import export, export_program
from raysys.distributed.job import run_job


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    more = {"--program": (export_program, "write user_encoder/user_encoder.pt2 too, a torch.export program")}
    return run_job("export", __doc__ or "", export, argv, more=more)


if __name__ == "__main__":
    sys.exit(main())
