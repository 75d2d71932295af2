"""The verdict and the table of metrics as plain text, for a terminal."""

from collections.abc import Sequence

from raysys.evaluation.findings import Table, metric_table
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


def aligned(table: Table) -> str:
    """Return a table with its columns padded: words to the left, numbers to the right."""
    rows = [list(table.head), *([cell.text for cell in row] for row in table.rows)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(table.head))]
    return "\n".join(
        "  ".join(
            text.ljust(width) if column < table.text_columns else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )
