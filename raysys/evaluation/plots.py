"""Figures of the report as inline SVG that takes colours and font from the page around it.

Figures are drawn with colours that nobody would choose; after rendering they become CSS variables, so one
drawing serves light and dark pages. The result holds no address, no date and no id of another figure.
"""
# pyright: reportUnknownMemberType=false
# matplotlib declares its functions with keyword arguments of unknown types.

import io
import re
import warnings
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

ACCENT, INK, MUTED, LINE = "#010a01", "#020b02", "#030c03", "#040d04"
CSS_COLOURS = {
    ACCENT: "var(--accent)",
    INK: "currentColor",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
}
_MARKERS = ("D", "s", "^", "v", "P", "X")
_LINE_COLOURS, _DASHES = (ACCENT, INK, MUTED), ("-", (0, (4, 2)), (0, (1, 1.5)))
_NAME_HEIGHT = 0.17
"""Height of the name of a line, as a share of a panel's."""
_WIDTH = 4.7
_LABEL = 20
_LEGEND = 46
_LEGEND_LINE = 0.22
_WORTH_TELLING = 0.005
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "raysys",
    "svg.id": None,
    "font.size": 10.5,
    "text.usetex": False,
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": INK,
    "axes.unicode_minus": True,
}


Line = Sequence[float | None]
Lines = Line | Mapping[str, Line]
"""One line of a panel, or several by name; None leaves a gap."""


@dataclass(frozen=True)
class DotRow:
    """One line of a dot plot: a value with its interval, and other values to compare it with, by name."""

    label: str
    value: float
    interval: Sequence[float] | None = None
    others: dict[str, float] = field(default_factory=dict[str, float])


def dot_plot(rows: Sequence[DotRow], value_name: str, figure_id: str, message: str) -> str:
    """Return an SVG with one line per row: a dot with whiskers, and a hollow mark for each other value.

    Args:
        rows: at least one, shown from the top.
        value_name: what the dots are, for the legend.
        figure_id: a word that no other figure of the page has.
        message: what the figure shows, for readers who do not see it.
    """
    with drawing():
        figure, axes = _figure(0.5 + 0.34 * len(rows))
        for place, row in enumerate(rows):
            if row.interval is not None:
                axes.plot(row.interval, [place, place], color=ACCENT, linewidth=2, solid_capstyle="butt")
                axes.plot(
                    row.interval, [place, place], color=ACCENT, marker="|", markersize=8, linestyle="none"
                )
        axes.plot(
            [row.value for row in rows],
            range(len(rows)),
            "o",
            color=ACCENT,
            markersize=7,
            label=_plain(value_name),
        )
        names = list(dict.fromkeys(name for row in rows for name in row.others))
        for number, name in enumerate(names):
            points = [(row.others[name], place) for place, row in enumerate(rows) if name in row.others]
            axes.plot(
                *zip(*points, strict=True),
                linestyle="none",
                marker=_MARKERS[number % len(_MARKERS)],
                markersize=5.5,
                markerfacecolor="none",
                markeredgecolor=INK,
                zorder=4,
                label=_plain(name),
            )
        axes.set_yticks(range(len(rows)), [_plain(row.label) for row in rows], parse_math=False)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        right = max([*(_right(row) for row in rows), 1e-6])
        axes.set_xlim(-0.04 * right, 1.05 * right)
        axes.grid(axis="x", color=LINE, linewidth=0.8)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
        axes.tick_params(axis="y", length=0)
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
        _legend(figure, axes)
        return to_svg(figure, figure_id, message)


def _right(row: DotRow) -> float:
    return max([row.value, *(row.interval or ()), *row.others.values()])


def curve_plot(
    epochs: Sequence[int],
    panels: Sequence[tuple[str, Lines]],
    best: int,
    figure_id: str,
    message: str,
    at_least: Mapping[str, tuple[float, float]] | None = None,
) -> str:
    """Return an SVG with one panel per quantity above a shared axis of epochs; the best epoch is marked.

    Args:
        epochs: at least one.
        panels: name, and one value per epoch or several such lines, which bear their names at their right
            ends.
        best: place of the best epoch in `epochs`, -1 for none.
        figure_id, message: as in `dot_plot`.
        at_least: by name of a panel what its axis covers whatever the values are.
    """
    with drawing():
        figure = canvas(0.5 + 1.5 * len(panels))
        grid = figure.subplots(len(panels), 1, sharex=True, squeeze=False)
        for place, (name, lines) in enumerate(panels):
            axes: Axes = grid[place, 0]
            axes.set_title(name, loc="left", fontsize=10.5, color=INK, parse_math=False)
            for end in (at_least or {}).get(name, ()):
                axes.update_datalim([(epochs[0], end)])
            axes.grid(axis="y", color=LINE, linewidth=0.8)
            axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
            axes.tick_params(axis="y", length=0, labelcolor=MUTED)
            for side in ("top", "left", "right"):
                axes.spines[side].set_visible(False)
            if isinstance(lines, Mapping):
                _named_lines(axes, epochs, lines)
                if best >= 0:
                    _mark_best(axes, epochs[best], None)
                continue
            axes.plot(epochs, _with_gaps(lines), color=ACCENT, linewidth=1.8, marker="o", markersize=3.5)
            if best >= 0:
                _mark_best(axes, epochs[best], lines[best])
        last: Axes = grid[-1, 0]
        last.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, min_n_ticks=1))
        last.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
        last.set_xlabel("epoch")
        return to_svg(figure, figure_id, message)


def trade_off_plot(
    points: Sequence[tuple[float, float, str]], axes_names: tuple[str, str], figure_id: str, message: str
) -> str:
    """Return an SVG of points joined in order, each with its label.

    Args:
        points: (x, y, label), at least one.
        axes_names: what x and y are.
        figure_id: a word that no other figure of the page has.
        message: what the figure shows, for readers who do not see it.
    """
    with drawing():
        figure, axes = _figure(2.9)
        across, up = [x for x, _, _ in points], [y for _, y, _ in points]
        axes.plot(across, up, color=ACCENT, linewidth=1.8, marker="o", markersize=5)
        for x, y, label in points:
            axes.annotate(_plain(label), (x, y), xytext=(5, 5), textcoords="offset points", color=INK)
        axes.set_xlabel(axes_names[0])
        axes.set_ylabel(axes_names[1])
        axes.margins(0.12)
        return to_svg(figure, figure_id, message)


def share_map(
    columns: Sequence[str],
    rows: Sequence[tuple[str, Sequence[float]]],
    across: str,
    figure_id: str,
    message: str,
) -> str:
    """Return an SVG of shares as shaded cells with their percentages.

    Args:
        columns: names of the columns, at least one.
        rows: name and one share in [0, 1] per column, at least one; shown from the top.
        across: what the columns are, below them.
        figure_id: a word that no other figure of the page has.
        message: what the figure shows, for readers who do not see it.
    """
    deepest = max([share for _, shares in rows for share in shares] + [1e-9])
    with drawing():
        figure, axes = _figure(0.7 + 0.3 * len(rows))
        for down, (_, shares) in enumerate(rows):
            for right, share in enumerate(shares):
                box = Rectangle(
                    (right, down), 1, 1, facecolor=ACCENT, alpha=0.6 * share / deepest, linewidth=0
                )
                axes.add_patch(box)
                if share >= _WORTH_TELLING:
                    axes.text(
                        right + 0.5, down + 0.5, f"{100 * share:.0f}", ha="center", va="center", fontsize=9
                    )
        axes.set_xlim(0, len(columns))
        axes.set_ylim(len(rows), 0)
        axes.set_xticks([place + 0.5 for place in range(len(columns))], list(columns), parse_math=False)
        axes.set_yticks([place + 0.5 for place in range(len(rows))], [_plain(name) for name, _ in rows],
                        parse_math=False)  # fmt: skip
        axes.tick_params(length=0)
        axes.set_xlabel(f"{across}; shares in %")
        for side in ("top", "left", "right", "bottom"):
            axes.spines[side].set_visible(False)
        return to_svg(figure, figure_id, message)


def _with_gaps(values: Line) -> list[float]:
    return [float("nan") if value is None else value for value in values]


def _named_lines(axes: Axes, epochs: Sequence[int], lines: Mapping[str, Line]) -> None:
    """Draw lines that differ by colour and dash, each with its name at its last point."""
    ends: list[tuple[float, int, str, str]] = []
    for place, (name, values) in enumerate(lines.items()):
        colour = _LINE_COLOURS[place % len(_LINE_COLOURS)]
        dash = _DASHES[place // len(_LINE_COLOURS) % len(_DASHES)]
        axes.plot(epochs, _with_gaps(values), color=colour, linestyle=dash, linewidth=1.8,
                  marker="o", markersize=2.5)  # fmt: skip
        known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
        if known:
            ends.append((known[-1][1], known[-1][0], name, colour))
    low, high = axes.get_ylim()
    heights = _spread([(value - low) / (high - low) for value, *_ in sorted(ends)], _NAME_HEIGHT)
    for height, (_, _, name, colour) in zip(heights, sorted(ends), strict=True):
        axes.annotate(_plain(name), (1.0, height), xycoords="axes fraction", xytext=(2, 0),
                      textcoords="offset points", va="center", color=colour, fontsize=9.5,
                      parse_math=False)  # fmt: skip


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Return rising heights within 0 to 1 moved apart until neighbours are a gap from each other, and no
    further; the gap shrinks where there are too many."""
    gap = min(gap, 1 / max(len(heights), 1))
    blocks: list[tuple[float, int]] = []  # centre and number of names, each block a gap apart from the next
    for height in heights:
        centre, count = min(max(height, gap / 2), 1 - gap / 2), 1
        while blocks and centre - blocks[-1][0] < gap * (count + blocks[-1][1]) / 2:
            other, many = blocks.pop()
            centre, count = (centre * count + other * many) / (count + many), count + many
            centre = min(max(centre, gap * count / 2), 1 - gap * count / 2)
        blocks.append((centre, count))
    return [centre + gap * (place - (count - 1) / 2) for centre, count in blocks for place in range(count)]


def _mark_best(axes: Axes, epoch: int, value: float | None) -> None:
    axes.axvline(epoch, color=INK, linewidth=1, linestyle=(0, (3, 3)), zorder=1)
    if value is not None:
        axes.plot([epoch], [value], "o", color=INK, markersize=6, zorder=3)


@contextmanager
def drawing() -> Generator[None]:
    """Set the style of all figures; text stays text, so a letter that the measuring font lacks is no loss."""
    with warnings.catch_warnings(), mpl.rc_context(_STYLE):
        warnings.filterwarnings("ignore", message=r"Glyph .* missing from")
        yield


def canvas(height: float, width: float = _WIDTH) -> Figure:
    """Return an empty figure, by default of half the page's width, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = canvas(height)
    return figure, figure.subplots()


def _legend(figure: Figure, axes: Axes) -> None:
    """Put the legend above the axes, in as many lines as its names need."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, min(len(labels), _LEGEND // (max(map(len, labels)) + 4)))
    figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * -(-len(labels) // columns))
    legend = figure.legend(
        handles,
        labels,
        loc="outside upper left",
        ncols=columns,
        frameon=False,
        handletextpad=0.2,
        columnspacing=1.2,
    )
    for text in legend.get_texts():
        text.set_parse_math(False)


def _plain(name: str) -> str:
    """Return a label that fits; matplotlib would hide one that begins with `_` from a legend."""
    short = name if len(name) <= _LABEL else f"{name[: _LABEL - 1]}…"
    return f"\u200b{short}" if short.startswith("_") else short


def to_svg(figure: Figure, figure_id: str, message: str) -> str:
    """Return a drawn figure as inline SVG; arguments as in `dot_plot`."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<[^>]*>", lambda tag: _page_tag(tag.group(), figure_id), text)
    view_box = re.search(r'viewBox="[^"]*"', text)
    assert view_box is not None
    attributes = f'{view_box.group()} role="img" aria-label="{escape(message)}" class="figure"'
    text = re.sub(r"<svg[^>]*>", lambda _: f"<svg {attributes}>", text, count=1)
    return re.sub(r"\s*\n\s*", "\n", text)


def _page_tag(tag: str, figure_id: str) -> str:
    """Return a tag whose ids, colours and fonts are those of the page."""
    tag = re.sub(r' id="([^"]+)"', rf' id="{figure_id}-\1"', tag)
    tag = re.sub(r' (?:xlink:)?href="#([^"]+)"', rf' href="#{figure_id}-\1"', tag)
    tag = re.sub(r"url\(#([^)]+)\)", rf"url(#{figure_id}-\1)", tag)
    tag = re.sub(r" ?font-family: [^;\"]*;?", "", tag)
    for sentinel, colour in CSS_COLOURS.items():
        tag = tag.replace(sentinel, colour)
    return tag
