"""What the report says of the interests one by one: their categories, their items, and whom they serve.

With many interests a page shows the few that matter most; the files of the evaluation hold them all.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from raysys.evaluation import plots
from raysys.evaluation.findings import Cell, Table, number

SHOWN = 8
"""Interests that a figure or a user's panel shows at most."""
_CATEGORIES = 10
_REST = "all others"

Content = Mapping[str, Any]


def shown_interests(wins: Sequence[float], count: int) -> list[int]:
    """Return the places of the interests that are shown, in order: all, or those that win most often.

    Args:
        wins: share of users whose best item each interest finds; may be empty.
        count: how many interests there are.
    """
    weight = [*wins, *[0.0] * (count - len(wins))]
    return sorted(sorted(range(count), key=lambda place: -weight[place])[:SHOWN])


def lead(content: Content, shown: Sequence[int]) -> str:
    """Return how unlike each other the interests are in the items that they retrieve."""
    interests, cutoff = content["interests"], content["cutoff"]
    few = min(interests, key=lambda row: row["items"])["items"]
    many = max(interests, key=lambda row: row["items"])["items"]
    spread = number(few) if few == many else f"{number(few)} to {number(many)}"
    told = (
        f"Over all users, the first {cutoff} items of each interest's own list: {spread} different items "
        "per interest."
    )
    if len(interests) > 1 and content["category"]:
        far = _distance(content, shown)
        told += (
            f" Two interests differ by {far:.0%} of their places in {content['category']} on average: 0 % "
            "means that all retrieve from the same categories."
        )
    if len(shown) < len(interests):
        told += f" Shown are {len(shown)} of {len(interests)} interests, those that win most often."
    return told


def _distance(content: Content, shown: Sequence[int]) -> float:
    """Return the mean total variation between the categories of two of the shown interests."""
    rows = [content["interests"][place]["categories"] for place in shown]
    pairs = [(a, b) for place, a in enumerate(rows) for b in rows[place + 1 :] if a and b]
    far = [sum(abs(a.get(name, 0.0) - b.get(name, 0.0)) for name in {*a, *b}) / 2 for a, b in pairs]
    return sum(far) / max(len(far), 1)


def figures(content: Content, shown: Sequence[int], anchor: str) -> list[str]:
    """Return the shares of the largest categories in each interest and in the training events."""
    if not content["category"]:
        return []
    columns = [("events", content["events"])]
    columns += [(str(place + 1), content["interests"][place]["categories"]) for place in shown]
    weight: dict[str, float] = {}
    for _, shares in columns:
        for name, share in shares.items():
            weight[name] = weight.get(name, 0.0) + share
    names = sorted(weight, key=lambda name: (-weight[name], name))[:_CATEGORIES]
    rows = [(name, [shares.get(name, 0.0) for _, shares in columns]) for name in names]
    if len(weight) > len(names):
        rest = [max(0.0, sum(shares.values()) - sum(shares.get(name, 0.0) for name in names))
                for _, shares in columns]  # fmt: skip
        rows.append((_REST, rest))
    heads = [name for name, _ in columns]
    largest = max(rows, key=lambda row: max(row[1]))
    message = (
        f"Share of every {content['category']} in the training events and in what each interest retrieves. "
        f"The largest share is that of {largest[0]}, {max(largest[1]):.0%}."
    )
    return [plots.share_map(heads, rows, "interest", f"{anchor}-categories", message)]


def tables(content: Content, shown: Sequence[int]) -> list[Table]:
    """Return of each shown interest whom it serves and what it retrieves most often."""
    rows: list[list[Cell]] = []
    for place in shown:
        row = content["interests"][place]
        top = "; ".join(f"{_title(item)} {item['share']:.0%}" for item in row["top"][:3])
        rows.append(
            [
                Cell(f"{place + 1}"),
                Cell(top or "–"),
                Cell(number(row["users"])),
                Cell(number(row["items"])),
            ]
        )
    head = ["interest", "most often in its list, share of users", "users", "different items"]
    return [Table("What each interest retrieves", head, rows, 2)]


def _title(item: Mapping[str, Any]) -> str:
    return str(item.get("title") or item["item_id"])


def gains_shown(count: int) -> list[int]:
    """Return which numbers of interests, 1 to count, are told: all of few, ever sparser ones of many."""
    if count <= SHOWN:
        return list(range(1, count + 1))
    steps = {1, count} | {base << power for base in (2, 3) for power in range(count.bit_length())}
    return sorted(step for step in steps if step <= count)
