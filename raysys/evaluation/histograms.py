"""Bar charts of the data page: counts over time and over classes, as inline SVG like the other figures."""
# pyright: reportUnknownMemberType=false
# matplotlib declares its functions with keyword arguments of unknown types.

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import FuncFormatter, MaxNLocator

from raysys.evaluation.plots import ACCENT, INK, LINE, MUTED, canvas, drawing, to_svg

_HEIGHT = 1.9
_MANY = 60


@dataclass(frozen=True)
class Bars:
    """A chart of counts side by side, bar n from n to n + 1 on the axis.

    Attributes:
        title: what is counted.
        counts: at least one.
        ticks: places on the axis and their labels.
        unit: name of the axis, may be empty.
        mark: a place on the axis and what is there, drawn as a dashed line; None for none.
    """

    title: str
    counts: Sequence[int]
    ticks: Sequence[tuple[float, str]]
    unit: str = ""
    mark: tuple[float, str] | None = None


def bar_plot(bars: Bars, figure_id: str, message: str) -> str:
    """Return an SVG of the bars; many of them are drawn as one outline.

    Args:
        bars: what to draw.
        figure_id, message: as in `plots.dot_plot`.
    """
    count = len(bars.counts)
    with drawing():
        figure = canvas(_HEIGHT)
        axes = figure.subplots()
        if count > _MANY:
            axes.stairs(bars.counts, range(count + 1), fill=True, color=ACCENT, linewidth=0)
        else:
            places = [place + 0.5 for place in range(count)]
            axes.bar(places, bars.counts, width=0.84, color=ACCENT, linewidth=0)
        axes.set_title(bars.title, loc="left", fontsize=10.5, color=INK, parse_math=False)
        axes.set_axisbelow(True)
        axes.grid(axis="y", color=LINE, linewidth=0.8)
        axes.set_xticks(
            [place for place, _ in bars.ticks], [label for _, label in bars.ticks], parse_math=False
        )
        axes.yaxis.set_major_locator(MaxNLocator(nbins=3, integer=True))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.tick_params(axis="y", length=0, labelcolor=MUTED)
        axes.set_xlabel(bars.unit, parse_math=False)
        axes.set_xlim(-0.02 * count, 1.02 * count)
        axes.set_ylim(0, 1.08 * max([*bars.counts, 1]))
        for side in ("top", "left", "right"):
            axes.spines[side].set_visible(False)
        if bars.mark is not None:
            place, label = bars.mark
            axes.axvline(place, color=INK, linewidth=1, linestyle=(0, (3, 3)))
            left = place > count / 2
            axes.annotate(
                label,
                (place, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-4 if left else 4, -2),
                textcoords="offset points",
                ha="right" if left else "left",
                va="top",
                fontsize=9.5,
                color=INK,
                parse_math=False,
            )
        return to_svg(figure, figure_id, message)


def short(value: float) -> str:
    """Return a count in few letters: 950, 1.5k, 20k, 3M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            digits = 1 if value < 10 * size and value % size else 0
            return f"{value / size:.{digits}f}{letter}"
    return f"{value:.3g}"
