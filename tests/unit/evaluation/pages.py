"""Reports of made-up runs, and what stands on a page."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from raysys.evaluation.findings import (
    Measured,
)
from raysys.evaluation.report import build_report
from raysys.storage import Folder

VOID = {"meta", "br", "hr", "img", "input", "link", "wbr"}


class Page(HTMLParser):
    """The text, the ids, the tags and the unclosed tags of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.text, self.ids, self.links, self.tags, self.open = (
            "",
            list[str](),
            list[str](),
            set[str](),
            list[str](),
        )
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name == "href":
                self.links.append(value or "")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open, tag
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def build(folder: Path, *runs: Path) -> tuple[str, str]:
    """Return the HTML and the Markdown report."""
    build_report([Folder(run) for run in runs], Folder(folder / "out"))
    return (folder / "out" / "report.html").read_text(), (folder / "out" / "report.md").read_text()


def measured(value: float, interval: list[float] | None, **baselines: float) -> Measured:
    table: dict[str, Any] = {
        "model": "mind",
        "metrics": {"ndcg@10": value},
        "intervals": {"ndcg@10": interval} if interval else {},
        "baselines": {name: {"ndcg@10": base} for name, base in baselines.items()},
        "protocol": {"queries": 100},
    }
    return Measured.from_table(table, "here")


def edit(run: Path, name: str, **changes: Any) -> Path:
    """Replace keys of a JSON file of a run."""
    table = json.loads((run / name).read_text())
    (run / name).write_text(json.dumps({**table, **changes}))
    return run
