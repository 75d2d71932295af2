"""What a finished run measured, and the tables that the HTML and the Markdown report share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from raysys.errors import DataError

Interval = tuple[float, float]

LEVEL = "95 %"
"""Level of the intervals in metrics.json: the default of `MetricTotals.intervals`."""
MEANINGS = {
    "hit_rate": "share of queries with at least one target among the first k",
    "recall": "share of a query's targets that is among the first k",
    "precision": "share of the first k places that hold a target",
    "ndcg": "like recall, but a target counts more the higher it stands",
    "mrr": "1 / rank of the first target, 0 where none was found",
    "map": "mean precision at the ranks of the targets found",
    "novelty": "mean -log2 of the share that the first k items have in all training events: rarer is higher",
    "popularity_bias": "how many times as popular the first k are as what the user had before; 1 is no bias",
    "intra_list_diversity": "how unlike each other the first k are in their features: 0 all alike, 1 nothing",
    "coverage": "share of the catalogue that was recommended to anybody",
    "gini": "how unequally often items are recommended: 0 all equally, 1 one item only",
}
UNRANKED = ("novelty", "popularity_bias", "intra_list_diversity", "gini")
"""Metrics of which neither more nor less is simply better."""
REFERENCE = "popular"
"""The baseline that a verdict is about where a run has it."""
_FEW = 30


@dataclass(frozen=True)
class Measured:
    """The content of metrics.json; what the run left out is empty; the reference is the first baseline."""

    model: str
    part: str
    metrics: dict[str, float]
    intervals: dict[str, Interval]
    baselines: dict[str, dict[str, float]]
    slices: dict[str, dict[str, dict[str, Any]]]
    baseline_slices: dict[str, dict[str, dict[str, dict[str, Any]]]]
    protocol: dict[str, Any]
    interests: dict[str, Any]
    index: dict[str, Any]
    training: dict[str, Any]
    lineage: dict[str, Any]
    diversity_curve: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    gate: dict[str, Any] = field(default_factory=dict[str, Any])

    @property
    def headline(self) -> str:
        """The first metric that has an interval, else the first, in the order of `evaluation.metrics`; one of
        which more is better goes first."""
        keys = sorted(self.metrics, key=lambda key: not is_ranked(key))
        return next((key for key in keys if key in self.intervals), keys[0])

    @staticmethod
    def from_table(table: Mapping[str, Any], where: str) -> "Measured":
        """Return the measures of a parsed metrics.json; DataError names the file that has none."""
        metrics = {key: float(value) for key, value in part(table, "metrics").items() if value is not None}
        if not metrics or "model" not in table:
            raise DataError(f"{where}: no model or no metrics in it; run jobs/evaluate.py again")
        found, sliced = part(table, "baselines"), part(table, "baseline_slices")
        names = sorted(found, key=lambda name: (name != REFERENCE, name))
        return Measured(
            model=str(table["model"]),
            part=str(table.get("part", "test")),
            metrics=metrics,
            intervals={key: (ends[0], ends[1]) for key, ends in part(table, "intervals").items() if ends},
            baselines={
                name: {key: value for key, value in found[name].items() if value is not None}
                for name in names
            },
            slices={name: buckets for name, buckets in part(table, "slices").items() if buckets},
            baseline_slices={name: sliced[name] for name in names if name in sliced},
            protocol=part(table, "protocol"),
            interests=part(table, "interests"),
            index=part(table, "index"),
            training=part(table, "training"),
            lineage=part(table, "lineage"),
            diversity_curve=list(table.get("diversity_curve") or []),
            gate=part(table, "gate"),
        )


def is_ranked(key: str) -> bool:
    """Return whether more of a metric is better."""
    return key.partition("@")[0] not in UNRANKED


def part(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a table within a table, empty where it is missing or null."""
    return table.get(name) or {}


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


def number(value: Any) -> str:
    """Return a value as a reader wants it: counts with separators, fractions with four digits."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:.4f}" if size < 100 else f"{value:,.1f}" if size < 10000 else f"{value:,.0f}"
    return str(value) or "–"


def plural(count: int, noun: str, nouns: str = "") -> str:
    """Return the count with its noun, as in `1 query` and `2 queries`."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def span(interval: Interval) -> str:
    """Return an interval as words."""
    return f"{interval[0]:.4f} to {interval[1]:.4f}"


def standing(value: float, interval: Interval | None, base: float | None) -> str:
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


def metric_table(measured: Measured) -> Table:
    """Return every metric with its interval, beside every baseline."""
    names = list(measured.baselines)
    head = ["metric", measured.model, f"{LEVEL} interval", *names]
    if names:
        head += [f"ratio to {names[0]}", "standing"]
    rows: list[list[Cell]] = []
    for key, value in measured.metrics.items():
        interval = measured.intervals.get(key)
        row = [Cell(key), Cell(number(value), strong=True), Cell(span(interval) if interval else "–")]
        row += [Cell(number(measured.baselines[name].get(key))) for name in names]
        if names:
            base = measured.baselines[names[0]].get(key)
            state = standing(value, interval, base)
            row += [Cell(ratio(value, base)), Cell(_STANDING[state if interval else state.rstrip("?")])]
        rows.append(row)
    return Table("Metrics and baselines", head, rows)


_STANDING = {
    "above": "above",
    "above?": "unsure",
    "below": "below",
    "below?": "unsure",
    "equal": "equal",
    "": "–",
}


def glossary_table(keys: Sequence[str]) -> Table:
    """Return what each metric means."""
    names = dict.fromkeys(key.partition("@")[0] for key in keys)
    rows = [[Cell(name), Cell(MEANINGS[name])] for name in names if name in MEANINGS]
    return Table("What the metrics mean", ["metric", "meaning"], rows, 2)


def slice_table(title: str, buckets: Mapping[str, Mapping[str, Any]]) -> Table:
    """Return one row per bucket, counts before metrics; bars compare buckets within a metric."""
    columns = list(dict.fromkeys(key for row in buckets.values() for key in row))
    columns.sort(key=lambda key: not all(isinstance(row.get(key), int) for row in buckets.values()))
    # Of a single target recall is the hit rate; a column of the same figures would tell nothing.
    twins = {key: key.replace("recall@", "hit_rate@") for key in columns if key.startswith("recall@")}
    columns = [
        key
        for key in columns
        if key not in twins or any(row.get(key) != row.get(twins[key]) for row in buckets.values())
    ]
    largest = {
        key: max((_fraction(row.get(key)) for row in buckets.values()), default=0.0) for key in columns
    }
    rows = [
        [Cell(name), *(Cell(number(row.get(key)), bar=_bar(row.get(key), largest[key])) for key in columns)]
        for name, row in buckets.items()
    ]
    return Table(title, ["slice", *columns], rows)


def _fraction(value: Any) -> float:
    return value if isinstance(value, float) else 0.0


def _bar(value: Any, largest: float) -> float | None:
    return value / largest if isinstance(value, float) and largest > 0 else None


def slice_sentence(title: str, buckets: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """Return where the metric is highest and lowest, and a warning about buckets with few queries."""
    values: dict[str, float] = {name: row[key] for name, row in buckets.items() if row.get(key) is not None}
    if len(values) < 2:
        return ""
    high, low = (choose(values, key=lambda name: values[name]) for choose in (max, min))
    text = (
        f"{title}: {key} is highest for {high} ({number(values[high])}) and lowest for {low} "
        f"({number(values[low])})."
    )
    counts = [next((v for v in row.values() if isinstance(v, int)), _FEW) for row in buckets.values()]
    return f"{text} A slice of fewer than {_FEW} says little." if min(counts) < _FEW else text


def curve_table(curve: Sequence[Mapping[str, Any]], best: int) -> Table:
    """Return one row per epoch; `best` is the place of the best one, which is marked, or -1."""
    columns = list(dict.fromkeys(key for entry in curve for key in entry))
    rows = [
        [Cell(_recorded(key, entry.get(key)), strong=place == best) for key in columns]
        for place, entry in enumerate(curve)
    ]
    return Table("Every epoch", columns, rows, 0)


def pair_table(title: str, values: Mapping[str, Any], head: Sequence[str] = ("name", "value")) -> Table:
    """Return nested values as rows of dotted name and value."""
    return Table(title, head, [[Cell(name), Cell(text)] for name, text in _flat(values)])


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            rows += _flat(part(values, key), f"{prefix}{key}.")
        else:
            rows.append((f"{prefix}{key}", _plain(key, value)))
    return rows


def _plain(key: str, value: Any) -> str:
    """Return a recorded value without idle zeros; lists, such as cut-offs, are short."""
    if isinstance(value, list):
        return ", ".join(_plain(key, item) for item in cast(list[Any], value))
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 100 else _recorded(key, value)


def _recorded(key: str, value: Any) -> str:
    """Return a recorded value; durations and rates, `_s`, are not known to more than a tenth."""
    return f"{value:,.1f}" if isinstance(value, float) and key.endswith("_s") else number(value)


def share_table(title: str, counts: Mapping[str, int], total: int, unit: str) -> Table:
    """Return counts with their share of a total."""
    rows: list[list[Cell]] = []
    for name, count in counts.items():
        text = f"{count / total:.2%}" if total else "–"
        rows.append([Cell(name), Cell(number(count)), Cell(text)])
    return Table(title, ["reason", unit, "share"], rows)


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
