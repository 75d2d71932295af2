"""The verdict and the table of metrics as plain text, for a terminal."""

from collections.abc import Sequence

from raysys.evaluation.findings import aligned, metric_table
from raysys.evaluation.report import read_finished, short_names
from raysys.evaluation.verdict import judge
from raysys.storage import Folder


def summary(runs: Sequence[Folder]) -> str:
    """Return, per finished run, its verdict and its metrics beside the baselines.

    Raises:
        ManifestError: a run without a finished evaluation.
    """
    blocks: list[str] = []
    for folder, name in zip(runs, short_names([run.uri for run in runs]), strict=True):
        run = read_finished(folder, name, "")
        blocks.append(f"{judge(name, run.measured).headline}\n\n{aligned(metric_table(run.measured))}")
    return "\n\n".join(blocks)
