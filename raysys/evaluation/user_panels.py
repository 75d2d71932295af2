"""Users one by one: behaviours and interests, what was retrieved, and what was held out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from raysys.errors import DataError
from raysys.evaluation.findings import Cell, Table, number, plural
from raysys.evaluation.interest_page import SHOWN

Rows = Sequence[Mapping[str, Any]]
_ROUNDING = 0.02


@dataclass(frozen=True)
class HeatMap:
    """How much each behaviour belongs to each interest.

    `interests` are names with whether they are active; a row is a day, an item and one weight per interest
    (none where the model has no interests); `scale` is the weight of the deepest shade; `left_out` is the
    number of behaviours that belong most to interests that are not shown.
    """

    interests: list[tuple[str, bool]]
    rows: list[tuple[str, Cell, list[float]]]
    scale: float
    left_out: int = 0
    caption: str = ""


@dataclass(frozen=True)
class User:
    """One user of the sample, as shown."""

    title: str
    summary: str
    heat_map: HeatMap
    interests: list[Table]
    answers: list[Table]
    interests_title: str = "What each interest retrieves alone"


def show_user(user: Mapping[str, Any], where: str) -> User:
    """Return one user of users.json as shown.

    Args:
        user: user_id, history, couplings (or null), active, interests, recommendations, targets.
        where: the file, named in the message.
    Raises:
        DataError: couplings that do not fit the history.
    """
    history: Rows = user["history"]
    couplings: list[list[float]] = user.get("couplings") or []
    lists: Sequence[Rows] = user.get("interests") or []
    if couplings and (len(couplings) != len(history) or len({len(row) for row in couplings}) > 1):
        raise DataError(
            f"{where}: user {user['user_id']} has {len(history)} behaviours and {len(couplings)} couplings, "
            "expected one for each, all of one length; run jobs/evaluate.py again"
        )
    if user.get("drivers"):
        return _driven_user(user)
    width = len(couplings[0]) if couplings else len(lists)
    active: list[bool] = user.get("active") or [True] * width
    several = active[:width] if width > 1 else []  # of a single vector there is nothing to tell apart
    shown = _shown(several, couplings, lists)
    names = [(f"Interest {place + 1}", several[place]) for place in shown]
    retrieved = [
        Table(name if on else f"{name} (inactive)", ["item", "score"], [_scored(row) for row in lists[place]])
        for (name, on), place in zip(names, shown, strict=True)
        if place < len(lists)
    ]
    heat_map = _heat_map(history, couplings, shown, names)
    summary = _summary(user, sum(several))
    if len(shown) < len(several):
        summary += f"; shown are the {len(shown)} interests with most of the behaviours"
    return User(f"User {user['user_id']}", summary, heat_map, retrieved, _answers(user))


def _driven_user(user: Mapping[str, Any]) -> User:
    """Return a user of a model of session and long term: the session by weight, and the heaviest values of
    each long-term set."""
    drivers: Mapping[str, Any] = user["drivers"]
    steps: Rows = drivers.get("short") or []
    largest = max((step["weight"] for step in steps), default=0.0)
    rows = [(_day(step.get("at")), _item(step), [step["weight"]]) for step in steps]
    caption = "Session, oldest first, and the weight of each step" if steps else "This user has no session"
    heat_map = HeatMap([("weight", True)] if steps else [], rows, largest or 1.0, caption=caption)
    sets = [
        Table(
            f"{name}, {plural(found['values'], 'value')}",
            [name, "weight"],
            [[Cell(row["name"]), Cell(f"{row['weight']:.2f}", bar=row["weight"])] for row in found["top"]],
        )
        for name, found in drivers["long"].items()
        if found["top"]
    ]
    summary = f"{plural(len(steps), 'step')} in the session; {_found(user)}"
    if drivers.get("gate") is not None:
        summary += f"; {drivers['gate']:.0%} of the vector from the session"
    title = "Long-term sets, the heaviest values of each"
    return User(f"User {user['user_id']}", summary, heat_map, sets, _answers(user), title)


def _shown(active: Sequence[bool], couplings: list[list[float]], lists: Sequence[Rows]) -> list[int]:
    """Return the places of the interests that are shown, in order: all of few, or those with most of the
    behaviours, of equals those that score an item best."""

    def weight(place: int) -> tuple[bool, float, float]:
        behaviours = round(sum(row[place] for row in couplings), 2)
        found = lists[place] if place < len(lists) else []
        return active[place], behaviours, float(found[0].get("score") or 0.0) if found else float("-inf")

    return sorted(sorted(range(len(active)), key=weight, reverse=True)[:SHOWN])


def _heat_map(
    history: Rows, couplings: list[list[float]], shown: list[int], names: list[tuple[str, bool]]
) -> HeatMap:
    """Return weights that are shares of a behaviour on a scale to 1, and others on one to the largest."""
    shares = all(abs(sum(row) - 1) < _ROUNDING for row in couplings)
    largest = max((weight for row in couplings for weight in row), default=0.0)
    weights = [[row[place] for place in shown] for row in couplings] or [[] for _ in history]
    rows = [(_day(row.get("at")), _item(row), weights[place]) for place, row in enumerate(history)]
    if couplings and 0 < len(shown) < len(couplings[0]):
        own = [max(range(len(row)), key=row.__getitem__) in shown for row in couplings]
        rows = [row for row, mine in zip(rows, own, strict=True) if mine]
    scale = 1.0 if shares or largest <= 0 else largest
    return HeatMap(names if couplings else [], rows, scale, len(history) - len(rows))


def _summary(user: Mapping[str, Any], active: int) -> str:
    text = plural(len(user["history"]), "behaviour")
    if active:
        text += f", {plural(active, 'active interest')}"
    return f"{text}; {_found(user)}"


def _found(user: Mapping[str, Any]) -> str:
    targets: Rows = user["targets"]
    found = [row["rank"] for row in targets if row.get("rank") is not None]
    text = f"{len(found)} of {plural(len(targets), 'target')} found"
    return f"{text}, best at rank {min(found)}" if found else text


def _answers(user: Mapping[str, Any]) -> list[Table]:
    recommendations: Rows = user["recommendations"]
    rows = [
        [Cell(str(place)), *_scored(row), Cell("✓ hit" if row.get("hit") else "", strong=True)]
        for place, row in enumerate(recommendations, 1)
    ]
    targets: Rows = user["targets"]
    held_out = [
        [_item(row), Cell("not found" if row.get("rank") is None else number(row["rank"]))] for row in targets
    ]
    hits = sum(bool(row.get("hit")) for row in recommendations)
    return [
        Table(f"Recommended, {plural(hits, 'hit')}", ["rank", "item", "score", ""], rows, 2),
        Table("Held out", ["target", "rank"], held_out),
    ]


def _scored(row: Mapping[str, Any]) -> list[Cell]:
    return [_item(row, bool(row.get("hit"))), Cell(number(row.get("score")))]


def _item(row: Mapping[str, Any], strong: bool = False) -> Cell:
    title, item_id = str(row.get("title") or ""), str(row["item_id"])
    return Cell(title or item_id, item_id if title and title != item_id else "", strong=strong)


def _day(seconds: Any) -> str:
    if not isinstance(seconds, int | float):
        return ""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
