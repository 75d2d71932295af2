"""Figures: drawn by matplotlib, checked as XML; the oracle of a place is the axis that the figure carries."""

import itertools
import math
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET

import matplotlib as mpl
import pytest

from raysys.evaluation import plots
from raysys.evaluation.plots import DotRow, curve_plot, dot_plot

ROWS = [
    DotRow("hit_rate@10", 0.18, (0.17, 0.2), {"popular": 0.11, "random": 0.0}),
    DotRow("ndcg@10", 0.09, None, {"popular": 0.05}),
]


def dots(rows: list[DotRow] | None = None, figure_id: str = "f") -> str:
    return dot_plot(rows or ROWS, "mind", figure_id, "a message")


def texts(svg: str) -> list[str]:
    return [node.text or "" for node in ET.fromstring(svg).iter("text")]


def ids(svg: str) -> list[str]:
    return re.findall(r' id="([^"]+)"', svg)


def test_names_are_selectable_text():
    assert {"hit_rate@10", "ndcg@10", "mind", "popular", "random"} <= set(texts(dots()))
    assert texts(dots()).count("popular") == 1


def test_is_an_image_with_a_message():
    root = ET.fromstring(dot_plot(ROWS, "mind", "f", 'say "<what>" & who'))
    assert root.get("role") == "img"
    assert root.get("aria-label") == 'say "<what>" & who'
    assert root.get("viewBox")
    assert root.get("width") is None


def test_colours_and_fonts_are_those_of_the_page():
    svg = dots() + curve_plot([1, 2], [("train/loss", [2.0, 1.0])], 1, "g", "m")
    found = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", svg))
    assert found == {"none", "var(--accent)", "currentColor", "var(--muted)", "var(--line)"}
    assert not any(colour in svg for colour in plots.CSS_COLOURS)
    assert "font-family" not in svg
    assert "<style" not in svg


def test_holds_no_address_and_no_date():
    svg = dots()
    assert "http" not in svg
    assert "<metadata" not in svg
    assert not re.search(r"20\d\d-\d\d", svg)


def test_same_input_same_bytes():
    assert dots() == dots()


def test_ids_of_two_figures_differ_and_references_resolve():
    one, two = dots(figure_id="one"), dots(figure_id="two")
    assert len(set(ids(one))) == len(ids(one))
    assert not set(ids(one)) & set(ids(two))
    references = re.findall(r'href="#([^"]+)"', one) + re.findall(r"url\(#([^)]+)\)", one)
    assert references
    assert set(references) <= set(ids(one))


def test_names_of_users_are_text_and_nothing_else():
    names = ['<script>alert("1")</script>', "price $1 of $2", "_hidden", "牛乳", 'a" id="b', "</svg>"]
    svg = dot_plot([DotRow(name, 0.1, None, {name: 0.2}) for name in names], "mind", "f", "m")
    assert "<script" not in svg
    shown = [text.lstrip("\u200b") for text in texts(svg)]
    for name in names:
        assert shown.count(name if len(name) <= 20 else f"{name[:19]}…") == 2


@pytest.mark.parametrize("others", [1, 5])
def test_long_names_leave_room_for_the_axis(others: int):
    row = DotRow(
        "a_run_with_a_very_long_name", 0.1, (0.05, 0.2), {f"a_long_baseline_{i}": 0.1 for i in range(others)}
    )
    root = ET.fromstring(dots([row]))
    width = float(root.get("viewBox", "").split()[2])
    ticks = [
        float(node.get("x", "nan")) for node in root.iter("text") if re.fullmatch(r"0\.\d+", node.text or "")
    ]
    assert max(ticks) - min(ticks) > 0.35 * width
    assert all(0 <= float(node.get("x", "0")) <= width for node in root.iter("text"))


def test_a_dot_stands_where_the_axis_says():
    root = ET.fromstring(dots([DotRow("m", 0.2, None, {"popular": 0.1, "random": 0.0})]))
    axis = {
        float(n.text or ""): float(n.get("x", ""))
        for n in root.iter("text")
        if re.fullmatch(r"0\.\d+", n.text or "")
    }
    (low, at_low), (high, at_high) = min(axis.items()), max(axis.items())
    dot = next(
        float(use.get("x", ""))
        for use in root.iter("use")
        if "fill: var(--accent)" in use.get("style", "") and float(use.get("y", "0")) > 20
    )
    place = at_low + (0.2 - low) / (high - low) * (at_high - at_low)
    assert math.isclose(dot, place, abs_tol=0.1)


def test_all_zero_values_still_draw():
    assert "mrr" in texts(dots([DotRow("mrr", 0.0, (0.0, 0.0), {"popular": 0.0})]))


def test_the_curve_marks_the_best_epoch_and_leaves_gaps():
    panels = [("train/loss", [3.0, 2.0, 1.0]), ("valid/ndcg@10", [0.1, None, 0.2])]
    svg = curve_plot([1, 2, 3], panels, 2, "f", "m")
    assert {"train/loss", "valid/ndcg@10", "epoch", "1", "2", "3"} <= set(texts(svg))
    assert svg.count("stroke-dasharray") == 2
    assert "stroke-dasharray" not in curve_plot([1, 2, 3], panels, -1, "f", "m")
    assert "nan" not in svg


def test_the_curve_of_one_epoch_and_of_a_missing_best_value():
    assert "1" in texts(curve_plot([1], [("train/loss", [3.0])], 0, "f", "m"))
    assert curve_plot([1, 2], [("valid/mrr", [0.1, None])], 1, "f", "m")


@pytest.mark.parametrize("count", [2, 5, 9])
def test_lines_of_a_panel_bear_their_names_apart_from_each_other(count: int):
    lines = {f"line {place}": [0.5, None, 0.3 + 0.001 * place] for place in range(count)}
    lines["never"] = [None, None, None]
    svg = curve_plot([1, 2, 3], [("share", lines), ("train/loss", [2.0, 1.5, 1.0])], 1, "f", "m")
    names = [node for node in ET.fromstring(svg).iter("text") if (node.text or "").startswith("line")]
    heights = {node.text: float(re.findall(r"[\d.]+", node.get("transform", ""))[-1]) for node in names}
    assert len(heights) == count
    assert "never" not in texts(svg)
    # the larger the last value, the higher the name: y falls
    ordered = [heights[f"line {place}"] for place in range(count)]
    assert ordered == sorted(ordered, reverse=True)
    assert min(a - b for a, b in itertools.pairwise(ordered)) > 7
    assert "nan" not in svg


def test_an_axis_covers_what_it_is_told_to():
    def ticks(**more: tuple[float, float]) -> list[float]:
        svg = curve_plot([1, 2], [("share", [0.41, 0.42])], -1, "f", "m", more)
        return [float(text) for text in texts(svg) if re.fullmatch(r"\d\.\d+", text)]

    assert max(ticks()) < 0.5
    assert (min(ticks(share=(0.0, 1.0))), max(ticks(share=(0.0, 1.0)))) == (0.0, 1.0)
    assert max(ticks(other=(0.0, 1.0))) < 0.5


def test_global_settings_are_left_alone():
    before = dict(mpl.rcParams)
    dots()
    assert dict(mpl.rcParams) == before


def test_neither_pyplot_nor_heavy_packages_are_loaded():
    code = "import sys, raysys.evaluation.report\nfrom raysys.evaluation.plots import DotRow, dot_plot\n"
    code += "dot_plot([DotRow('a', 0.1)], 'm', 'f', 'm')\n"
    code += "print([name for name in ('matplotlib.pyplot', 'ray', 'torch', 'pandas') if name in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


def test_drawing_works_away_from_the_main_thread():
    made: list[str] = []
    thread = threading.Thread(target=lambda: made.append(dots()))
    thread.start()
    thread.join()
    assert made == [dots()]
