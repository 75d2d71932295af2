"""Search a space for better values than the base run's, and write tune/ with the best run file."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# a cluster runs this without the package installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysys.distributed.job import common_flags, connected, guarded
from raysys.distributed.tracking import require_package
from raysys.storage import Folder
from raysys.tuning.outputs import summary
from raysys.tuning.space import load_space
from raysys.tuning.trials import open_search


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    parser = argparse.ArgumentParser(prog="jobs/tune.py", description=__doc__)
    parser.add_argument(
        "--space", required=True, metavar="FILE", help="search space, for example tune_spaces/mind.toml"
    )
    parser.add_argument("--run", metavar="FILE", help="run file that is tuned (default: the space's base)")
    common_flags(parser, "runs/tune_<name of the space>")
    parser.add_argument("--resume", action="store_true", help="go on with the search that is in --out")
    arguments = parser.parse_args(argv)

    def run() -> None:
        space = load_space(arguments.space, arguments.set, arguments.run)
        require_package(space.base.tracking)
        out = Folder(arguments.out or f"runs/tune_{space.name}")
        trials = open_search(space, out, arguments.resume)

        def tuned() -> None:
            from raysys.distributed.tuner import tune_run

            found = tune_run(space, out, trials)
            print(f"\n{summary(space, found)}\n\nreport: {out.uri}/tune/report.html")

        connected(arguments.address, space.base.cluster, tuned)

    return guarded("tune", run)


if __name__ == "__main__":
    sys.exit(main())
