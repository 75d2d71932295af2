"""The report of finished runs: one HTML file that opens offline, and the same in Markdown."""

import logging
import re
from collections.abc import Sequence
from typing import Any, cast

from raysys.errors import ConfigError, DataError, ManifestError
from raysys.evaluation.comparison import Comparison, compare
from raysys.evaluation.findings import Cell, Measured, Table, part
from raysys.evaluation.page import render
from raysys.evaluation.sections import Run, Section, sections
from raysys.evaluation.user_panels import User
from raysys.evaluation.verdict import Verdict, judge
from raysys.logs import fields
from raysys.storage import MANIFEST, Folder

logger = logging.getLogger(__name__)

Part = tuple[Run, Verdict, list[Section]]


def build_report(runs: Sequence[Folder], target: Folder) -> str:
    """Write `report.html` and `report.md` about finished runs into `target`; return the URI of the HTML file.

    The same runs give the same bytes. Runs are shown in the given order.

    Args:
        runs: output folders, at least one, each with `evaluation/`.
        target: where to write; made if missing.
    Raises:
        ConfigError: no run, or one named twice.
        ManifestError: a run without a finished evaluation.
        DataError: a file that does not hold what it should.
    """
    if not runs:
        raise ConfigError("no runs given; a report needs the output folder of at least one finished run")
    names = short_names([run.uri for run in runs])
    read = [
        read_finished(run, name, f"run-{place}")
        for place, (run, name) in enumerate(zip(runs, names, strict=True), 1)
    ]
    title = f"Retrieval report: {', '.join(names[:4])}{' and more' if len(names) > 4 else ''}"
    parts = [(run, judge(run.name, run.measured), sections(run)) for run in read]
    comparisons = compare(read)
    target.write_bytes("report.md", to_markdown(title, comparisons, parts).encode())
    target.write_bytes("report.html", to_html(title, comparisons, parts).encode())
    uri = f"{target.uri}/report.html"
    logger.info(fields(report=uri, runs=len(read)))
    return uri


def short_names(uris: Sequence[str]) -> list[str]:
    """Return for each folder the shortest end of its path that no other has."""
    if len(set(uris)) < len(uris):
        raise ConfigError("a run is named twice; name each run once")
    parts = [[part for part in re.split(r"[/\\]+", uri) if part] for uri in uris]
    for depth in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(uris)


def read_finished(folder: Folder, name: str, anchor: str) -> Run:
    """Return what a run left behind; on an object store an evaluation is finished when it has a manifest.

    Raises:
        ManifestError: no finished evaluation.
        DataError: metrics.json without metrics, or a file that is not what it should be.
    """
    evaluation = folder / "evaluation"
    if not evaluation.exists("metrics.json") or not (evaluation.is_local or evaluation.exists(MANIFEST)):
        raise ManifestError(f"{folder.uri}: no finished evaluation; run jobs/evaluate.py for this run first")
    metrics = _read(folder, "evaluation/metrics.json") or {}
    users = _read(folder, "evaluation/users.json")
    features = _read(folder, f"features/{MANIFEST}")
    has_toml = folder.exists("checkpoint/run.toml")
    return Run(
        name=name,
        anchor=anchor,
        measured=Measured.from_table(metrics, f"{evaluation.uri}/metrics.json"),
        users=None if users is None else users.get("users") or [],
        state=_read(folder, "checkpoint/state.json"),
        toml=folder.read_bytes("checkpoint/run.toml").decode() if has_toml else None,
        features=None if features is None else part(features, "info"),
        profile=_read(folder, "features/profile.json"),
        content=_read(folder, "evaluation/interests.json"),
        evaluation=evaluation,
    )


def _read(folder: Folder, name: str) -> dict[str, Any] | None:
    """Return the object in a JSON file, None where there is no such file."""
    if not folder.exists(name):
        return None
    value: object = folder.read_json(name)
    if not isinstance(value, dict):
        raise DataError(f"{folder.uri}/{name}: found {type(value).__name__}, expected an object")
    return cast(dict[str, Any], value)


def to_html(title: str, comparisons: list[Comparison], parts: list[Part]) -> str:
    """Return the page; see `page.render`."""
    return render("report.html.j2", title=title, comparisons=comparisons, parts=parts)


def to_markdown(title: str, comparisons: list[Comparison], parts: list[Part]) -> str:
    """Return the same words and tables, without figures and heat maps; text from the data is no mark-up."""
    blocks = [f"# {_md(title)}"]
    for run, verdict, _ in parts:
        blocks += [
            f"## Verdict: {_md(run.name)}",
            f"**{_md(verdict.headline)}**",
            *map(_md, verdict.sentences),
        ]
    for comparison in comparisons:
        blocks += [f"## {_md(comparison.title)}", _md(comparison.lead), *_md_table(comparison.table)]
        blocks += _md_table(comparison.paired) if comparison.paired else []
    for run, _, told in parts:
        for section in told:
            name = f"{run.name}: {section.title}" if len(parts) > 1 else section.title
            blocks += [f"## {_md(name)}", _md(section.lead)]
            blocks += [f"- **{_md(text)}** {_md(remedy)}" for text, remedy in section.advice]
            blocks += map(_md, section.notes)
            for table in [*section.tables, *section.folded]:
                blocks += _md_table(table)
            for user in section.users:
                blocks += _md_user(user)
            if section.listing:
                fence = "`" * max([3, *(len(ticks) + 1 for ticks in re.findall("`+", section.listing))])
                blocks.append(f"{fence}toml\n{section.listing.strip()}\n{fence}")
    return "\n\n".join(block for block in blocks if block) + "\n"


def _md_user(user: User) -> list[str]:
    """Return a user without the behaviours, whose heat map only the page can show."""
    blocks = [f"### {_md(user.title)}", f"{_md(user.summary)}."]
    for table in [*user.interests, *user.answers]:
        blocks += _md_table(table, 4)
    return blocks


def _md_table(table: Table, level: int = 3) -> list[str]:
    """Return the title and the rows of a table as two blocks."""
    rule = ["---" if place < table.text_columns else "--:" for place in range(len(table.head))]
    lines = [
        [_md(name) for name in table.head],
        rule,
        *([_md_cell(cell) for cell in row] for row in table.rows),
    ]
    return [f"{'#' * level} {_md(table.title)}", "\n".join(f"| {' | '.join(line)} |" for line in lines)]


def _md_cell(cell: Cell) -> str:
    text = f"**{_md(cell.text)}**" if cell.strong and cell.text else _md(cell.text)
    return f"{text} ({_md(cell.detail)})" if cell.detail else text


def _md(text: str) -> str:
    """Return text on one line with everything escaped that Markdown or HTML would read as mark-up."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\`*\[\]|#~]|(?<!\w)_|_(?!\w))", r"\\\1", line)  # within a word, _ is only a letter
