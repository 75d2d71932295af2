"""Sample shapes: what a model asks of its samples, a closed set of four that are cut while streaming.

    kind       one sample is                            what a batch holds
    next_item  a training event with a history          history (B, T), target (B,) or (B, next_items)
    sequence   a user with such an event                history (B, T), target (B, T) per position
    pairs      a training event with neighbours         center (B,), context (B, 2 * window)
    ratings    a training event                         user_idx (B,), item_idx (B,), rating (B,)

The fifth shape, the matrix, is not cut into batches: see `raysys.data.interactions`. Ids are int64, 0 is
padding. Histories are right-aligned: the latest event is in the last column. T is the longest history of the
batch, at most `history_length`, so it differs between batches.
"""

from dataclasses import dataclass
from typing import Literal

from raysys.config import require
from raysys.data.sequences import SessionConfig

ALL = "*"
ITEM = "item"
EVENT = "event_"
Kind = Literal["next_item", "sequence", "pairs", "ratings"]


@dataclass(frozen=True, kw_only=True)
class SampleShape:
    """What to cut.

    Attributes:
        kind: as above.
        history_length: longest `history`, the latest events; 0: no `history` in the batch.
        most_frequent_of: next_item: 0, or the history holds, each once, the items that are most frequent
            among the latest so many events, the most frequent in the last column, of equals the later one;
            what else the batch holds of the history belongs to the latest event of each item.
        next_items: next_item: how many training events from the target on are in `target`, 0 after the last.
        windows: sequence: of a longer history the latest `history_length` events, or as many from a place
            that every epoch draws anew.
        window: pairs: context events on each side of the center.
        by_session: pairs: the context ends with the session; otherwise with the user's training events.
        booked_weight: pairs: `booked` (B,) is the item of the last event of the center's session (or user)
            with at least this weight, 0 where there is none (Airbnb's global context); 0: no such column.
        example_age: next_item: `example_age` (B,) float32, days from the target to the newest training
            event; 0 in queries, as when serving (YouTube DNN, sec. 3.3).
        weight: `weight` float32, the target's weight in the log, shaped like `target` (pairs: the center's).
        times: `history_at` (B, T) and `target_at` int64, UTC seconds, 0 where padded; `short_at` likewise.
        user_idx: `user_idx` (B,).
        event_features: event-level features of the history, `history_<feature>` (B, T), and of the session.
        profile_features: user features in the batch, `profile_<feature>`; ["*"] is all of them.
        session: next_item: cut `short` (B, S), the items of the session, `short_<feature>`, and the sets.
        reach: next_item: session and long-term sets are cut from the latest so many events; 0: no such limit.
        long_features: the long-term sets `long_<name>` (B, L): "item", an item feature, or "event_<feature>".
    """

    kind: Kind = "next_item"
    history_length: int = 50
    most_frequent_of: int = 0
    next_items: int = 1
    windows: Literal["latest", "random"] = "latest"
    window: int = 5
    by_session: bool = False
    booked_weight: float = 0.0
    example_age: bool = False
    weight: bool = False
    times: bool = False
    user_idx: bool = False
    event_features: tuple[str, ...] = ()
    profile_features: tuple[str, ...] = (ALL,)
    session: SessionConfig | None = None
    reach: int = 0
    long_features: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("history_length", "most_frequent_of", "booked_weight", "reach"):
            require(getattr(self, name) >= 0, f"{name}: found {getattr(self, name)}, expected >= 0")
        for name in ("next_items", "window"):
            require(getattr(self, name) >= 1, f"{name}: found {getattr(self, name)}, expected >= 1")
        only = {
            "next_item": (
                self.next_items > 1,
                self.example_age,
                self.session is not None,
                self.most_frequent_of > 0,
            ),
            "sequence": (self.windows != "latest",),
            "pairs": (self.by_session, self.booked_weight > 0),
        }
        for kind, options in only.items():
            require(
                kind == self.kind or not any(options), f"kind: {self.kind} samples have no {kind} options"
            )
        if self.kind in ("pairs", "ratings"):
            require(not self.event_features, f"event_features: {self.kind} samples have no history")
        if self.kind in ("sequence",):
            require(self.history_length > 0, "history_length: found 0, a sequence needs at least 1")
        require(
            self.session is not None or not self.long_features, "long_features: need the session's config"
        )
        require(self.session is not None or not self.reach, "reach: needs the session's config")
        require("at" not in self.event_features, "event_features: the name at is taken by the events' times")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the sequence files that training samples are cut from."""
        names = ["item_idx", "role"]
        if self.kind in ("next_item", "sequence"):
            names += ["cut", *self._inputs]
        if self.by_session:
            names.append("session")
        if self.weight or self.booked_weight:
            names.append("weight")
        if self.kind == "ratings":
            names.append("rating")
        if self.times or self.example_age:
            names.append("at")
        return tuple(dict.fromkeys(names))

    @property
    def query_columns(self) -> tuple[str, ...]:
        """The columns of the sequence files that queries are cut from."""
        times = ("at",) if self.times else ()
        return tuple(dict.fromkeys(["item_idx", "role", "cut", *self._inputs, *times]))

    @property
    def _inputs(self) -> list[str]:
        names = [f"{EVENT}{name}" for name in self.event_features]
        if self.session is not None:
            names += ["session", "long_start"]
        return names + [name for name in self.long_features if name.startswith(EVENT)]

    @property
    def item_columns(self) -> tuple[str, ...]:
        """The columns of `items.parquet` that the long-term sets need."""
        return tuple(name for name in self.long_features if name != ITEM and not name.startswith(EVENT))
