"""The sample shapes in plain Python, one user and one event at a time, written from their definitions.

Events are places in a user's stored row (`UserLine`); nothing here is an array.
"""

import itertools
from dataclasses import dataclass

from tests.reference.data import TRAIN, VISIBLE, Event, hash_text, mix


@dataclass(frozen=True)
class RichEvent(Event):
    """An event with everything that a log can say of it."""

    weight: float = 1.0
    rating: float = 1.0
    act: str = ""


def training_places(line):
    return [place for place, role in enumerate(line.role) if role == TRAIN]


def history(line, place, part=TRAIN):
    """Places that the target at `place` may see, oldest first."""
    return [p for p in range(line.cut[place]) if line.role[p] in VISIBLE[part]]


def most_frequent(line, places, among, length):
    """The last place of each of the `length` items that are most frequent among the last `among` places.

    The most frequent one comes last, of equals the one that occurs later.
    """
    places = places[-among:]
    last = {line.events[p].item: p for p in places}
    count = {item: sum(line.events[p].item == item for p in places) for item in last}
    return [last[item] for item in sorted(last, key=lambda item: (count[item], last[item]))][-length:]


def targets(line):
    """Places of the training events that have a history."""
    return [place for place in training_places(line) if history(line, place)]


def next_items(line, place, count):
    """Places of the target and of the training events after it, `count` at most."""
    return [p for p in training_places(line) if p >= place][:count]


def whole(line):
    """(input place, target place) of every training or context event in the history of a training event.

    The events that have the input in their history and as little else as any form the unit ahead; inputs
    with the same unit ahead take its events in turn.
    """
    ahead = {}
    for place in [p for p, role in enumerate(line.role) if role in VISIBLE[TRAIN]]:
        holders = [p for p in training_places(line) if place in history(line, p)]
        if holders:
            least = min(len(history(line, p)) for p in holders)
            ahead[place] = [p for p in holders if len(history(line, p)) == least]
    result, turns = [], {}
    for place, unit in ahead.items():
        turn = turns.get(tuple(unit), 0)
        turns[tuple(unit)] = turn + 1
        result.append((place, unit[turn % len(unit)]))
    return result


def groups(line, by_session):
    """Lists of training places that may be context of each other."""
    if not by_session:
        return [training_places(line)]
    found = {}
    for place in training_places(line):
        found.setdefault(line.session[place], []).append(place)
    return list(found.values())


def pairs(line, window, by_session, booked_weight=0.0):
    """(center, context with None where there is nothing, booked or None) of every event that is not alone."""
    result = []
    for group in groups(line, by_session):
        booked = [p for p in group if booked_weight and line.events[p].weight >= booked_weight]
        for number, center in enumerate(group):
            steps = [*range(-window, 0), *range(1, window + 1)]
            context = [group[number + s] if 0 <= number + s < len(group) else None for s in steps]
            if len(group) > 1:
                result.append((center, context, booked[-1] if booked else None))
    return result


def transitions(line):
    """Pairs of places that follow each other in a session."""
    return [pair for group in groups(line, True) for pair in itertools.pairwise(group)]


def within_reach(seen, reach):
    """The latest `reach` places of a history, of which session and long-term sets are cut; 0: all."""
    return seen[-reach:] if reach else seen


def short_places(line, seen, session):
    """The latest session among the visible places, or the last n of them."""
    if session.get("last_n"):
        return seen[-session["last_n"] :]
    return (
        [p for p in seen if line.session[p] == line.session[seen[-1]]][-session["max_items"] :]
        if seen
        else []
    )


def long_values(line, seen, session, values):
    """Distinct values of the long term, latest last; `values` of a place is a list."""
    short = short_places(line, seen, session)
    if not short:
        return []
    begin = line.events[short[0]].at
    most = session.get("long_term_events")
    kept = []
    for place in reversed([p for p in seen if p < short[0]]):
        near = begin - line.events[place].at <= session["long_term_s"]
        if short[0] - place <= most if most else near:
            for value in reversed(values(place)):
                if value and value not in kept:
                    kept.append(value)
    return kept[: session["long_term_max"]][::-1]


def drawn(user, numbers, budget, seed):
    """The numbers that a user keeps of theirs: those with the smallest hashes."""
    key = mix(hash_text(user) ^ mix(seed))
    return sorted(sorted(numbers, key=lambda number: mix(key ^ number))[:budget])


def cells(events):
    """(user, item) -> (weights added up, number of events, latest time)."""
    result = {}
    for event in events:
        weight, count, at = result.get((event.user, event.item), (0.0, 0, 0))
        result[event.user, event.item] = (weight + event.weight, count + 1, max(at, event.at))
    return result
