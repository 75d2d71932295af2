"""Likely mistakes of a log or of what a run file says about it: what was noticed, and what to do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from raysys.data.events import DataConfig
from raysys.data.profile import PartitionProfile
from raysys.data.rejects import time_remedy
from raysys.data.sequences import SessionConfig
from raysys.data.splits import SplitConfig

PLACEHOLDERS = frozenset(
    ("null", "none", "nan", "n/a", "na", "nil", "unknown", "undefined", "anonymous", "guest", "missing",
     "test", "default", "0", "-1", "00000000-0000-0000-0000-000000000000")
)  # fmt: skip
GAPS = (
    (1800, "30 minutes"),
    (7200, "2 hours"),
    (21_600, "6 hours"),
    (86_400, "a day"),
)
"""Session gaps worth suggesting."""
MOST_IDS = 10**6
"""Ids whose spelling is compared."""
YEAR_DAYS = 365.25


@dataclass(frozen=True)
class Log:
    """What is known of a log besides its profile.

    Attributes:
        total: merged totals of the partitions.
        rows: rows read; `rejected` of them by reason.
        rejected_rows: some of those that were rejected for their time, as in `features/rejected/`.
        users, items: the ids that are left, text or integers, those with most training events first.
    """

    total: PartitionProfile
    rows: int
    rejected: Mapping[str, int]
    rejected_rows: Sequence[Mapping[str, Any]]
    users: pa.Array
    items: pa.Array


@dataclass(frozen=True)
class Config:
    """The sections of the run that a remedy may name."""

    data: DataConfig
    session: SessionConfig
    split: SplitConfig


Mistake = dict[str, str]


def likely_mistakes(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    """Return what looks wrong, the gravest first, each with a code, a text and a remedy.

    Args:
        profile: what `profile.describe` returned.
        log: the rest of what is known.
        config: what the run asked for.
    """
    checks = (_times, _rejected, _users, _items, _ids, _order, _repeats, _cold, _sessions)
    return [mistake for check in checks for mistake in check(profile, log, config)]


def _mistake(code: str, text: str, remedy: str) -> Mistake:
    return {"code": code, "text": text, "remedy": remedy}


def _times(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    found: list[Mistake] = []
    texts = {
        reason: [str(row["time"]) for row in log.rejected_rows if row["reason"] == reason]
        for reason in ("time_out_of_range", "unparsable_time")
    }
    for reason, values in texts.items():
        count = log.rejected.get(reason, 0)
        if count and values:
            hint = time_remedy(reason, values, config.data, mixed=True)
            rows = "1 row was" if count == 1 else f"{count:,} rows were"
            text = f"{rows} rejected as {reason}: {hint.text}."
            remedy = f"{hint.remedy[0].upper()}{hint.remedy[1:]}; features/rejected/ has the rows."
            found.append(_mistake(reason, text, remedy))
    times = profile["time"]
    seconds = log.total.span[1] - log.total.span[0]
    if log.total.events > 1 and seconds < 3600:
        found.append(
            _mistake(
                "short_span",
                f"All events lie within {seconds:,} seconds, {times['first']} to {times['last']}.",
                "Check that columns.time is when it happened, not when it was exported, and data.time_unit.",
            )
        )
    if times["days"] > 30 * YEAR_DAYS:
        found.append(
            _mistake(
                "long_span",
                f"Events from {times['first']} to {times['last']}: {times['days'] / YEAR_DAYS:.0f} years.",
                "Look for placeholder times; a split by time and the gaps of sessions need times that are "
                "right.",
            )
        )
    if dates_only(times) and config.split.unit == "event":
        text = (
            "The times are dates without a time of day: the order within a day is only that of the file, and "
        )
        remedy = "Use a column with the time of day, or set data.columns.order; or set split.unit = "
        remedy += '"session", with session.by_column where the log has session ids.'
        found.append(_mistake("date_only_times", f"{text}sessions by gap mean nothing.", remedy))
    return found


def dates_only(times: Mapping[str, Any]) -> bool:
    """Return whether nearly all events are at the beginning of a day in one time zone, summer time or not.

    Args:
        times: the part of the profile about time.
    """
    hours = sorted(times["hour_of_day"])
    same = sum(hours[-2:]) > 0.99 * sum(hours)
    return times["days"] > 2 and times["full_hour_share"] > 0.99 and same


def _rejected(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    remedies = {
        "null_user": "Check data.columns.user; events without a user cannot be used.",
        "null_item": "Check data.columns.item; events that are about no item can be left out of the log.",
        "null_time": "Check data.columns.time; an event without a time has no place in a history.",
        "bad_number": "Check data.columns.rating, weight and order: finite numbers, order a whole one.",
    }
    found: list[Mistake] = []
    for reason, count in log.rejected.items():
        if reason in remedies and count > 0.01 * log.rows:
            text = f"{count / log.rows:.1%} of the rows were rejected as {reason}."
            remedy = f"{remedies[reason]} features/rejected/ has the rows."
            found.append(_mistake(f"rejected_{reason}", text, remedy))
    twice = log.rejected.get("duplicate", 0)
    if twice > 0.05 * log.rows:
        found.append(
            _mistake(
                "duplicates",
                f"{twice / log.rows:.1%} of the rows repeat another row in every column that is read.",
                "Look for files that are in the log twice, or a join that multiplied rows; where repeats are "
                "real, set data.keep_duplicates = true.",
            )
        )
    return found


def _users(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    found: list[Mistake] = []
    events, num_users = log.total.events, profile["events_per_user"]["count"]
    for count, user in log.total.busiest:
        least = max(0.01, 5 / num_users) if user == "0" else 0.01  # 0 may be one of few users, counted from 0
        if user.strip().lower() in PLACEHOLDERS and count > least * events:
            found.append(
                _mistake(
                    "placeholder_user",
                    f"User {user!r} has {count / events:.1%} of the events; the id looks like a placeholder "
                    "for people who were not logged in.",
                    "Take these rows out of the log, or use a column that tells the people apart.",
                )
            )
    count, user = log.total.busiest[0]
    named = any(mistake["text"].startswith(f"User {user!r} ") for mistake in found)
    if count > max(0.1, 5 / num_users) * events and not named:
        found.append(
            _mistake(
                "busy_user",
                f"User {user!r} alone has {count / events:.1%} of the events.",
                "Look whether this is a robot, a test account or a shared id, and take it out of the log.",
            )
        )
    if profile["events_per_user"]["median"] <= 1:
        found.append(
            _mistake(
                "single_event_users",
                "The median user has 1 event, so there is nothing to learn or to measure for most users.",
                "Check that data.columns.user is the person and not an order or a visit; else set "
                "data.min_user_events to 3 or more.",
            )
        )
    return found


def _items(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    share, num_items = profile["concentration"]["busiest_item_share"], profile["events_per_item"]["count"]
    if share <= max(0.3, 5 / num_items):
        return []
    text = f"One item alone has {share:.1%} of the events, so a list that begins with it is right very often."
    remedy = "Look whether it is a placeholder, a fee or a bag, and take it out of the log."
    return [_mistake("busy_item", text, remedy)]


def _ids(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    found: list[Mistake] = []
    for name, ids in (("user", log.users[:MOST_IDS]), ("item", log.items[:MOST_IDS])):
        alike = spelled_differently(ids)
        if alike > 0.01 * len(ids):
            text = f"{alike:,} of {len(ids):,} {name} ids differ from another only by case or by blanks."
            remedy = f"Write the {name} ids of the log in one way, unless they are meant to differ."
            found.append(_mistake(f"{name}_spellings", text, remedy))
    return found


def spelled_differently(ids: pa.Array) -> int:
    """Return how many text ids are, without case and blanks around them, the same as another."""
    if not (pa.types.is_string(ids.type) or pa.types.is_large_string(ids.type)) or not len(ids):
        return 0
    plain = pc.utf8_lower(pc.utf8_trim_whitespace(ids))
    return len(ids) - pc.count_distinct(plain).as_py()


def _order(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    settled = "order" in config.data.columns or config.split.unit == "session"
    if settled or profile["tied_share"] <= 0.5 or dates_only(profile["time"]):
        return []
    text = (
        f"{profile['tied_share']:.0%} of the events have the same time as the user's event before, and no "
        "data.columns.order is set: which one comes first is only their order in the file."
    )
    remedy = "Set data.columns.order to a column that says it; where tied events belong together (baskets), "
    return [_mistake("ties_without_order", text, f'{remedy}set split.unit = "session".')]


def _repeats(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    repeats = profile["repeat_share"]
    if config.split.filter_seen and repeats > 0.2:
        text = (
            f"{repeats:.0%} of the events repeat an item that the user had before, yet such items are never "
        )
        remedy = "Set split.filter_seen = false where people come back for the same items."
        return [_mistake("repeats_filtered", f"{text}recommended.", remedy)]
    if not config.split.filter_seen and not repeats:
        text = "No event repeats an item that the user had before, yet such items may be recommended."
        return [_mistake("seen_recommended", text, "Set split.filter_seen = true.")]
    return []


def _sessions(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    session, found = config.session, list[Mistake]()
    lengths, single = log.total.session_events, 0
    if len(lengths.values) and lengths.values[0] == 1:
        single = int(lengths.counts[0])
    few = profile["events_per_user"]["median"] <= 1
    if single > 0.8 * lengths.size and not few and not session.last_n:
        text = f"{single / lengths.size:.0%} of the sessions hold one event"
        if session.by_column:
            text += "; they are those of data.columns.session."
            remedy = "Check that this column is the visit or basket, not the row."
        else:
            gap = better_gap(log.total.gaps)
            text += f" under session.gap_s = {session.gap_s}. It matters to models that read sessions."
            remedy = f"Half of the gaps are within {gap[1]}: set session.gap_s = {gap[0]}" if gap else ""
            remedy = f"{remedy}, or s" if gap else "People come back too rarely for sessions: s"
            remedy += "et session.last_n to take the latest events instead."
        found.append(_mistake("short_sessions", text, remedy))
    cut = profile["cut_share"] or 0.0
    if cut > 0.1 and not session.last_n:
        text = (
            f"session.max_items = {session.max_items} cuts {cut:.0%} of the events off their session, into "
        )
        text += "an older one. It matters to models that read sessions."
        remedy = "Raise session.max_items"
        remedy += "." if session.by_column else f", or lower session.gap_s = {session.gap_s}."
        found.append(_mistake("long_sessions", text, remedy))
    return found


def better_gap(gaps: np.ndarray) -> tuple[int, str] | None:
    """Return the least common session gap, in seconds and words, that holds half of all gaps, if any does.

    Args:
        gaps: (64,) as in `PartitionProfile`; a bin counts where all of it is within the gap.
    """
    for seconds, words in GAPS:
        if 2 * int(gaps[: seconds.bit_length()].sum()) >= int(gaps.sum()) > 0:
            return seconds, words
    return None


def _cold(profile: Mapping[str, Any], log: Log, config: Config) -> list[Mistake]:
    share = profile["cold"]["test"]["cold_target_share"]
    if share <= 0.3:
        return []
    text = f"{share:.0%} of the test targets are items without a training event, which no model can learn."
    remedy = "Raise data.min_item_events"
    if config.split.kind == "time":
        remedy += ", or move split.valid_from and test_from so that training sees more of the catalogue"
    return [_mistake("cold_items", text, f"{remedy}.")]
