"""What a user's histories must hold, worked out event by event from the log and the rules of `[session]` and
`[split]`; plain Python, and none of the functions that make the features and the samples."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from raysys.data.sequences import SessionConfig
from raysys.data.shapes import ITEM, SampleShape
from raysys.data.splits import SplitConfig

TRAIN, VALID, TEST, HISTORY, CONTEXT = range(5)
SHOWN = {
    "train": {TRAIN, CONTEXT},
    "valid": {TRAIN, CONTEXT, HISTORY},
    "test": {TRAIN, CONTEXT, HISTORY, VALID},
}
"""Roles that a history of each part may hold, as docs/reference.md has them under `sequences/`."""
NO_ITEM = -1
"""Stands for an item that the vocabulary does not have."""


@dataclass(frozen=True)
class LoggedEvent:
    """An event as logged: item_idx, nanoseconds, what settles ties, and the event's type."""

    item: int
    time_ns: int
    order: int
    session: str | None
    event: str | None
    place: int

    @property
    def key(self) -> tuple[int, int, bool, str, int]:
        """What events of a user are ordered by: time, `columns.order`, session (none last), place in the
        log."""
        return self.time_ns, self.order, self.session is None, self.session or "", self.place


@dataclass(frozen=True)
class Timeline:
    """A user's events in order.

    Attributes:
        items: item_idx.
        at: UTC seconds.
        sessions: ordinal of the session, long ones cut from their end.
        before: how many leading events lie strictly before the event's unit.
        reach: the first event within the long term's reach before it.
        roles: TRAIN to CONTEXT.
    """

    items: list[int]
    at: list[int]
    sessions: list[int]
    before: list[int]
    reach: list[int]
    roles: list[int]

    def shown(self, part: str, position: int) -> list[int]:
        """Return the positions that the history of a target of this part may hold."""
        return [p for p in range(self.before[position]) if self.roles[p] in SHOWN[part]]


def build_timeline(
    events: Sequence[LoggedEvent], session: SessionConfig, split: SplitConfig, stored_roles: Sequence[int]
) -> Timeline:
    """Return the timeline of one user.

    Args:
        events: of the user, in any order.
        session, split: the run's sections.
        stored_roles: roles in `sequences/`. The splits "user" and "random_target" draw at random: which part
            was drawn is taken from here, and what has to follow from it is worked out.
    """
    ordered = sorted(events, key=lambda event: event.key)
    at = [event.time_ns // 10**9 for event in ordered]
    whole = _whole_sessions(ordered, at, session)
    positions = range(len(ordered))
    if split.unit == "session":
        first: dict[int, int] = {}
        for position, number in enumerate(whole):
            first.setdefault(number, position)
        before = [_first_at_the_moment(at, first[number]) for number in whole]
        units = whole
    else:
        before, units = list(positions), list(positions)
    targets = [p for p in positions if not split.target_events or ordered[p].event in split.target_events]
    return Timeline(
        [event.item for event in ordered],
        at,
        _cut_sessions(whole, session.max_items),
        before,
        _reach(at, session),
        _roles(at, units, targets, split, stored_roles),
    )


def _whole_sessions(ordered: Sequence[LoggedEvent], at: Sequence[int], session: SessionConfig) -> list[int]:
    numbers: list[int] = []
    for position, event in enumerate(ordered):
        if position == 0:
            starts = False
        elif session.by_column:
            starts = event.session != ordered[position - 1].session
        else:
            starts = at[position] - at[position - 1] > session.gap_s
        numbers.append((numbers[-1] if numbers else 0) + starts)
    return numbers


def _cut_sessions(whole: Sequence[int], max_items: int) -> list[int]:
    """Return sessions of at most `max_items`, full ones at the end of a long session."""
    sizes, seen, result = Counter(whole), Counter[int](), list[int]()
    for position, number in enumerate(whole):
        left = sizes[number] - seen[number]
        seen[number] += 1
        starts = position > 0 and (number != whole[position - 1] or left % max_items == 0)
        result.append((result[-1] if result else 0) + starts)
    return result


def _first_at_the_moment(at: Sequence[int], position: int) -> int:
    while position and at[position - 1] == at[position]:
        position -= 1
    return position


def _reach(at: Sequence[int], session: SessionConfig) -> list[int]:
    if session.long_term_events:
        return [max(position - session.long_term_events, 0) for position in range(len(at))]
    result: list[int] = []
    first = 0
    for moment in at:
        while moment - at[first] > session.long_term_s:
            first += 1
        result.append(first)
    return result


def _roles(
    at: Sequence[int],
    units: Sequence[int],
    targets: Sequence[int],
    split: SplitConfig,
    stored: Sequence[int],
) -> list[int]:
    roles = [CONTEXT] * len(at)
    for position in targets:
        roles[position] = TRAIN
    own = [stored[p] for p in targets] if len(stored) == len(at) else []
    if split.kind == "leave_one_out":
        held = sorted({units[p] for p in targets})
        last = held[-1] if len(held) > 1 else None
        one_before = held[-2] if len(held) > 2 else None
        for p in targets:
            roles[p] = TEST if units[p] == last else VALID if units[p] == one_before else TRAIN
    elif split.kind == "time":
        for p in targets:
            roles[p] = TEST if at[p] >= split.cutoffs[1] else VALID if at[p] >= split.cutoffs[0] else TRAIN
    elif split.kind == "user" and own and TRAIN not in own:
        num_history = max(1, int(len(targets) * split.history_fraction))
        for place, p in enumerate(targets):
            roles[p] = HISTORY if place < num_history else TEST if TEST in own else VALID
    elif split.kind == "random_target":
        for role in (VALID, TEST):
            drawn = [place for place, found in enumerate(own) if found == role]
            if len(drawn) == 1 and drawn[0] > 0:
                roles[targets[drawn[0]]] = role
    return roles


def expected_inputs(timeline: Timeline, part: str, position: int, shape: SampleShape) -> dict[str, list[int]]:
    """Return the items that a batch has to show before a target, without padding: `history`, `short` and
    `long_item`, as far as the shape has them."""
    shown = timeline.shown(part, position)
    columns: dict[str, list[int]] = {}
    if shape.history_length and shape.most_frequent_of:
        columns["history"] = _most_frequent(timeline, shown[-shape.most_frequent_of :])[
            -shape.history_length :
        ]
    elif shape.history_length:
        columns["history"] = [timeline.items[p] for p in shown[-shape.history_length :]]
    if shape.session is not None:
        short, long = _short_and_long(timeline, shown, shape.session, shape.reach)
        columns["short"] = [timeline.items[p] for p in short]
        if ITEM in shape.long_features:
            distinct = dict.fromkeys(timeline.items[p] for p in reversed(long))
            columns["long_item"] = list(distinct)[: shape.session.long_term_max][::-1]
    return columns


def _most_frequent(timeline: Timeline, shown: Sequence[int]) -> list[int]:
    counts, last = Counter(timeline.items[p] for p in shown), {timeline.items[p]: p for p in shown}
    return sorted(counts, key=lambda item: (counts[item], last[item]))


def _short_and_long(
    timeline: Timeline, shown: Sequence[int], session: SessionConfig, reach: int
) -> tuple[list[int], list[int]]:
    """Return the positions of the session and of the long term before it."""
    if not shown:
        return [], []
    latest = list(shown[-reach:] if reach else shown)
    if session.last_n:
        first = max(len(shown) - session.last_n, 0)
    else:
        first = len(shown) - 1
        while first and timeline.sessions[shown[first - 1]] == timeline.sessions[shown[-1]]:
            first -= 1
        first = max(first, len(shown) - session.max_items)
    start = shown[first]
    short = [p for p in latest if p >= start]
    return short, [p for p in latest if timeline.reach[start] <= p < start]
