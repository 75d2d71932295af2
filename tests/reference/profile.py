"""The profile of a log in plain Python, one event at a time, as docs/reference.md describes it."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from itertools import pairwise

TRAIN, VALID, TEST, CONTEXT = 0, 1, 2, 4


def share(count, total):
    return round(count / total, 6) if total else 0.0


def bars(values):
    """Count values in 0, 1, 2-3, 4-7, ..., from the first bar that has any to the last."""
    counts = Counter(value.bit_length() for value in values)
    if not counts:
        return {"from": [], "count": []}
    shown = range(min(counts), max(counts) + 1)
    return {"from": [2**n // 2 for n in shown], "count": [counts[n] for n in shown]}


def distribution(values):
    ordered = sorted(values)

    def percentile(percent):
        return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]

    return {
        "count": len(ordered),
        "min": ordered[0],
        "median": percentile(50),
        "p90": percentile(90),
        "p99": percentile(99),
        "max": ordered[-1],
        "mean": round(sum(ordered) / len(ordered), 4),
        "histogram": bars(ordered),
    }


def gini(counts):
    """Mean absolute difference of all pairs over twice the mean."""
    apart = sum(abs(a - b) for a in counts for b in counts)
    return apart / (2 * len(counts) * sum(counts))


def describe(users, gap_s, max_items, by_column=False):
    """Return the profile of user -> list of events in order.

    An event is a dict of item, time_ns, session (cut), whole (session before it is cut) and role.
    """
    events = [event for own in users.values() for event in own]
    trained = Counter(e["item"] for e in events if e["role"] == TRAIN)
    items = Counter(e["item"] for e in events)
    pairs = [(a, b) for own in users.values() for a, b in pairwise(own)]
    gaps = [b["time_ns"] // 10**9 - a["time_ns"] // 10**9 for a, b in pairs]
    sessions = Counter((user, e["session"]) for user, own in users.items() for e in own)
    whole = Counter((user, e["whole"]) for user, own in users.items() for e in own)
    repeats = sum(
        event["item"] in {e["item"] for e in own[:n]} for own in users.values() for n, event in enumerate(own)
    )
    cold = {}
    for part, role in (("valid", VALID), ("test", TEST)):
        targets = [e for e in events if e["role"] == role]
        asked = [own for own in users.values() if any(e["role"] == role for e in own)]
        cold_targets = sum(trained[e["item"]] == 0 for e in targets)
        cold_queries = sum(all(e["role"] not in (TRAIN, CONTEXT) for e in own) for own in asked)
        cold[part] = {
            "targets": len(targets),
            "cold_targets": cold_targets,
            "cold_target_share": share(cold_targets, len(targets)),
            "queries": len(asked),
            "cold_queries": cold_queries,
            "cold_query_share": share(cold_queries, len(asked)),
        }
    best = sorted(items.values(), reverse=True)[: math.ceil(len(items) / 100)]
    return {
        "time": times([e["time_ns"] // 10**9 for e in events]),
        "events_per_user": distribution([len(own) for own in users.values()]),
        "items_per_user": distribution([len({e["item"] for e in own}) for own in users.values()]),
        "sessions_per_user": distribution([len({e["session"] for e in own}) for own in users.values()]),
        "events_per_session": distribution(list(sessions.values())),
        "events_per_item": distribution(list(items.values())),
        "gaps": {
            "session_gap_s": None if by_column else gap_s,
            "within_gap_share": None if by_column else share(sum(gap <= gap_s for gap in gaps), len(gaps)),
            "histogram": bars(gaps),
        },
        "tied_share": share(sum(a["time_ns"] == b["time_ns"] for a, b in pairs), len(events)),
        "repeat_share": share(repeats, len(events)),
        "cut_share": share(sum(max(0, size - max_items) for size in whole.values()), len(events)),
        "event_types": {},
        "cold": cold,
        "concentration": {
            "top_1_percent_items_share": share(sum(best), len(events)),
            "item_gini": round(gini(list(items.values())), 6),
            "busiest_item_share": share(max(items.values()), len(events)),
            "busiest_user_share": share(max(map(len, users.values())), len(events)),
        },
        "features": {},
    }


def times(seconds):
    """Return the part about time of UTC seconds."""
    moments = [datetime.fromtimestamp(second, UTC) for second in seconds]
    days = (max(moments).date() - min(moments).date()).days + 1

    def start(moment):
        day = moment.date()
        if days <= 400:
            return day
        return day - timedelta(days=day.weekday()) if days <= 2800 else day.replace(day=1)

    def following(day):
        if days <= 400:
            return day + timedelta(days=1)
        return day + timedelta(days=7) if days <= 2800 else (day + timedelta(days=31)).replace(day=1)

    counts = Counter(map(start, moments))
    shown = [min(counts)]
    while shown[-1] < max(counts):
        shown.append(following(shown[-1]))
    return {
        "first": min(moments).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "last": max(moments).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "days": days,
        "unit": "day" if days <= 400 else "week" if days <= 2800 else "month",
        "begin": shown[0].isoformat() if days <= 2800 else shown[0].strftime("%Y-%m"),
        "events": [counts[day] for day in shown],
        "hour_of_day": [sum(m.hour == hour for m in moments) for hour in range(24)],
        "weekday": [sum(m.weekday() == day for m in moments) for day in range(7)],
        "midnight_share": share(sum(second % 86_400 == 0 for second in seconds), len(seconds)),
        "full_hour_share": share(sum(m.minute == m.second == 0 for m in moments), len(seconds)),
    }
