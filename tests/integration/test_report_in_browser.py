"""The report in headless Chromium: what a reader gets to see, offline, on a desktop and on a phone."""

import ctypes
import html
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from raysys.evaluation.report import build_report
from raysys.storage import Folder
from tests.unit.evaluation.sample_runs import finished_run, with_profile

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or sys.platform != "linux", reason="needs chromium on PATH, on Linux"
)
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--disable-breakpad",
    "--hide-scrollbars",
]
PR_SET_CHILD_SUBREAPER = 36
MEASURE = """
<iframe id="page" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe>
<p id="result"></p>
<script>
document.getElementById("page").onload = function () {{
  const page = this.contentDocument;
  page.querySelectorAll("details").forEach(d => d.open = true);
  const wide = [...page.querySelectorAll("body *")].filter(
    e => !e.closest(".scroll") && !e.closest("svg") && e.getBoundingClientRect().right > {width} + 1);
  document.getElementById("result").textContent =
    "width=" + page.documentElement.scrollWidth + " wide=" + wide.map(e => e.tagName).join(",") +
    " paper=" + page.defaultView.getComputedStyle(page.documentElement).backgroundColor + ";";
}};
</script>
"""

Browser = Callable[..., str]


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    """Return a function that runs Chromium and returns its output; nothing of it is left afterwards."""
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0  # its orphans become ours, so we can reap them
    sessions: set[int] = set()

    def run(page: Path, *flags: str) -> str:
        assert CHROMIUM is not None
        profile = tmp_path / f"profile-{len(sessions)}"
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={profile}", *flags, page.as_uri()]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        ) as process:
            sessions.add(process.pid)
            try:
                output, errors = process.communicate(timeout=120)
            finally:
                reap(sessions)
        assert process.returncode == 0, errors
        return output

    try:
        yield run
        assert members(sessions) == set()
    finally:
        libc.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def members(sessions: set[int]) -> set[int]:
    """Return Chromium's processes, dead ones that nobody has reaped included.

    They are those of its sessions, and its crash handlers, which have left them and are ours as orphans.
    """
    found: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                name, _, rest = (entry / "stat").read_text().rpartition(")")
            except (FileNotFoundError, ProcessLookupError):
                continue
            _, parent, _, session, *_ = rest.split()
            orphan = int(parent) == os.getpid() and name.partition("(")[2].startswith("chrom")
            if orphan or int(session) in sessions:
                found.add(int(entry.name))
    return found


def reap(sessions: set[int]) -> None:
    """Wait until the sessions are empty, and end what is still there after ten seconds."""
    begin = time.monotonic()
    while (left := members(sessions)) and time.monotonic() - begin < 20:
        for process in left:
            try:
                if time.monotonic() - begin > 10:
                    os.kill(process, signal.SIGKILL)
                os.waitpid(process, os.WNOHANG)
            except (ChildProcessError, ProcessLookupError):
                continue  # a grandchild is its parent's to reap, and ours once that has gone
        time.sleep(0.05)


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    mistake = {"code": "ties", "text": "Half of the events tie.", "remedy": "Set data.columns.order."}
    runs = [with_profile(finished_run(folder / "mind"), mistake), finished_run(folder / "sdm", "sdm", 1.3, 4)]
    build_report([Folder(run) for run in runs], Folder(folder / "out"))
    return folder / "out/report.html"


def test_a_reader_sees_verdict_sections_figures_and_users(browser: Browser, report: Path):
    seen = browser(report, "--dump-dom")
    assert "mind beats popular on hit_rate@10: 0.1834 against 0.1121" in seen
    assert "sdm is best on hit_rate@10" in seen
    for title in (
        "Learning curve",
        "Slices",
        "Users, one by one",
        "Interest health",
        "Index",
        "Data",
        "Protocol",
    ):
        assert len(re.findall(rf"<h3>{title}", seen)) == 2, title
    assert seen.count("<svg viewBox=") == 7 + 8
    assert "Half of the events tie." in seen
    assert seen.count('<details class="user"') == 16
    assert seen.count('class="heat-cell"') > 100


def test_the_file_asks_for_nothing_outside_itself(report: Path):
    text = report.read_text()
    assert set(re.findall(r"""\b(?:src|href)\s*=\s*(.{2})""", text)) == {'"#'}
    assert not re.search(r"url\((?!#)|@import|<script|<link|<img", text)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(browser: Browser, report: Path, tmp_path: Path, width: int):
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(width=width, page=html.escape(report.read_text())))
    seen = browser(frame, "--dump-dom", f"--window-size={width + 40},1000")
    assert f"width={width} wide= " in seen


def test_dark_mode_changes_the_paper(browser: Browser, report: Path, tmp_path: Path):
    frame = tmp_path / "frame.html"
    text = report.read_text()
    papers: set[str] = set()
    for page in (text, text.replace("(prefers-color-scheme: dark)", "(min-width: 1px)")):
        frame.write_text(MEASURE.format(width=800, page=html.escape(page)))
        papers.update(re.findall(r"paper=(rgb[^;]+);", browser(frame, "--dump-dom")))
    assert papers == {"rgb(255, 255, 255)", "rgb(18, 20, 24)"}


def test_a_screenshot_is_not_blank(browser: Browser, report: Path, tmp_path: Path):
    picture = tmp_path / "report.png"
    browser(report, f"--screenshot={picture}", "--window-size=1280,3000")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 100_000
