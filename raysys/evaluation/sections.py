"""The parts of a run's own report, in words, tables and figures, before any mark-up."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from raysys.config import parse_toml
from raysys.evaluation import data_page, findings, gate_page, health_page, interest_page, plots
from raysys.evaluation.findings import Cell, Measured, Table, number, part, plural
from raysys.evaluation.user_panels import User, show_user
from raysys.storage import Folder

SLICES = {
    "user_activity": "Users by number of behaviours",
    "item_popularity": "Targets by popularity in training",
    "cold_items": "Targets with and without events in training",
    "history_length": "Users by events in the history",
    "since_last_event": "Users by time since their last event",
}
STOPPED = {
    "": "every planned epoch was run",
    "patience": "it stopped because the validation metric no longer rose",
    "max_minutes": "it stopped because training.max_minutes was reached",
}
DATA = (
    "rows", "events", "users", "items", "sessions", "samples", "queries", "data_digest", "split", "session"
)  # fmt: skip
"""What is told of the features, in this order."""
SETTINGS = ("data_digest", "split", "session")


@dataclass(frozen=True)
class Run:
    """What a finished run left behind; optional files that it lacks are None; `evaluation` is its folder."""

    name: str
    anchor: str
    measured: Measured
    users: list[dict[str, Any]] | None = None
    state: dict[str, Any] | None = None
    toml: str | None = None
    features: dict[str, Any] | None = None
    profile: dict[str, Any] | None = None
    content: dict[str, Any] | None = None
    evaluation: Folder | None = None


@dataclass(frozen=True)
class Section:
    """A part of a run's report.

    Advice is what was noticed with what to do about it; folded tables are for few readers; `wide` tables need
    the width of the page; `gallery`: figures stand side by side above the tables.
    """

    anchor: str
    title: str
    lead: str
    notes: list[str] = field(default_factory=list[str])
    advice: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])
    figures: list[str] = field(default_factory=list[str])
    tables: list[Table] = field(default_factory=list[Table])
    folded: list[Table] = field(default_factory=list[Table])
    users: list[User] = field(default_factory=list[User])
    listing: str = ""
    wide: bool = False
    gallery: bool = False


def sections(run: Run) -> list[Section]:
    """Return the parts of a run's own report, in reading order."""
    makers = (
        _metrics, _curve, _slices, _diversity, _users, _interests, _content, _gate, _index, _data, _origin
    )  # fmt: skip
    made = [make(run) for make in makers]
    return [section for section in made if section is not None]


def _metrics(run: Run) -> Section:
    measured = run.measured
    rows = [
        plots.DotRow(key, measured.metrics[key], measured.intervals[key], baseline_values(measured, key))
        for key in measured.metrics
        if key in measured.intervals
    ]
    told = [f"{row.label}: {measured.model} {number(row.value)}{_beside(row.others)}" for row in rows]
    message = f"Metrics with intervals. {'; '.join(told)}."
    figures = [plots.dot_plot(rows, measured.model, f"{run.anchor}-dots", message)] if rows else []
    return Section(
        f"{run.anchor}-metrics",
        "Metrics and baselines",
        f"Measured on the {measured.part} part. Whiskers and the interval column are {findings.LEVEL} "
        "bootstrap intervals over queries; a baseline outside them differs by more than the choice of users "
        "explains.",
        figures=figures,
        tables=[findings.metric_table(measured)],
        folded=[findings.glossary_table(list(measured.metrics))],
    )


def baseline_values(measured: Measured, key: str) -> dict[str, float]:
    """Return a metric of every baseline that has it."""
    return {name: values[key] for name, values in measured.baselines.items() if key in values}


def _beside(others: Mapping[str, float]) -> str:
    return "".join(f", {name} {number(value)}" for name, value in others.items())


def _curve(run: Run) -> Section | None:
    """Return how training went; nothing for a model that counts, which has no checkpoint/state.json."""
    if run.state is None:
        return None
    anchor, title = f"{run.anchor}-curve", "Learning curve"
    curve: list[dict[str, Any]] = run.state.get("curve") or []
    if not curve:
        return Section(anchor, title, "No epoch was finished, so there is no learning curve.")
    best = int(run.state.get("best_epoch", -1))
    best = best if 0 <= best < len(curve) else -1
    key = _watched(run, curve[0])
    reason = run.state.get("stopped") or ""
    why = STOPPED.get(reason, f"it stopped because of: {reason}")
    lead = f"Training ran for {plural(len(curve), 'epoch')}; {why}."
    if best >= 0:
        value = f" with {key} = {number(curve[best].get(key))}" if key else ""
        lead += f" The best epoch, whose weights are used, is {curve[best]['epoch']}{value}."
    panels = [
        (name, [entry.get(name) for entry in curve]) for name in ("train/loss", key) if name in curve[0]
    ]
    epochs = [int(entry["epoch"]) for entry in curve]
    figures = [plots.curve_plot(epochs, panels, best, f"{run.anchor}-epochs", lead)] if panels else []
    told = [findings.curve_table(health_page.without(curve), best)]
    return Section(anchor, title, lead, figures=figures, tables=told)


def _watched(run: Run, entry: Mapping[str, Any]) -> str:
    """Return the curve's key of the metric that chose the best epoch, else of the first validation metric."""
    training = part(parse_toml(run.toml or "", f"{run.name}/checkpoint/run.toml"), "training")
    key = f"valid/{training.get('metric', '')}"
    return key if key in entry else next((name for name in entry if name.startswith("valid/")), "")


def _slices(run: Run) -> Section:
    anchor, title, key = f"{run.anchor}-slices", "Slices", run.measured.headline
    found = {
        SLICES.get(name, name.replace("_", " ")): _with_baselines(run.measured, name, key)
        for name in run.measured.slices
    }
    if not found:
        return Section(anchor, title, "The run recorded no slices.")
    told = [findings.slice_sentence(name, rows, key) for name, rows in found.items()]
    beside = f", and {key} of the baselines there" if run.measured.baseline_slices else ""
    return Section(
        anchor,
        title,
        f"The same metrics over parts of the queries{beside}. Bars compare the slices within a column.",
        notes=[text for text in told if text],
        tables=[findings.slice_table(name, rows) for name, rows in found.items()],
        wide=True,
    )


def _with_baselines(measured: Measured, name: str, key: str) -> dict[str, dict[str, Any]]:
    """Return the slices of one kind with a metric of every baseline beside the model's own."""
    rows: dict[str, dict[str, Any]] = {}
    for label, row in measured.slices[name].items():
        beside = {who: part(part(found, name), label) for who, found in measured.baseline_slices.items()}
        others = {f"{key} of {who}": theirs[key] for who, theirs in beside.items() if key in theirs}
        rows[label] = {**row, **others}
    return rows


def _diversity(run: Run) -> Section | None:
    """Return what variety costs; nothing for a run that did not ask."""
    points = run.measured.diversity_curve
    if not points:
        return None
    names = [name for name in points[0] if name != "weight"]
    k = names[0].partition("@")[2]
    relevance, variety = f"hit_rate@{k}", f"diversity@{k}"
    rows = [
        [Cell(f"{point['weight']:g}"), *(Cell(number(point[name])) for name in names)] for point in points
    ]
    first, last = points[0], points[-1]
    told = (
        f"A weight of {last['weight']:g} takes {relevance} from {number(first[relevance])} to "
        f"{number(last[relevance])} and the share of pairs of different categories from "
        f"{number(first[variety])} to {number(last[variety])}."
    )
    marks = [(point[variety], point[relevance], f"{point['weight']:g}") for point in points]
    figure = plots.trade_off_plot(
        marks,
        (f"pairs of different categories, first {k}", relevance),
        f"{run.anchor}-trade-off",
        f"Relevance against diversity, by weight. {told}",
    )
    return Section(
        f"{run.anchor}-diversity",
        "Relevance and diversity",
        f"{told} Every point is a weight of diversity, evaluation.diversity_weight; all lists come from one "
        f"search. settled@{k} is the share of users whose list no deeper search could change: raise "
        "evaluation.diversity_depth where it is low.",
        figures=[figure],
        tables=[Table("Lists by weight of diversity", ["weight", *names], rows)],
    )


def _users(run: Run) -> Section:
    anchor, title = f"{run.anchor}-users", "Users, one by one"
    if run.users is None:
        return Section(anchor, title, "This run has no evaluation/users.json, so no users are shown.")
    if not run.users:
        return Section(
            anchor,
            title,
            "No user is shown: evaluation.sample_users is 0, or no user has 8 events to show.",
        )
    parts = ["what they did"]
    several = [user for user in run.users if len(user.get("interests") or []) > 1]
    if any(user.get("couplings") for user in several):
        parts[0] += ", and how much of each behaviour went to which interest"
    if several:
        parts.append("what every interest would retrieve alone")
    if any(user.get("drivers") for user in run.users):
        parts[0] = (
            "the steps of the session and the values of every long-term set, by their weight in the vector"
        )
    parts += ["what was recommended", "the targets that were held out, with the rank they were found at"]
    lead = f"A sample of {plural(len(run.users), 'user')}. For each: {'; '.join(parts)}."
    where = f"{run.name}/evaluation/users.json"
    return Section(anchor, title, lead, users=[show_user(user, where) for user in run.users])


def _interests(run: Run) -> Section | None:
    """Return the interest health; nothing for a model without interests."""
    anchor, title, health = f"{run.anchor}-interests", "Interest health", run.measured.interests
    if not health_page.is_measured(health):
        return None
    curve: list[dict[str, Any]] = (run.state or {}).get("curve") or []
    best = int((run.state or {}).get("best_epoch", -1))
    return Section(
        anchor,
        title,
        health_page.lead(health),
        notes=health_page.sentences(health, curve),
        advice=health_page.advice(health),
        figures=health_page.figures(curve, best, anchor),
        tables=health_page.tables(health),
        folded=health_page.folded(curve, best),
    )


def _content(run: Run) -> Section | None:
    """Return what each interest retrieves; nothing for a run whose evaluation did not write it."""
    content = run.content
    if not content or not content.get("interests"):
        return None
    anchor = f"{run.anchor}-content"
    wins: list[float] = run.measured.interests.get("wins") or []
    shown = interest_page.shown_interests(wins, len(content["interests"]))
    return Section(
        anchor,
        "What each interest retrieves",
        interest_page.lead(content, shown),
        figures=interest_page.figures(content, shown, anchor),
        tables=interest_page.tables(content, shown),
    )


def _gate(run: Run) -> Section | None:
    """Return what the fusion takes from the session; nothing for a model without a gate."""
    gate, anchor = run.measured.gate, f"{run.anchor}-gate"
    if not gate or not gate.get("by_length"):
        return None
    return Section(
        anchor,
        "Session and long term",
        gate_page.lead(gate),
        figures=gate_page.figures(gate, anchor),
        tables=gate_page.tables(gate),
    )


def _index(run: Run) -> Section:
    anchor, title, index = f"{run.anchor}-index", "Index", run.measured.index
    if not index:
        return Section(anchor, title, "The run recorded no index; its model answers without one.")
    recalls = [
        f"{value:.2%} of the first {key.partition('@')[2]} that exact search finds"
        for key, value in index.items()
        if key.startswith("recall_vs_exact@") and value is not None
    ]
    lead = (
        f"The index finds {', '.join(recalls)}."
        if recalls
        else "No recall against exact search was recorded."
    )
    figures = {key: value for key, value in index.items() if key != "sample_metrics"}
    tables = [findings.pair_table("Figures of the index", figures)]
    under = part(index, "sample_metrics")
    exact, found = part(under, "exact"), part(under, "index")
    shared = [key for key in exact if exact[key] is not None and found.get(key) is not None]
    if shared:
        rows = [
            [Cell(key), *(Cell(number(value)) for value in (exact[key], found[key], found[key] - exact[key]))]
            for key in shared
        ]
        name = f"The same {plural(int(index.get('sample_users') or 0), 'user')} under both"
        tables.append(Table(name, ["metric", "exact search", "this index", "lost or won by the index"], rows))
        lead += (
            " What the metrics lack under exact search is the model's loss; the last column is the index's."
        )
    return Section(anchor, title, lead, tables=tables)


def _data(run: Run) -> Section:
    anchor, title, info = f"{run.anchor}-data", "Data", run.features
    if info is None:
        return Section(anchor, title, "This run has no features/manifest.json, so its data is not described.")
    rejected, dropped, rows = part(info, "rejected"), part(info, "dropped"), int(info.get("rows") or 0)
    total = sum(rejected.values())
    share = f" ({total / rows:.2%})" if rows else ""
    lead = f"{number(total)} of {plural(rows, 'row')} of the log were rejected{share}."
    lead = lead if total else "No row of the log was rejected."
    kept = {key: info[key] for key in DATA if key in info}
    tables = [findings.pair_table("What the run was trained and measured on", kept)]
    if total:
        tables.append(findings.share_table("Rejected rows", rejected, rows, "rows"))
    if sum(dropped.values()):
        tables.append(findings.share_table("Rows left out on purpose", dropped, rows, "rows"))
    profile = run.profile
    if profile is None:
        return Section(anchor, title, lead, tables=tables)
    settings = {key: kept.pop(key) for key in SETTINGS if key in kept}
    tables[0] = findings.pair_table("What the run was trained and measured on", kept)
    return Section(
        anchor,
        title,
        f"{lead} {data_page.mistakes_sentence(profile)}",
        notes=data_page.sentences(profile),
        advice=data_page.advice(profile),
        figures=data_page.figures(profile, anchor),
        tables=[*tables, *data_page.tables(profile)],
        folded=[findings.pair_table("Digest, split and sessions", settings)] if settings else [],
        gallery=True,
    )


def _origin(run: Run) -> Section:
    measured = run.measured
    found = {"Protocol": measured.protocol, "Training": measured.training, "Lineage": measured.lineage}
    tables = [findings.pair_table(title, values) for title, values in found.items() if values]
    lead = "Runs may be compared where their protocols are equal. The digests name the exact inputs."
    if run.toml is None:
        lead += " This run has no checkpoint/run.toml, so its settings are not listed."
    anchor, title = f"{run.anchor}-origin", "Protocol and lineage"
    return Section(anchor, title, lead, tables=tables, listing=shareable(run.toml or ""))


def shareable(text: str) -> str:
    """Return a run file without what is its owner's alone: passwords in addresses and local folders."""
    text = re.sub(r"(?<=://)[^/\s\"']+@", "", text)
    return re.sub(r'"/(?:[^"\n]*/)?([^"/\n]+)"', r'"…/\1"', text)
