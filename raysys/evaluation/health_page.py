"""What the report says of interest health: signs of collapse, what every interest adds, and how it came
about.

Interests are numbered from 1, as in the learning curve.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from raysys.evaluation import findings, plots
from raysys.evaluation.findings import Cell, Table, number, plural
from raysys.evaluation.health import alarm, collapse_signs, of_curve
from raysys.evaluation.interest_page import gains_shown, shown_interests

PREFIX = "health/"
_PANELS = {
    "pairwise_cosine_mean": "cosine between a user's interests",
    "routing_entropy_mean": "entropy of the routing",
}
_WINS = "share of users whose first item an interest finds"

Curve = Sequence[Mapping[str, Any]]


def is_measured(health: Mapping[str, Any]) -> bool:
    """Return whether there is anything to tell."""
    means = ("active_mean", "pairwise_cosine_mean", "routing_entropy_mean")
    return bool(health.get("wins")) or any(health.get(name) is not None for name in means)


def lead(health: Mapping[str, Any]) -> str:
    """Return the verdict on the interests of the weights that are used."""
    signs = collapse_signs(health)
    if signs:
        return f"Warning: the interests show {plural(len(signs), 'sign')} of collapse."
    if len(health.get("wins") or []) == 1:
        return "The model has one interest for each user, which cannot collapse."
    return "No sign of collapse: the interests of a user differ, and all of them are of use."


def advice(health: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return every sign of collapse with its remedy, as sentences."""
    return [(_sentence(seen), _sentence(remedy)) for seen, remedy in collapse_signs(health).values()]


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def sentences(health: Mapping[str, Any], curve: Curve) -> list[str]:
    """Return what the interests add in words, and when the alarm was heard in training."""
    return [text for text in (_gains(health), _alarms(curve)) if text]


def _gains(health: Mapping[str, Any]) -> str:
    values: list[float] = health.get("recall_by_interests") or []
    if len(values) < 2:
        return ""
    told = "".join(f", {values[place - 1]:.4f} with {place}" for place in gains_shown(len(values))[1:])
    first, last = values[0], values[-1]
    text = f"{_key('recall', health)} is {first:.4f} with each user's largest interest alone{told}."
    if last > first:
        share = f", {(last - first) / last:.0%} of the whole" if last else ""
        return f"{text} The interests after the first add {last - first:.4f}{share}."
    return f"{text} The interests after the first add nothing; try model.num_interests = 1 for comparison."


def _key(metric: str, health: Mapping[str, Any]) -> str:
    return f"{metric}@{health.get('cutoff')}"


def _alarms(curve: Curve) -> str:
    """Return at which epochs the alarm began, changed and ended; "" where it was never heard."""
    healths = [{}, *map(of_curve, curve)]
    told: list[str] = []
    for entry, (before, now) in zip(curve, pairwise(healths), strict=True):
        on, heard = alarm(before, now)
        if heard:
            what = "; ".join(sign.seen for sign in collapse_signs(now).values())
            told.append(f"after epoch {entry['epoch']} {f'it said: {what}' if on else 'it was over'}")
    return f"The alarm was heard while training: {', then '.join(told)}." if told else ""


def tables(health: Mapping[str, Any]) -> list[Table]:
    """Return the means, what the first interests find, and who wins."""
    means = {
        "active interests per user": health.get("active_mean"),
        "cosine between a user's interests (1: the same direction)": health.get("pairwise_cosine_mean"),
        "entropy of the routing (1: shared evenly)": health.get("routing_entropy_mean"),
    }
    made = [findings.pair_table("Means over users", means, ("figure", "mean"))]
    if health.get("recall_by_interests"):
        made.append(_gain_table(health))
    wins: list[float] = health.get("wins") or []
    if wins:
        shown = shown_interests(wins, len(wins))
        rows = [
            [Cell(f"Interest {place + 1}"), Cell(f"{wins[place]:.1%}", bar=wins[place])] for place in shown
        ]
        if len(shown) < len(wins):
            rest = sum(wins) - sum(wins[place] for place in shown)
            rows.append([Cell(f"the other {len(wins) - len(shown)}"), Cell(f"{rest:.1%}", bar=rest)])
        made.append(Table("How often each interest has the best score", ["interest", "share"], rows))
    return made


def _gain_table(health: Mapping[str, Any]) -> Table:
    """Return what the first interests find; the hit rate is left out where it is the recall."""
    recalls: list[float] = health["recall_by_interests"]
    hits: list[float] = health.get("hit_rate_by_interests") or []
    head = ["interests that answer", _key("recall", health), "gained"]
    several = bool(hits) and hits != recalls
    head += [_key("hit_rate", health)] * several
    largest = max(recalls)
    rows: list[list[Cell]] = []
    before = 0
    for count in gains_shown(len(recalls)):
        value = recalls[count - 1]
        rows.append(
            [
                Cell(f"{count} largest" if count < len(recalls) else f"all {count}"),
                # beside the hit rate a bar would be too wide for a phone
                Cell(number(value), bar=value / largest if largest and not several else None),
                Cell(_signed(value - recalls[before - 1]) if before else "–"),
                *([Cell(number(hits[count - 1]))] if several else []),
            ]
        )
        before = count
    users = health.get("users")
    over = f", {plural(users, 'user')}" if isinstance(users, int) else ""
    return Table(f"What each interest adds, those with most behaviours first{over}", head, rows)


def _signed(value: float) -> str:
    text = f"{value:+.4f}".replace("-", "−")
    return text if text.strip("+−0.") else "0"


def figures(curve: Curve, best: int, anchor: str) -> list[str]:
    """Return the learning curves of the health, none where the run has not recorded it."""
    healths = [of_curve(entry) for entry in curve]
    if not any(healths):
        return []
    panels: list[tuple[str, plots.Lines]] = [
        (title, [health.get(name) for health in healths]) for name, title in _PANELS.items()
    ]
    wins = [health.get("wins") or [] for health in healths]
    shown = shown_interests(wins[-1], max(map(len, wins)))
    panels.append(
        (
            _WINS,
            {str(place + 1): [row[place] if place < len(row) else None for row in wins] for place in shown},
        )
    )
    recalls = [health.get("recall_by_interests") or [] for health in healths]
    if any(recalls):
        last = {"1": [row[0] if row else None for row in recalls]}
        last["all"] = [row[-1] if row else None for row in recalls]
        panels.append(("recall with the largest interest, and with all", last))
    epochs = [int(entry["epoch"]) for entry in curve]
    best = best if 0 <= best < len(curve) else -1
    message = f"Interest health at every validation. {_told(healths[-1])}"
    # whole axes: what differs in the third digit should not look like a fall
    at_least = dict.fromkeys(_PANELS.values(), (0.0, 1.0)) | {_WINS: (0.0, 0.0)}
    return [plots.curve_plot(epochs, panels, best, f"{anchor}-epochs", message, at_least)]


def _told(health: Mapping[str, Any]) -> str:
    """Return the last point of the curves in words."""
    names = {"pairwise_cosine_mean": "cosine", "routing_entropy_mean": "entropy"}
    told = [f"{name} {number(health[key])}" for key, name in names.items() if health.get(key) is not None]
    wins = health.get("wins") or []
    told += [f"interest {place + 1} wins {wins[place]:.1%}" for place in shown_interests(wins, len(wins))]
    return f"At the end: {', '.join(told)}." if told else ""


def folded(curve: Curve, best: int) -> list[Table]:
    """Return the health of every epoch as a table."""
    rows = [
        {
            key.removeprefix(PREFIX): value
            for key, value in entry.items()
            if key in ("epoch",) or _is_health(key)
        }
        for entry in curve
    ]
    if not any(len(row) > 1 for row in rows):
        return []
    table = findings.curve_table(rows, best)
    return [Table("Interest health of every epoch", table.head, table.rows, table.text_columns)]


def without(curve: Curve) -> list[dict[str, Any]]:
    """Return the curve without the health, which has a part of the report of its own."""
    return [{key: value for key, value in entry.items() if not _is_health(key)} for entry in curve]


def _is_health(key: str) -> bool:
    return key.startswith(PREFIX)
