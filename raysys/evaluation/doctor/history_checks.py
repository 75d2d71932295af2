"""Checks of histories: whether what models are shown is the past, all of it, and the newest part of it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raysys.data.shapes import SampleShape
from raysys.evaluation.doctor.census import Census
from raysys.evaluation.doctor.check import Check, judged, not_checked
from raysys.evaluation.doctor.timeline import TEST, TRAIN, VALID, Timeline, expected_inputs
from raysys.evaluation.findings import plural

AGAIN = "delete features/ and run jobs/prepare.py again; if it stays, the code that cuts histories is wrong"
_AHEAD = 50
"""How many events past the target a shifted history is looked for."""


@dataclass(frozen=True)
class Stored:
    """A user's events in `sequences/`: item_idx, UTC seconds and roles, in stored order."""

    items: list[int]
    at: list[int]
    roles: list[int]


@dataclass(frozen=True)
class Shown:
    """What a batch shows before one target.

    Attributes:
        user: id as logged.
        part: train, valid or test.
        position: of the target, or the first of them, in the user's timeline; -1 where the log has no such
            event.
        columns: `history`, `short`, `long_item`, without padding, as far as the batch has them.
        targets: item_idx, padding left out.
    """

    user: str
    part: str
    position: int
    columns: Mapping[str, list[int]]
    targets: list[int]


@dataclass(frozen=True)
class Sampled:
    """The sample that histories are checked on.

    Attributes:
        timelines: user -> what the log says.
        stored: user -> what `sequences/` says.
        shown: training samples and queries of these users.
        shape: of the batches.
        matrix: user -> item_idx -> training events, as a counting model reads them; None for other models.
    """

    timelines: Mapping[str, Timeline]
    stored: Mapping[str, Stored]
    shown: Sequence[Shown]
    shape: SampleShape
    matrix: Mapping[str, Mapping[int, int]] | None = None

    @property
    def looked_at(self) -> str:
        """How much was examined, in words."""
        counts = Counter(shown.part for shown in self.shown)
        parts = [
            plural(counts["train"], "training sample"),
            plural(counts["valid"] + counts["test"], "query", "queries"),
        ]
        return f"{', '.join(parts)} of {plural(len(self.timelines), 'user')}, against the log"


def stored_order(sample: Sampled) -> Check:
    """Compare the stored events of users with those of the log, ordered by time and what settles ties."""
    differ = [
        user
        for user, line in sample.timelines.items()
        if (line.items, line.at) != (sample.stored[user].items, sample.stored[user].at)
    ]
    events = sum(len(line.items) for line in sample.timelines.values())
    return judged(
        "stored_order",
        f"{plural(events, 'event')} of {plural(len(sample.timelines), 'user')}, against the log",
        f"{plural(len(differ), 'user')} with other events or another order in features/sequences/",
        "delete features/ and run jobs/prepare.py again; where times tie, name the column that settles "
        "them as data.columns.order",
        fault=bool(differ),
        figures={"users": len(sample.timelines), "differ": len(differ)},
    )


def held_out_events(sample: Sampled) -> Check:
    """Compare the stored roles of users with what `[split]` holds out of the log."""
    wrong = leaked = 0
    for user, line in sample.timelines.items():
        found = sample.stored[user].roles
        if len(found) == len(line.roles):
            wrong += sum(a != b for a, b in zip(found, line.roles, strict=True))
            leaked += sum(a == TRAIN and b in (VALID, TEST) for a, b in zip(found, line.roles, strict=True))
    return judged(
        "held_out_events",
        f"roles of {plural(len(sample.timelines), 'user')}, against [split] on the log",
        f"{plural(wrong, 'event')} with another role, {leaked:,} of them held out and yet trained on",
        "delete features/ and run jobs/prepare.py again; no event of valid or test may have the role train",
        fault=bool(wrong),
        figures={"wrong": wrong, "leaked": leaked},
    )


def future_items(sample: Sampled | None, census: Census, reason: str) -> Check:
    """Look for events at or after the target in what histories hold: in every stored event by its `cut`, and
    in batches against the log."""
    late = census.late_cuts
    figures: dict[str, float] = {"events": census.events, "late_cuts": late}
    found = f"{plural(late, 'event')} whose history reaches to it or beyond"
    looked_at = f"the cuts of all {plural(census.events, 'event')}"
    future = 0
    if sample is not None:
        future = sum(holds_later(shown, sample) for shown in sample.shown)
        looked_at += f", {sample.looked_at}"
        found += f", {plural(future, 'history', 'histories')} with events at or after the target"
        figures |= {"shown": len(sample.shown), "future": future}
    else:
        looked_at += f" (batches not: {reason})"
    return judged("future_items", looked_at, found, AGAIN, fault=bool(late or future), figures=figures)


def holds_later(shown: Shown, sample: Sampled) -> bool:
    """Return whether a history holds more of an item than there was before its target, or ends later."""
    line = sample.timelines[shown.user]
    if shown.position < 0:
        return False
    before = [line.items[p] for p in line.shown(shown.part, shown.position)]
    counts = Counter(before)
    for items in shown.columns.values():
        if Counter(items) - counts:
            return True
    found = shown.columns.get("history", [])
    if sample.shape.most_frequent_of or found == before[-len(found) :]:
        return False
    after = line.items[line.before[shown.position] :][:_AHEAD]
    moved = [before + after[:count] for count in range(1, len(after) + 1)]
    return any(found == items[-len(found) :] for items in moved)


def history_truncation(sample: Sampled) -> Check:
    """Compare the inputs of users who have more events than a model takes with the newest of these."""
    names = [name for name in ("history", "short") if any(name in shown.columns for shown in sample.shown)]
    long = wrong = 0
    for shown in sample.shown:
        line = sample.timelines[shown.user]
        if shown.position < 0:
            continue
        expected = expected_inputs(line, shown.part, shown.position, sample.shape)
        available = len(line.shown(shown.part, shown.position))
        long += any(available > len(expected[name]) for name in names)
        wrong += any(shown.columns[name] != expected[name] for name in names)
    return judged(
        "history_truncation",
        f"{sample.looked_at}; {plural(long, 'history', 'histories')} had to be cut",
        f"{plural(wrong, 'history', 'histories')} with other items than the newest before the target",
        "keep the latest model.history_length events, padded on the left; if jobs/prepare.py run again "
        "does not help, the code that cuts batches is wrong",
        fault=bool(wrong),
        figures={"shown": len(sample.shown), "cut": long, "wrong": wrong},
    )


def short_long_apart(sample: Sampled) -> Check:
    """Compare session and long-term set with the log: the set is made of what lies before the session."""
    name = "short_long_apart"
    if sample.shape.session is None:
        return not_checked(name, "the model takes no session and no long-term sets")
    if not any("long_item" in shown.columns for shown in sample.shown):
        return not_checked(name, "model.long_features does not name item, which the log can be compared by")
    wrong = twice = 0
    for shown in sample.shown:
        if shown.position < 0:
            continue
        line = sample.timelines[shown.user]
        expected = expected_inputs(line, shown.part, shown.position, sample.shape)
        wrong += shown.columns["long_item"] != expected["long_item"]
        twice += len(set(shown.columns["long_item"])) < len(shown.columns["long_item"])
    return judged(
        name,
        sample.looked_at,
        f"{plural(wrong, 'long-term set')} with other items than those before the session, {twice:,} with an "
        "item twice",
        "the long term ends where the session begins and holds each value once: check session.last_n, "
        "session.long_term_s and session.long_term_max, and run jobs/prepare.py again",
        fault=bool(wrong or twice),
        figures={"shown": len(sample.shown), "wrong": wrong, "twice": twice},
    )


def training_matrix(sample: Sampled) -> Check:
    """Compare what a counting model learns from with the training events of the log."""
    name = "training_matrix"
    if sample.matrix is None:
        return not_checked(name, "the model learns from samples, not from a matrix")
    wrong = held_out = 0
    for user, line in sample.timelines.items():
        roles = list(zip(line.items, line.roles, strict=True))
        expected = Counter(item for item, role in roles if role == TRAIN)
        found = Counter(sample.matrix.get(user, {}))
        wrong += found != expected
        held_out += ((found - expected) & Counter(i for i, role in roles if role in (VALID, TEST))).total()
    return judged(
        name,
        f"cells of {plural(len(sample.timelines), 'user')}, against the log",
        f"{plural(wrong, 'user')} with other cells than their training events; {plural(held_out, 'event')} "
        "of these are held out",
        "a counting model may see training events only: run jobs/prepare.py and jobs/train.py again",
        fault=wrong > 0,
        figures={"users": len(sample.timelines), "wrong": wrong, "held_out": held_out},
    )


def split_leakage(census: Census) -> Check:
    """Count what is held out and, with the same user, item and time, trained on as well."""
    share = census.leaked / max(census.held_out, 1)
    return judged(
        "split_leakage",
        f"all {plural(census.held_out, 'held-out event')}",
        f"{plural(census.leaked, 'event')} with the same user, item and time in training ({share:.2%})",
        'set data.keep_duplicates = false, or split.unit = "session" where events of a basket share one time',
        fault=share > 0.01,
        warning=census.leaked > 0,
        figures={"held_out": census.held_out, "leaked": census.leaked},
    )


def cold_start(census: Census) -> Check:
    """Tell the share of test targets that no training event has, and of queries without any history."""
    cold, empty = (
        count / max(total, 1)
        for count, total in (
            (census.cold_targets, census.test_targets),
            (census.empty_histories, census.queries),
        )
    )
    return judged(
        "cold_start",
        f"{plural(census.test_targets, 'test target')} of {plural(census.queries, 'user')}",
        f"{cold:.2%} of the targets are items without a training event, {empty:.2%} of the users have no "
        "history",
        "no model by ids can find cold items: see slices.cold_items in evaluation/metrics.json, and raise "
        "data.min_item_events or use model.item_features; users without history get popular items at best",
        warning=cold > 0.05 or empty > 0.05,
        figures={"cold_share": cold, "empty_share": empty},
    )
