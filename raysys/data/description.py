"""What `features/profile.json` says of a log, from the merged totals of its partitions."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from raysys.data.profile import GAP_BINS, PartitionProfile
from raysys.data.sequences import SessionConfig
from raysys.data.tally import Tally, distribution, histogram

MOST_DAYS = 400
"""Spans up to this many days are shown by day, up to this many weeks by week, longer ones by month."""
EVENT_TYPES = 20


def describe(
    total: PartitionProfile, item_counts: np.ndarray, session: SessionConfig, num_values: Mapping[str, int]
) -> dict[str, Any]:
    """Return what profile.json says of the events.

    Args:
        total: merged totals of every partition, at least one event.
        item_counts: (V,) training events of each item in the whole log.
        session: the gap to be marked.
        num_values: event-level feature -> number of its distinct values.
    """
    per_item = item_counts.astype(np.int64)
    per_item[total.held_out.values] += total.held_out.counts
    per_item = per_item[per_item > 0]
    repeats = total.events - total.user_items.sum
    pairs = int(total.gaps.sum())
    kinds = sorted(total.event_types.items(), key=lambda entry: (-entry[1], entry[0]))[:EVENT_TYPES]
    return {
        "time": _times(total),
        "events_per_user": distribution(total.user_events),
        "items_per_user": distribution(total.user_items),
        "sessions_per_user": distribution(total.user_sessions),
        "events_per_session": distribution(total.session_events),
        "events_per_item": distribution(Tally.of(per_item)),
        "gaps": {
            "session_gap_s": None if session.by_column else session.gap_s,
            "within_gap_share": None if session.by_column else share(total.within_gap, pairs),
            "histogram": histogram(np.arange(GAP_BINS), total.gaps),
        },
        "tied_share": share(total.tied, total.events),
        "repeat_share": share(repeats, total.events),
        "cut_share": None if total.cut is None else share(total.cut, total.events),
        "event_types": {name: share(count, total.events) for name, count in kinds},
        "cold": {
            part: {
                "targets": total.targets[part],
                "cold_targets": total.cold_targets[part],
                "cold_target_share": share(total.cold_targets[part], total.targets[part]),
                "queries": total.queries[part],
                "cold_queries": total.cold_queries[part],
                "cold_query_share": share(total.cold_queries[part], total.queries[part]),
            }
            for part in ("valid", "test")
        },
        "concentration": {
            "top_1_percent_items_share": share(_top(per_item, -(-len(per_item) // 100)), total.events),
            "item_gini": gini(per_item),
            "busiest_item_share": share(int(per_item.max()), total.events),
            "busiest_user_share": share(total.busiest[0][0], total.events),
        },
        "features": {
            name: {"values": num_values.get(name), "null_share": share(count, total.events)}
            for name, count in total.nulls.items()
        },
    }


def share(count: int, total: int) -> float:
    """Return a fraction to six digits; 0 of nothing is 0."""
    return round(count / total, 6) if total else 0.0


def _top(counts: np.ndarray, number: int) -> int:
    return int(np.sort(counts)[-number:].sum())


def gini(counts: np.ndarray) -> float:
    """Return the Gini coefficient of (N,) counts: 0 where all are equal, near 1 where one has all."""
    ordered, size = np.sort(counts), len(counts)
    weighted = int((np.arange(1, size + 1) * ordered).sum())
    return round(2 * weighted / (size * int(ordered.sum())) - (size + 1) / size, 6)


def _times(total: PartitionProfile) -> dict[str, Any]:
    first, last = (np.datetime64(at, "s") for at in total.span)
    hour_of_day = np.zeros(24, np.int64)
    np.add.at(hour_of_day, total.hours.values % 24, total.hours.counts)
    days = total.hours.values // 24
    weekday = np.zeros(7, np.int64)
    np.add.at(weekday, (days + 3) % 7, total.hours.counts)  # 1970-01-01 was a Thursday
    span_days = int(days[-1] - days[0]) + 1
    if span_days <= MOST_DAYS:
        unit, place = "day", days
    elif span_days <= 7 * MOST_DAYS:
        unit, place = "week", (days + 3) // 7  # weeks begin on Monday
    else:
        unit, place = "month", days.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64)
    counts = np.bincount(place - place[0], weights=total.hours.counts).astype(np.int64)
    day = {"day": place[0], "week": 7 * place[0] - 3}.get(unit)
    begin = np.datetime64(int(place[0]), "M") if day is None else np.datetime64(int(day), "D")
    return {
        "first": f"{first}Z",
        "last": f"{last}Z",
        "days": span_days,
        "unit": unit,
        "begin": str(begin),
        "events": counts.tolist(),
        "hour_of_day": hour_of_day.tolist(),
        "weekday": weekday.tolist(),
        "midnight_share": share(total.midnight, total.events),
        "full_hour_share": share(total.full_hour, total.events),
    }
