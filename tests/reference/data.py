"""The data stage in plain Python, one user and one event at a time, written from what the run file promises.

Slow on purpose: lists, dicts and loops, no arrays, no hashing tricks shared with the package.
"""

import math
from collections import Counter
from dataclasses import dataclass

from raysys.seeds import derive_seed

TRAIN, VALID, TEST, HISTORY, CONTEXT = "train", "valid", "test", "history", "context"
VISIBLE = {
    TRAIN: (TRAIN, CONTEXT),
    VALID: (TRAIN, CONTEXT, HISTORY),
    TEST: (TRAIN, CONTEXT, HISTORY, VALID),
}
BITS = 2**64 - 1


@dataclass(frozen=True)
class Event:
    """One valid row of the log; `file` and `row` say where it stood."""

    user: str
    item: str
    time_ns: int
    order: int = 0
    session: str | None = None
    file: int = 0
    row: int = 0
    kind: str | None = None

    @property
    def at(self):
        return self.time_ns // 10**9


def mix(z):
    """SplitMix64's finaliser."""
    z = (z + 0x9E3779B97F4A7C15) & BITS
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & BITS
    return z ^ (z >> 31)


def hash_text(text, seed=0):
    """FNV-1a over the UTF-8 bytes, then `mix`."""
    state = (0xCBF29CE484222325 ^ (seed * 0x9E3779B97F4A7C15)) & BITS
    if text is None:
        return mix(state ^ 0xFF51AFD7ED558CCD)
    for byte in text.encode():
        state = ((state ^ byte) * 0x100000001B3) & BITS
    return mix(state)


def uniform(user, seed):
    """A number in [0, 1) from a user's hash and a seed."""
    return (mix(hash_text(user) ^ mix(seed)) >> 11) / 2**53


def without_duplicates(events):
    """Keep the first, by file and row, of rows that are equal in every column."""
    seen, kept = set(), []
    for event in sorted(events, key=lambda e: (e.file, e.row)):
        content = (event.user, event.item, event.time_ns, event.order, event.session, event.kind)
        if content not in seen:
            seen.add(content)
            kept.append(event)
    return kept


def in_order(events):
    """Return user -> events, by time, the log's order, session, file and row; no session ranks last."""

    def key(event):
        no_session = event.session is None
        return (event.time_ns, event.order, no_session, event.session or "", event.file, event.row)

    users = {}
    for event in sorted(events, key=key):
        users.setdefault(event.user, []).append(event)
    return users


def k_core(events, min_item_events, min_user_events):
    """Remove one offender at a time until every item and every user has enough events."""
    events = list(events)
    while True:
        items, users = Counter(e.item for e in events), Counter(e.user for e in events)
        poor_items = [item for item, count in items.items() if count < min_item_events]
        poor_users = [user for user, count in users.items() if count < min_user_events]
        if poor_items:
            events = [e for e in events if e.item != poor_items[0]]
        elif poor_users:
            events = [e for e in events if e.user != poor_users[0]]
        else:
            return events


def raw_sessions(events, gap_s=600, by_column=False):
    """Return one user's events, in order, as a list of sessions, none of them cut."""
    sessions = []
    for event in events:
        if not sessions:
            sessions.append([event])
            continue
        last = sessions[-1][-1]
        apart = event.session != last.session if by_column else event.at - last.at > gap_s
        if apart:
            sessions.append([event])
        else:
            sessions[-1].append(event)
    return sessions


def capped(sessions, max_items):
    """Cut each session, from its end, into sessions of at most `max_items`."""
    result = []
    for session in sessions:
        pieces = []
        while session:
            pieces.append(session[-max_items:])
            session = session[:-max_items]
        result += pieces[::-1]
    return result


def units(events, unit, gap_s, by_column):
    """Return, per event, the number of its unit, and what is strictly before the unit (how many events)."""
    if unit == "event":
        return list(range(len(events))), list(range(len(events)))
    number, cut = [], []
    for ordinal, session in enumerate(raw_sessions(events, gap_s, by_column)):
        before = sum(1 for event in events if event.at < session[0].at)
        number += [ordinal] * len(session)
        cut += [before] * len(session)
    return number, cut


def long_start(events, reach_s):
    """Return, per event, the number of events more than `reach_s` seconds before it."""
    return [sum(1 for other in events if event.at - other.at > reach_s) for event in events]


def long_start_in_events(events, reach):
    """Return, per event, the place `reach` events before it, or the first one."""
    return [max(place - reach, 0) for place in range(len(events))]


def roles(user, events, number, split):
    """Return one user's roles; `split` is a dict of the section's keys.

    The split is that of the user's log without the events that are no targets, which are context.
    """
    if not split.get("target_events"):
        return split_roles(user, events, number, split)
    places = [place for place, event in enumerate(events) if event.kind in split["target_events"]]
    result = [CONTEXT] * len(events)
    if places:
        left = sorted({number[place] for place in places})
        numbers = [left.index(number[place]) for place in places]
        own = split_roles(user, [events[place] for place in places], numbers, split)
        for place, role in zip(places, own, strict=True):
            result[place] = role
    return result


def split_roles(user, events, number, split):
    """Return one user's roles where every event may be a target."""
    kind, size = split["kind"], len(events)
    if kind == "leave_one_out":
        last = number[-1]
        return [
            TEST if n == last and last >= 1 else VALID if n == last - 1 and last >= 2 else TRAIN
            for n in number
        ]
    if kind == "time":
        valid_from, test_from = split["cutoffs"]
        return [TEST if e.at >= test_from else VALID if e.at >= valid_from else TRAIN for e in events]
    if kind == "user":
        draw = uniform(user, derive_seed(split["seed"], "split", "user"))
        if draw < split["test_fraction"]:
            part = TEST
        elif draw < split["test_fraction"] + split["valid_fraction"]:
            part = VALID
        else:
            return [TRAIN] * size
        keep = max(1, math.floor(size * split["history_fraction"]))
        return [HISTORY if place < keep else part for place in range(size)]
    result = [TRAIN] * size
    for part in (VALID, TEST):
        who = uniform(user, derive_seed(split["seed"], "split", part, "user"))
        where = uniform(user, derive_seed(split["seed"], "split", part, "position"))
        if size >= 2 and who < size * split[f"{part}_fraction"]:
            result[min(1 + math.floor(where * (size - 1)), size - 1)] = part
    return result


@dataclass
class UserLine:
    """One user's stored row: what each event is and what it may see."""

    events: list
    session: list
    cut: list
    long_start: list
    role: list

    def history(self, place, part):
        """Items that the target at `place` may see, oldest first."""
        visible = VISIBLE[part]
        return [
            e.item for e, r in zip(self.events[: self.cut[place]], self.role, strict=False) if r in visible
        ]

    def samples(self):
        """(history, target item) of every training target with a history."""
        pairs = [
            (self.history(place, TRAIN), self.events[place].item)
            for place, role in enumerate(self.role)
            if role == TRAIN
        ]
        return [pair for pair in pairs if pair[0]]

    def query(self, part):
        """(history, truth, seen) of one part, or None."""
        places = [place for place, role in enumerate(self.role) if role == part]
        if not places:
            return None
        history = self.history(places[0], part)
        return history, {self.events[place].item for place in places}, set(history)


def user_lines(events, session, split):
    """Return user -> UserLine; `session` and `split` are dicts of the sections' keys."""
    lines = {}
    for user, own in in_order(events).items():
        gap_s, by_column = session["gap_s"], session["by_column"]
        number, cut = units(own, split["unit"], gap_s, by_column)
        ordinals = []
        for ordinal, piece in enumerate(capped(raw_sessions(own, gap_s, by_column), session["max_items"])):
            ordinals += [ordinal] * len(piece)
        if session.get("long_term_events"):
            start = long_start_in_events(own, session["long_term_events"])
        else:
            start = long_start(own, session["long_term_s"])
        lines[user] = UserLine(own, ordinals, cut, start, roles(user, own, number, split))
    return lines
