"""What a finished run says, in words and tables that the HTML and the Markdown report share.

A verdict compares the run with its baselines; everything else is a table. Nothing here knows how it will be shown.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

LEVEL = "95 %"
"""Level of the intervals in metrics.json: the default of `MetricTotals.intervals`."""
MEANINGS = {
    "hit_rate": "share of queries with at least one target among the first k",
    "recall": "share of a query's targets that is among the first k",
    "precision": "share of the first k places that hold a target",
    "ndcg": "like recall, but a target counts more the higher it stands",
    "mrr": "1 / rank of the first target, 0 where none was found",
    "map": "mean precision at the ranks of the targets found",
    "coverage": "share of the catalogue that was recommended to anybody",
}
REFERENCE = "popular"
"""The baseline that a verdict is about where a run has it."""
_FEW = 30


@dataclass(frozen=True)
class Cell:
    """One cell: text, a quieter second text, a bar of a length in [0, 1], and whether it matters most."""

    text: str
    detail: str = ""
    bar: float | None = None
    strong: bool = False


@dataclass(frozen=True)
class Table:
    """A table; its first `text_columns` columns hold words, the others numbers."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    text_columns: int = 1


@dataclass(frozen=True)
class Verdict:
    """One run against one baseline; `tone` is better, unsure, worse or none (nothing to compare with)."""

    tone: str
    headline: str
    sentences: list[str] = field(default_factory=list)
    figures: list[tuple[str, str]] = field(default_factory=list)


def number(value: Any) -> str:
    """Return a value as a reader wants it: counts with separators, fractions with four digits, `–` for none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return (
            f"{value:.4f}" if abs(value) < 100 else f"{value:,.1f}" if abs(value) < 10000 else f"{value:,.0f}"
        )
    return ", ".join(map(number, value)) if isinstance(value, list | tuple) else str(value)


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return the count with its noun, as in `1 query` and `2 queries`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def headline_key(metrics: Mapping[str, Any]) -> str:
    """Return the first metric that has an interval, else the first; the order is that of `evaluation.metrics`."""
    intervals, values = metrics.get("intervals") or {}, metrics["metrics"]
    return next((key for key in values if key in intervals), next(iter(values)))


def standing(value: float, interval: Sequence[float] | None, base: float | None) -> str:
    """Return how a value stands to a baseline's: above, above?, below, below?, equal or nothing.

    A question mark says that the interval contains the baseline, or that there is no interval.
    """
    if base is None:
        return ""
    if value == base:
        return "equal"
    side = "above" if value > base else "below"
    outside = interval is not None and (interval[0] > base or interval[1] < base)
    return side if outside else f"{side}?"


def ratio(value: float, base: float | None) -> str:
    """Return how many times the baseline the value is, `–` where the baseline is 0 or missing."""
    return f"{value / base:.2f}×" if base else "–"


def judge(name: str, metrics: Mapping[str, Any]) -> Verdict:
    """Return the verdict on a run.

    Args:
        name: what the run is called.
        metrics: the content of metrics.json.
    """
    key, baselines = headline_key(metrics), metrics.get("baselines") or {}
    value, interval = metrics["metrics"][key], (metrics.get("intervals") or {}).get(key)
    measured = {other: values[key] for other, values in baselines.items() if values.get(key) is not None}
    measured.pop(metrics.get("model"), None)
    figures = [(key, number(value))]
    if interval:
        figures.append((f"{LEVEL} interval", f"{interval[0]:.4f} to {interval[1]:.4f}"))
    if not measured:
        return Verdict(
            "none",
            f"{name} has {key} = {number(value)}; there is no baseline to compare it with.",
            [],
            figures,
        )
    against = (
        REFERENCE if REFERENCE in measured else max(measured, key=lambda other: (measured[other], other))
    )
    base = measured[against]
    state = standing(value, interval, base)
    figures += [(against, number(base)), (f"ratio to {against}", ratio(value, base))]
    times = f", {value / base:.2f} times its value" if base else ""
    verb = {
        "above": "beats", "above?": "is ahead of", "below": "falls short of", "below?": "is behind", "equal": "equals"
    }[state]  # fmt: skip
    doubt = ", but not surely" if state.endswith("?") else ""
    headline = f"{name} {verb} {against} on {key}: {number(value)} against {number(base)}{times}{doubt}."
    sentences = [_how_sure(interval, state, against, base, metrics), _overall(metrics, against)]
    best = max(measured, key=lambda other: (measured[other], other))
    if best != against and measured[best] > base:
        side = standing(value, interval, measured[best])
        sentences.append(
            f"The strongest baseline on {key} is {best} with {number(measured[best])}; {name} is "
            f"{side.rstrip('?')}{' to' if side == 'equal' else ''} it{' within the interval' if '?' in side else ''}."
        )
    tone = {"above": "better", "below": "worse"}.get(state, "unsure")
    return Verdict(tone, headline, [text for text in sentences if text], figures)


def _how_sure(
    interval: Sequence[float] | None, state: str, against: str, base: float, metrics: Mapping[str, Any]
) -> str:
    queries = (metrics.get("protocol") or {}).get("queries")
    over = f" over {plural(queries, 'query', 'queries')}" if isinstance(queries, int) else ""
    if interval is None:
        return "How sure: the run recorded no interval for this metric, so nothing can be said."
    span = f"the {LEVEL} bootstrap interval{over}, {interval[0]:.4f} to {interval[1]:.4f},"
    if state in ("above", "below"):
        where = "above" if state == "above" else "below"
        return (
            f"How sure: {span} lies wholly {where} the {number(base)} of {against}; which users happened to be "
            "measured does not explain the difference."
        )
    return (
        f"How sure: {span} contains the {number(base)} of {against}; the difference may be chance. Measure more "
        "users before relying on it."
    )


def _overall(metrics: Mapping[str, Any], against: str) -> str:
    values, intervals = metrics["metrics"], metrics.get("intervals") or {}
    base = metrics["baselines"][against]
    states = {key: standing(value, intervals.get(key), base.get(key)) for key, value in values.items()}
    states = {key: state for key, state in states.items() if state}
    if len(states) < 2:
        return ""
    better = [key for key, state in states.items() if state.startswith("above")]
    worse = [key for key, state in states.items() if state.startswith("below")]
    text = f"All metrics: above {against} on {len(better)} of {len(states)}"
    return f"{text}, below on {', '.join(worse)}." if worse else f"{text}."


def metric_table(metrics: Mapping[str, Any]) -> Table:
    """Return every metric with its interval, beside every baseline."""
    baselines, intervals = metrics.get("baselines") or {}, metrics.get("intervals") or {}
    order = sorted(baselines, key=lambda name: (name != REFERENCE, name))
    first = order[0] if order else ""
    head = [
        "metric",
        metrics["model"],
        f"{LEVEL} interval",
        *order,
        *([f"ratio to {first}"] if first else []),
        "standing",
    ]
    rows: list[list[Cell]] = []
    for key, value in metrics["metrics"].items():
        interval, base = intervals.get(key), baselines.get(first, {}).get(key)
        span = f"{interval[0]:.4f} – {interval[1]:.4f}" if interval else "–"
        state = standing(value, interval, base)
        row = [Cell(key), Cell(number(value), strong=True), Cell(span)]
        row += [Cell(number(baselines[name].get(key))) for name in order]
        row += [Cell(ratio(value, base))] if first else []
        rows.append(
            [*row, Cell(_STANDING[state] if interval else state.rstrip("?") or "–", strong=state == "above")]
        )
    return Table(
        "Metrics and baselines", head if first else head[:-1], rows if first else [row[:-1] for row in rows]
    )


_STANDING = {
    "above": "above", "above?": "above, unsure", "below": "below", "below?": "below, unsure", "equal": "equal", "": "–"
}  # fmt: skip


def glossary_table(keys: Sequence[str]) -> Table:
    """Return what each metric means."""
    names = dict.fromkeys(key.partition("@")[0] for key in keys)
    rows = [[Cell(name), Cell(MEANINGS[name])] for name in names if name in MEANINGS]
    return Table("What the metrics mean", ["metric", "meaning"], rows, 2)


def slice_table(title: str, buckets: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one row per bucket; bars compare the buckets within a column of fractions."""
    columns = list(dict.fromkeys(key for values in buckets.values() for key in values))
    columns.sort(key=lambda key: not all(isinstance(values.get(key), int) for values in buckets.values()))
    largest = {
        key: max(
            (values[key] for values in buckets.values() if isinstance(values.get(key), float)), default=0.0
        )
        for key in columns
    }
    rows = [
        [
            Cell(name),
            *(Cell(number(value := values.get(key)), bar=_share(value, largest[key])) for key in columns),
        ]
        for name, values in buckets.items()
    ]
    return Table(title, ["slice", *columns], rows)


def _share(value: Any, largest: float) -> float | None:
    return value / largest if isinstance(value, float) and largest > 0 else None


def slice_sentence(title: str, buckets: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """Return where the metric is highest and lowest, and a warning about buckets with few queries."""
    values = {name: row[key] for name, row in buckets.items() if row.get(key) is not None}
    if len(values) < 2:
        return ""
    high, low = max(values, key=lambda name: values[name]), min(values, key=lambda name: values[name])
    text = f"{title}: {key} is highest for {high} ({number(values[high])}) and lowest for {low} ({number(values[low])})."
    counts = [next((v for v in row.values() if isinstance(v, int)), _FEW) for row in buckets.values()]
    return f"{text} A slice of fewer than {_FEW} says little." if min(counts) < _FEW else text


def curve_table(curve: Sequence[Mapping[str, Any]], best: int) -> Table:
    """Return one row per epoch; `best` is the index of the best one, which is marked, or -1."""
    columns = list(dict.fromkeys(key for entry in curve for key in entry))
    rows = [
        [Cell(number(entry.get(key)), strong=place == best, detail="best" if place == best and key == "epoch" else "")
         for key in columns]
        for place, entry in enumerate(curve)
    ]  # fmt: skip
    return Table("Every epoch", columns, rows, 0)


def pair_table(title: str, values: Mapping[str, Any], head: Sequence[str] = ("name", "value")) -> Table:
    """Return nested values as rows of dotted name and value."""
    return Table(title, head, [[Cell(name), Cell(number(value))] for name, value in _flat(values)])


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for key, value in values.items():
        rows += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else [(f"{prefix}{key}", value)]
    return rows


def share_table(title: str, counts: Mapping[str, int], total: int, unit: str) -> Table:
    """Return counts with their share of a total."""
    rows = [
        [Cell(name), Cell(number(count)), Cell(f"{count / total:.2%}" if total else "–", bar=count / total if total else None)]
        for name, count in counts.items()
    ]  # fmt: skip
    return Table(title, ["reason", unit, "share"], rows)
