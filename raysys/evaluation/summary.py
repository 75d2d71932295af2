"""The verdict and the table of metrics as plain text, for a terminal."""

from collections.abc import Sequence

from raysys.evaluation.comparison import best_first, pair_with_best
from raysys.evaluation.findings import aligned, metric_table
from raysys.evaluation.pairing import difference, groups, paired_table
from raysys.evaluation.report import read_finished, short_names
from raysys.evaluation.sections import Run
from raysys.evaluation.verdict import judge
from raysys.storage import Folder


def summary(runs: Sequence[Folder]) -> str:
    """Return, per finished run, its verdict and its metrics beside the baselines; of several runs under one
    protocol also how the best differs from the others, and of runs under another one in what that differs.

    Raises:
        ManifestError: a run without a finished evaluation.
    """
    names = short_names([run.uri for run in runs])
    read = [read_finished(folder, name, "") for folder, name in zip(runs, names, strict=True)]
    blocks = [
        f"{judge(run.name, run.measured).headline}\n\n{aligned(metric_table(run.measured))}" for run in read
    ]
    return "\n\n".join([*blocks, *_side_by_side(read)])


def _side_by_side(runs: Sequence[Run]) -> list[str]:
    found = groups(runs)
    blocks: list[str] = []
    for group in found:
        if group is not found[0]:
            names = ", ".join(run.name for run in group)
            blocks.append(f"{names}: not compared, the protocol differs: {difference(group[0], runs[0])}.")
        ordered = best_first(group)
        pairs = pair_with_best(ordered)
        if pairs:
            table = paired_table(ordered[0], pairs)
            blocks.append(f"{table.title}\n\n{aligned(table)}")
    return blocks
