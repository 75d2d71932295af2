"""The parts of a report: what is told of each run, and of several runs side by side, before any mark-up."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from raysys.config import parse_toml
from raysys.errors import DataError
from raysys.evaluation import findings, plots
from raysys.evaluation.findings import Cell, Table, number, plural
from raysys.evaluation.health import collapse_warning

SLICES = {
    "user_activity": "Users by number of behaviours",
    "item_popularity": "Targets by popularity in training",
}
STOPPED = {
    "": "every planned epoch was run",
    "patience": "it stopped because the validation metric no longer rose",
    "max_minutes": "it stopped because training.max_minutes was reached",
}


@dataclass(frozen=True)
class Run:
    """What a finished run left behind; optional files that it lacks are None."""

    name: str
    anchor: str
    metrics: dict[str, Any]
    users: list[dict[str, Any]] | None
    state: dict[str, Any] | None
    toml: str | None
    features: dict[str, Any] | None


@dataclass(frozen=True)
class HeatMap:
    """How much each behaviour belongs to each interest."""

    interests: list[tuple[str, bool]]
    rows: list[tuple[str, Cell, list[float] | None]]
    scale: float


@dataclass(frozen=True)
class User:
    """One user of the sample, as shown."""

    title: str
    summary: str
    heat_map: HeatMap
    interests: list[Table]
    answers: list[Table]


@dataclass(frozen=True)
class Section:
    """A part of a run's report: words, figures, tables, and for one of them users or a listing."""

    anchor: str
    title: str
    lead: str
    notes: list[str] = field(default_factory=list[str])
    figures: list[str] = field(default_factory=list[str])
    tables: list[Table] = field(default_factory=list[Table])
    folded: list[Table] = field(default_factory=list[Table])
    users: list[User] = field(default_factory=list[User])
    listing: str = ""


def sections(run: Run) -> list[Section]:
    """Return the parts of a run's own report, in reading order."""
    return [
        _metrics(run), _curve(run), _slices(run), _users(run), _interests(run), _index(run), _data(run), _origin(run)
    ]  # fmt: skip


def _metrics(run: Run) -> Section:
    metrics = run.metrics
    intervals, baselines = metrics.get("intervals") or {}, metrics.get("baselines") or {}
    order = sorted(baselines, key=lambda name: (name != findings.REFERENCE, name))
    rows = [
        plots.DotRow(
            key,
            value,
            intervals[key],
            {name: baselines[name][key] for name in order if key in baselines[name]},
        )
        for key, value in metrics["metrics"].items()
        if key in intervals
    ]
    said = "; ".join(f"{row.label}: {metrics['model']} {number(row.value)}" + "".join(
        f", {name} {number(value)}" for name, value in row.others.items()) for row in rows)  # fmt: skip
    figures = (
        [plots.dot_plot(rows, metrics["model"], f"{run.anchor}-dots", f"Metrics with intervals. {said}.")]
        if rows
        else []
    )
    lead = (
        f"Measured on the {metrics.get('part', 'test')} part. Whiskers and the interval column are {findings.LEVEL} "
        "bootstrap intervals over queries; a baseline outside them differs by more than the choice of users explains."
    )
    keys = list(metrics["metrics"])
    return Section(f"{run.anchor}-metrics", "Metrics and baselines", lead, figures=figures,
                   tables=[findings.metric_table(metrics)], folded=[findings.glossary_table(keys)])  # fmt: skip


def _curve(run: Run) -> Section:
    anchor, title = f"{run.anchor}-curve", "Learning curve"
    if run.state is None:
        return Section(
            anchor, title, "This run has no checkpoint/state.json, so there is no learning curve to show."
        )
    curve, best = run.state.get("curve") or [], run.state.get("best_epoch", -1)
    if not curve:
        return Section(anchor, title, "No epoch was finished, so there is no learning curve to show.")
    key = _watched(run, curve)
    best = best if 0 <= best < len(curve) else -1
    panels = [(name, [entry.get(name) for entry in curve]) for name in ("train/loss", key) if name]
    lead = f"Training ran for {plural(len(curve), 'epoch')}; {_stopped(run.state)}."
    if best >= 0:
        value = f" with {key} = {number(curve[best].get(key))}" if key else ""
        lead += f" The best epoch, whose weights are used, is {curve[best]['epoch']}{value}."
    figure = plots.curve_plot(
        [entry["epoch"] for entry in curve], panels, best, f"{run.anchor}-curve-plot", lead
    )
    return Section(anchor, title, lead, figures=[figure], folded=[findings.curve_table(curve, best)])


def _watched(run: Run, curve: Sequence[Mapping[str, Any]]) -> str:
    """Return the curve's key of the metric that chose the best epoch, else of the first validation metric."""
    training = parse_toml(run.toml, f"{run.name}/checkpoint/run.toml").get("training", {}) if run.toml else {}
    key = f"valid/{training.get('metric', '')}"
    return key if key in curve[0] else next((name for name in curve[0] if name.startswith("valid/")), "")


def _stopped(state: Mapping[str, Any]) -> str:
    reason = state.get("stopped") or ""
    return STOPPED.get(reason, f"it stopped because of: {reason}")


def _slices(run: Run) -> Section:
    found = {
        SLICES.get(name, name.replace("_", " ")): rows
        for name, rows in (run.metrics.get("slices") or {}).items()
        if rows
    }
    if not found:
        return Section(f"{run.anchor}-slices", "Slices", "The run recorded no slices.")
    key = findings.headline_key(run.metrics)
    leads = [findings.slice_sentence(title, rows, key) for title, rows in found.items()]
    lead = "The same metrics over parts of the queries. Bars compare the slices within a column."
    return Section(f"{run.anchor}-slices", "Slices", lead, notes=[text for text in leads if text],
                   tables=[findings.slice_table(title, rows) for title, rows in found.items()])  # fmt: skip


def _users(run: Run) -> Section:
    anchor, title = f"{run.anchor}-users", "Users, one by one"
    if run.users is None:
        return Section(anchor, title, "This run has no evaluation/users.json, so no users are shown.")
    if not run.users:
        return Section(anchor, title, "The run sampled no users; evaluation.sample_users says how many.")
    lead = (
        f"A sample of {plural(len(run.users), 'user')}. For each: what they did and which interest each behaviour went to, "
        "what every interest would retrieve alone, what was recommended, and the targets that were held out."
    )
    return Section(anchor, title, lead, users=[show_user(run, user) for user in run.users])


def show_user(run: Run, user: Mapping[str, Any]) -> User:
    """Return one user as shown; DataError where couplings and history do not fit."""
    history, couplings, lists = user["history"], user.get("couplings"), user.get("interests") or []
    if couplings is not None and len(couplings) != len(history):
        raise DataError(
            f"{run.name}: users.json has {len(couplings)} couplings for {len(history)} behaviours of user "
            f"{user['user_id']}; run jobs/evaluate.py again"
        )
    width = len(couplings[0]) if couplings else len(lists)
    active = user.get("active") or [True] * width
    names = [f"Interest {place + 1}" for place in range(width)]
    weights = [weight for row in couplings or [] for weight in row]
    shares = all(abs(sum(row) - 1) < 0.02 for row in couplings or [])
    heat_map = HeatMap(
        interests=list(zip(names, active, strict=False)) if couplings else [],
        rows=[
            (_day(row.get("at")), _item(row), couplings[place] if couplings else None)
            for place, row in enumerate(history)
        ],
        scale=1.0 if shares else max([*weights, 1e-9]),
    )
    interests = [
        Table(
            name + ("" if on else " (inactive)"),
            ["item", "score"],
            [[_item(row), Cell(number(row["score"]))] for row in rows],
        )
        for name, on, rows in zip(names, active, lists, strict=False)
    ]
    hits = sum(bool(row.get("hit")) for row in user["recommendations"])
    found = [row["rank"] for row in user["targets"] if row.get("rank") is not None]
    several = f", {plural(sum(map(bool, active)), 'active interest')}" if width > 1 else ""
    rank = f", best at rank {min(found)}" if found else ""
    summary = f"{plural(len(history), 'behaviour')}{several}; {len(found)} of {plural(len(user['targets']), 'target')} found{rank}"
    recommended = [
        [Cell(str(place)), _item(row, bool(row.get("hit"))), Cell(number(row["score"])), Cell("hit" if row.get("hit") else "", strong=True)]
        for place, row in enumerate(user["recommendations"], 1)
    ]  # fmt: skip
    held_out = [
        [_item(row), Cell(number(row.get("rank")) if row.get("rank") else "not found")]
        for row in user["targets"]
    ]
    answers = [
        Table(f"Recommended, {plural(hits, 'hit')}", ["rank", "item", "score", ""], recommended, 2),
        Table("Held out", ["target", "rank"], held_out),
    ]
    return User(f"User {user['user_id']}", summary, heat_map, interests, answers)


def _item(row: Mapping[str, Any], strong: bool = False) -> Cell:
    title, item_id = str(row.get("title") or ""), str(row["item_id"])
    return Cell(title or item_id, item_id if title and title != item_id else "", strong=strong)


def _day(seconds: Any) -> str:
    return (
        datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d") if isinstance(seconds, int | float) else ""
    )


def _interests(run: Run) -> Section:
    anchor, title, health = f"{run.anchor}-interests", "Interest health", run.metrics.get("interests") or {}
    if not any(value is not None and value != [] for value in health.values()):
        return Section(
            anchor, title, "This model has one vector per user, or none: there are no interests to judge."
        )
    warning = collapse_warning(health)
    wins = health.get("wins") or []
    lead = (
        f"Warning: {warning}."
        if warning
        else "No sign of collapse: the interests differ, and all of them are used."
    )
    rows = [
        [Cell(f"Interest {place}"), Cell(f"{share:.1%}", bar=share)] for place, share in enumerate(wins, 1)
    ]
    figures = {
        "active interests per user": health.get("active_mean"),
        "cosine between a user's interests (1: the same direction)": health.get("pairwise_cosine_mean"),
        "entropy of the routing (1: shared evenly)": health.get("routing_entropy_mean"),
    }
    tables = [findings.pair_table("Means over users", figures, ("figure", "mean"))]
    if rows:
        tables.append(Table("Share of targets that each interest wins", ["interest", "share"], rows))
    return Section(anchor, title, lead, tables=tables)


def _index(run: Run) -> Section:
    anchor, title, index = f"{run.anchor}-index", "Index", run.metrics.get("index") or {}
    if not index:
        return Section(anchor, title, "This model answers from a table, not from an index.")
    recalls = [f"{value:.2%} of what exact search finds at {key.partition('@')[2]}" for key, value in index.items()
               if key.startswith("recall_vs_exact") and value is not None]  # fmt: skip
    lead = (
        f"The index finds {', '.join(recalls)}."
        if recalls
        else "The run recorded no recall against exact search."
    )
    return Section(anchor, title, lead, tables=[findings.pair_table("Figures of the index", index)])


def _data(run: Run) -> Section:
    anchor, title, info = f"{run.anchor}-data", "Data", run.features
    if info is None:
        return Section(anchor, title, "This run has no features/manifest.json, so its data is not described.")
    rejected, dropped, rows = info.get("rejected") or {}, info.get("dropped") or {}, info.get("rows") or 0
    total = sum(rejected.values())
    share = f" ({total / rows:.2%})" if rows else ""
    lead = (
        f"{number(total)} of {plural(rows, 'row')} of the log{share} were rejected."
        if total
        else "No row was rejected."
    )
    kept = (
        "rows",
        "events",
        "users",
        "items",
        "sessions",
        "samples",
        "queries",
        "data_digest",
        "split",
        "session",
    )
    tables = [
        findings.pair_table(
            "What the run was trained and measured on", {key: info[key] for key in kept if key in info}
        )
    ]
    if total:
        tables.append(findings.share_table("Rejected rows", rejected, rows, "rows"))
    if sum(dropped.values()):
        tables.append(findings.share_table("Rows left out on purpose", dropped, rows, "rows"))
    return Section(anchor, title, lead, tables=tables)


def _origin(run: Run) -> Section:
    metrics = run.metrics
    parts = {"Protocol": "protocol", "Training": "training", "Lineage": "lineage"}
    tables = [findings.pair_table(title, metrics[key]) for title, key in parts.items() if metrics.get(key)]
    listing = re.sub(r"(?<=://)[^/\s\"']+@", "", run.toml or "")
    lead = "Runs may be compared where their protocols are equal. The digests name the exact inputs."
    if not listing:
        lead += " This run has no checkpoint/run.toml, so its settings are not listed."
    return Section(f"{run.anchor}-origin", "Protocol and lineage", lead, tables=tables, listing=listing)
