"""What was made of a log as plain text, for a terminal."""

import textwrap
from collections.abc import Mapping
from typing import Any

from raysys.evaluation.findings import Cell, Table, aligned, number, part
from raysys.storage import Folder

DISTRIBUTIONS = {
    "events_per_user": "Events per user",
    "items_per_user": "Distinct items per user",
    "sessions_per_user": "Sessions per user",
    "events_per_session": "Events per session",
    "events_per_item": "Events per item",
}

Profile = Mapping[str, Any]

_WIDTH = 96
_SETTINGS = {
    "event_not_kept": "data.keep_events",
    "below_min_rating": "data.min_rating",
    "outside_core": "data.min_item_events, data.min_user_events",
}
_NAMES = {
    "events": "= events",
    "users": "users",
    "items": "items",
    "sessions": "sessions",
    "train_events": "training events",
    "samples": "training samples",
}


def advice(profile: Profile) -> list[tuple[str, str]]:
    """Return what looks wrong and what to do about it."""
    mistakes: list[dict[str, str]] = profile.get("likely_mistakes") or []
    return [(mistake["text"], mistake["remedy"]) for mistake in mistakes]


def data_summary(features: Folder) -> str:
    """Return what was made of the log, and what looks wrong with it; "" for features without a profile."""
    if not features.exists("profile.json"):
        return ""
    profile: dict[str, Any] = features.read_json("profile.json")
    first, last = (str(profile["time"][name])[:16].replace("T", " ") for name in ("first", "last"))
    rows = [
        [Cell(title), *(Cell(number(profile[key][name])) for name in ("min", "median", "p90", "max"))]
        for key, title in DISTRIBUTIONS.items()
    ]
    spread = Table("", ["", "least", "median", "90 % up to", "most"], rows)
    blocks = [
        _counts(part(profile, "counts"), part(profile, "cold")),
        f"from {first} to {last} UTC\n{aligned(spread)}",
    ]
    found = advice(profile)
    blocks.append("Likely mistakes:" if found else "Likely mistakes: none found")
    for place, (text, remedy) in enumerate(found, 1):
        blocks.append(f"{_wrapped(f'{place}. ', text)}\n{_wrapped('   -> ', remedy)}")
    return "\n\n".join(blocks)


def _counts(counts: Mapping[str, Any], cold: Mapping[str, Any]) -> str:
    """Return the way from rows read to queries, a line each, with a remark where one helps."""
    rows = int(counts["rows"])
    lines: list[tuple[str, int, str]] = [("rows read", rows, "")]
    for title, reasons in (("rejected", part(counts, "rejected")), ("left out", part(counts, "dropped"))):
        place = "each with file and row in features/rejected/" if title == "rejected" and reasons else ""
        lines.append((f"- {title}", sum(reasons.values()), place))
        for reason, count in reasons.items():
            setting = f" by {_SETTINGS[reason]}" if reason in _SETTINGS else ""
            lines.append((f"    {reason}", count, f"{count / rows:.2%} of the rows{setting}"))
    for name, title in _NAMES.items():
        lines.append((title, int(counts[name]), ""))
        if name == "train_events" and (rest := _never_targets(counts, cold)):
            lines.append(("history only", rest, "events that are nobody's target"))
    for name, count in part(counts, "queries").items():
        unseen = part(cold, name).get("cold_target_share", 0.0)
        remark = f"{unseen:.2%} of their targets are items that training never saw"
        lines.append((f"{name} queries", count, remark))
    table = Table("", ["", ""], [[Cell(name), Cell(number(count))] for name, count, _ in lines])
    padded = aligned(table).splitlines()[1:]
    return "\n".join(f"{line}  {remark}".rstrip() for line, (_, _, remark) in zip(padded, lines, strict=True))


def _never_targets(counts: Mapping[str, Any], cold: Mapping[str, Any]) -> int:
    """Return the events that only histories hold: those that are neither trained on nor held out."""
    held_out = sum(int(part(cold, name).get("targets", 0)) for name in part(counts, "queries"))
    return max(int(counts["events"]) - int(counts["train_events"]) - held_out, 0)


def _wrapped(mark: str, text: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=mark, subsequent_indent=" " * len(mark), break_on_hyphens=False
    )
