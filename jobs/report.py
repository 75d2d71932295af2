"""Write report.html and report.md of one or more finished runs, and print the table of metrics."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

# a cluster runs this without the package installed
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysys.distributed.job import guarded
from raysys.evaluation.report import build_report
from raysys.evaluation.summary import summary
from raysys.storage import Folder


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job and return its exit code."""
    parser = argparse.ArgumentParser(prog="jobs/report.py", description=__doc__)
    parser.add_argument("folders", nargs="+", metavar="RUN", help="output folder of a finished run")
    parser.add_argument(
        "--out", metavar="URI", help="where report.html goes (default: the first run's folder)"
    )
    arguments = parser.parse_args(argv)

    def write() -> None:
        runs = [Folder(folder) for folder in arguments.folders]
        report = build_report(runs, Folder(arguments.out or arguments.folders[0]))
        print(f"\n{summary(runs)}\n\nreport: {report}")

    return guarded("report", write)


if __name__ == "__main__":
    sys.exit(main())
