"""The report and the page of a search in headless Chromium: what a reader gets to see, offline, on a desktop
and on a phone."""

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
from raysys.tuning.page import search_page
from raysys.tuning.trials import AT_S, Trial
from tests.unit.evaluation.sample_runs import finished_run, with_profile
from tests.unit.tuning.spaces import planted_base, space_of

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


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a population of nine trials, two of them trained again under other seeds."""
    folder = planted_base(tmp_path_factory.mktemp("search"))
    space = space_of(folder)
    trials = [searched(number, 0.1 + 0.01 * number) for number in range(9)]
    for number, (of, score) in enumerate([(8, 0.20), (8, 0.21), (0, 0.10), (0, 0.11)], len(trials)):
        trials.append(searched(number, score, of))
    move = {"number": 1, "of": 8, "literals": trials[8].literals, "score": 0.09}
    generations = [{"epoch": 2, "moves": [move], "made": True}]
    page = folder / "search.html"
    page.write_text(search_page(space, trials, generations))
    return page


def searched(number: int, score: float, of: int | None = None) -> Trial:
    curve = [
        {"valid/ndcg@10": score * part, "epoch": epoch, AT_S: 60.0 * number + 10 * epoch}
        for epoch, part in ((1, 0.5), (2, 1.0))
    ]
    literals = {
        "model.num_interests": str(1 + number % 4),
        "model.train_score": '"served"',
        "training.learning_rate": f"{0.001 * (1 + number)}",
    }
    return Trial(
        number=number,
        kind="search" if of is None else "repeat",
        literals=literals,
        seed=1,
        status="finished",
        curve=curve,
        of=number if of is None else of,
    )


@pytest.fixture(params=["report", "search"])
def page(request: pytest.FixtureRequest) -> Path:
    return request.getfixturevalue(request.param)


def test_a_reader_of_a_search_sees_what_came_of_it(browser: Browser, search: Path):
    seen = browser(search, "--dump-dom")
    assert "Trial 8: valid/ndcg@10 0.2050 ± 0.0071 against 0.1050 ± 0.0071 untuned, +0.1000" in seen
    assert "which is more than the spread over seeds" in seen
    for title in ("Trials", "Progress", "Population", "Values", "Importance"):
        assert len(re.findall(rf"<h2[^>]*>{title}", seen)) == 1, title
    assert seen.count("<svg viewBox=") == 4
    assert len(re.findall("<td[^>]*>8</td>", seen)) >= 3  # on the leaderboard, again, and in the move


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


def test_the_file_asks_for_nothing_outside_itself(page: Path):
    text = page.read_text()
    assert set(re.findall(r"""\b(?:src|href)\s*=\s*(.{2})""", text)) == {'"#'}
    assert not re.search(r"url\((?!#)|@import|<script|<link|<img", text)


@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_never_scrolls_sideways(browser: Browser, page: Path, tmp_path: Path, width: int):
    frame = tmp_path / "frame.html"
    frame.write_text(MEASURE.format(width=width, page=html.escape(page.read_text())))
    seen = browser(frame, "--dump-dom", f"--window-size={width + 40},1000")
    assert f"width={width} wide= " in seen


def test_dark_mode_changes_the_paper(browser: Browser, page: Path, tmp_path: Path):
    frame = tmp_path / "frame.html"
    text = page.read_text()
    papers: set[str] = set()
    for shown in (text, text.replace("(prefers-color-scheme: dark)", "(min-width: 1px)")):
        frame.write_text(MEASURE.format(width=800, page=html.escape(shown)))
        papers.update(re.findall(r"paper=(rgb[^;]+);", browser(frame, "--dump-dom")))
    assert papers == {"rgb(255, 255, 255)", "rgb(18, 20, 24)"}


def test_a_screenshot_is_not_blank(browser: Browser, page: Path, tmp_path: Path):
    picture = tmp_path / "report.png"
    browser(page, f"--screenshot={picture}", "--window-size=1280,3000")
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert picture.stat().st_size > 100_000
