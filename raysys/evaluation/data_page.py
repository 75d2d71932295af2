"""What features/profile.json says of the data, as words, figures and tables of the report."""

import math
from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any

from raysys.evaluation.data_summary import DISTRIBUTIONS, Profile, advice
from raysys.evaluation.findings import Cell, Table, number, part, plural
from raysys.evaluation.histograms import Bars, bar_plot, short

SPANS = (
    (1, "1 s"), (60, "1 min"), (600, "10 min"), (3600, "1 h"), (86_400, "1 d"), (604_800, "1 wk"),
    (2_592_000, "30 d"), (31_536_000, "1 y"),
)  # fmt: skip
DRAWN = {
    "events_per_user": ("Users by number of events", "events of the user"),
    "events_per_item": ("Items by number of events", "events of the item"),
    "sessions_per_user": ("Users by number of sessions", "sessions of the user"),
    "events_per_session": ("Sessions by number of events", "events of the session"),
}
WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def mistakes_sentence(profile: Profile) -> str:
    """Return how many likely mistakes there are."""
    count = len(advice(profile))
    if not count:
        return "Nothing in the log looks like a mistake."
    return (
        "One thing may be a mistake:" if count == 1 else f"{count} things may be mistakes, the gravest first:"
    )


def sentences(profile: Profile) -> list[str]:
    """Return what a reader should know of the log before its figures."""
    time, many = profile["time"], profile["concentration"]
    told = [
        f"The events lie between {_moment(time['first'])} and {_moment(time['last'])} UTC, "
        f"{plural(time['days'], 'day')}. {profile['tied_share']:.1%} have the very time of the user's event "
        f"before; {profile['repeat_share']:.1%} repeat an item that the user had before.",
        f"The most popular 1 % of the items have {many['top_1_percent_items_share']:.1%} of the events, the "
        f"busiest item {many['busiest_item_share']:.2%}, the busiest user {many['busiest_user_share']:.2%}.",
    ]
    if profile["gaps"]["within_gap_share"] is not None:
        told[0] += (
            f" {profile['gaps']['within_gap_share']:.1%} of the gaps between a user's events are within "
            f"session.gap_s = {profile['gaps']['session_gap_s']}."
        )
    return told


def _moment(text: str) -> str:
    return text[:16].replace("T", " ")


def figures(profile: Profile, anchor: str) -> list[str]:
    """Return the charts, in reading order; `anchor` makes their ids unlike those of other runs."""
    charts = {"time": over_time(profile["time"])}
    charts |= {key: _by_size(title, unit, part(profile, key)) for key, (title, unit) in DRAWN.items()}
    charts["gaps"] = _gaps(part(profile, "gaps"))
    charts["hours"] = Bars(
        "Events by hour of the day (UTC)",
        profile["time"]["hour_of_day"],
        [(hour + 0.5, str(hour)) for hour in range(0, 24, 3)],
    )
    charts["weekday"] = Bars(
        "Events by day of the week",
        profile["time"]["weekday"],
        [(day + 0.5, name) for day, name in enumerate(WEEKDAYS)],
    )
    return [
        bar_plot(chart, f"{anchor}-{key}", _message(profile, key, chart))
        for key, chart in charts.items()
        if chart.counts
    ]


def _message(profile: Profile, key: str, chart: Bars) -> str:
    """Return what a chart shows, for readers who do not see it."""
    if key in DISTRIBUTIONS:
        return f"{chart.title}: {_spread(part(profile, key))}."
    top = max(range(len(chart.counts)), key=lambda place: chart.counts[place])
    near = min(chart.ticks, key=lambda tick: abs(tick[0] - top - 0.5))[1] if chart.ticks else ""
    return f"{chart.title}: the highest bar, near {near}, has {number(chart.counts[top])}."


def _spread(values: Mapping[str, Any]) -> str:
    return (
        f"least {number(values['min'])}, median {number(values['median'])}, 90 % at most "
        f"{number(values['p90'])}, 99 % at most {number(values['p99'])}, most {number(values['max'])}"
    )


def over_time(time: Mapping[str, Any]) -> Bars:
    """Return the events per day, week or month, with four dates."""
    counts: list[int] = time["events"]
    step = max(1, -(-len(counts) // 4))
    ticks = [(place, _label(time, place)) for place in range(0, max(len(counts) - step // 2, 1), step)]
    return Bars(f"Events per {time['unit']}", counts, ticks)


def _label(time: Mapping[str, Any], place: int) -> str:
    begin: str = time["begin"]
    if time["unit"] == "month":
        months = int(begin[:4]) * 12 + int(begin[5:7]) - 1 + place
        return f"{months // 12}-{months % 12 + 1:02d}"
    days = place if time["unit"] == "day" else 7 * place
    return (date.fromisoformat(begin) + timedelta(days=days)).isoformat()


def _by_size(title: str, unit: str, values: Mapping[str, Any]) -> Bars:
    found = part(values, "histogram")
    ends: list[int] = found["from"]
    step = 1 if len(ends) <= 9 else 2
    ticks = [(place, str(end) if end < 10_000 else short(end)) for place, end in enumerate(ends)][::step]
    return Bars(title, found["count"], ticks, unit)


def _gaps(gaps: Mapping[str, Any]) -> Bars:
    """Return the gaps above 0 s; the words say how many tie."""
    found = part(gaps, "histogram")
    bars = [(end, count) for end, count in zip(found["from"], found["count"], strict=True) if end]
    bars = bars[next((n for n, bar in enumerate(bars) if bar[1]), len(bars)) :]
    if not bars:
        return Bars("", [], [])

    def place(seconds: int) -> float:
        return math.log2(seconds / bars[0][0])

    apart, ticks = 0.13 * len(bars), list[tuple[float, str]]()
    for seconds, name in SPANS:
        inside = 0 <= place(seconds) <= len(bars)
        if inside and (not ticks or place(seconds) - ticks[-1][0] > apart):
            ticks.append((place(seconds), name))
    gap = int(gaps.get("session_gap_s") or 0)
    shown = gap > 0 and 0 <= place(gap) <= len(bars)
    mark = (place(gap), "session gap") if shown else None
    title = "Gaps between a user's neighbouring events, without ties"
    return Bars(title, [count for _, count in bars], ticks, "", mark)


def tables(profile: Profile) -> list[Table]:
    """Return the tables, in reading order."""
    found = [_distribution_table(profile), _cold_table(part(profile, "cold"))]
    kinds = part(profile, "event_types")
    if kinds:
        rows = [[Cell(name or "(none)"), Cell(f"{share:.2%}", bar=share)] for name, share in kinds.items()]
        found.append(Table("Event types", ["type", "share"], rows))
    features = part(profile, "features")
    if features:
        rows = [
            [Cell(name), Cell(number(values["values"])), Cell(f"{values['null_share']:.2%}")]
            for name, values in features.items()
        ]
        found.append(Table("Event features", ["feature", "values", "without one"], rows))
    return found


def _distribution_table(profile: Profile) -> Table:
    names = ("min", "median", "mean", "p90", "p99", "max")
    rows = [
        [Cell(title), *(Cell(_plain(profile[key][name])) for name in names)]
        for key, title in DISTRIBUTIONS.items()
    ]
    head = ["", "least", "median", "mean", "90 %", "99 %", "most"]
    return Table("How many", head, rows)


def _plain(value: float) -> str:
    return number(value) if isinstance(value, int) else f"{value:,.1f}"


def _cold_table(cold: Mapping[str, Any]) -> Table:
    rows = [
        [Cell(f"{what} of {name}"), Cell(number(values[key])), Cell(f"{values[share]:.2%}")]
        for name, values in cold.items()
        for what, key, share in (
            ("targets", "targets", "cold_target_share"),
            ("users", "queries", "cold_query_share"),
        )
    ]
    title = "What is held out, and how much of it training never saw"
    return Table(title, ["held out", "number", "unseen"], rows)
