"""`[data]`: the keys that say where a log is, how it is written, what its columns mean and what counts."""

import math
import zoneinfo
from dataclasses import dataclass, field
from typing import Literal

from raysys.config import require, suggest
from raysys.data.formats import TextFormat
from raysys.data.sources import SOURCES
from raysys.data.times import Clock, TimeUnit, has_year

CORE = ("user", "item", "time")
OPTIONAL = ("order", "event", "session", "rating", "weight")
RESERVED = frozenset({"user_id", "item_id", "time_ns", "file", "row", "place", "at", "role", "cut", "type"})


@dataclass(frozen=True, kw_only=True)
class SideFeature:
    """One feature of a side table."""

    kind: Literal["categorical", "multi_valued", "numeric"] = "categorical"
    """categorical: one id; multi_valued: ids joined by `separator`, or a list column; numeric: a number."""
    column: str = ""
    """The column's own name; empty: the feature's name."""
    separator: str = "|"
    """What joins the values of a multi-valued text column."""
    max_values: int = 8
    """Values kept of a multi-valued feature, the first ones."""

    def __post_init__(self) -> None:
        require(self.max_values >= 1, f"max_values: found {self.max_values}, expected >= 1")


@dataclass(frozen=True, kw_only=True)
class SideTable:
    """A table with one row per item or per user."""

    path: str
    """Path, glob or URI of Parquet, CSV, TSV or JSON lines, the text ones also as .gz."""
    id: str
    """The column that holds the id."""
    format: TextFormat = field(default_factory=TextFormat)
    """How the files are written, where their names do not say it."""
    title: tuple[str, ...] = ()
    """Columns that make a readable name in the report, joined by " / "."""
    features: dict[str, SideFeature] = field(default_factory=dict)
    """Feature name -> what it is."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """`[data]`: where the log is, what its columns mean and which events count."""

    events: str | tuple[str, ...]
    """Path, glob, folder or URI of the log, or a list: Parquet, CSV, TSV or JSON lines, text also as .gz."""
    columns: dict[str, str | tuple[str, ...]]
    """Meaning -> column: user, item, time; order, event, session, rating, weight; any other name is an event
    feature. A dotted name reaches into a struct; `time` may be a list of columns, joined by a space."""
    source: str = ""
    """A published data set whose description fills in every key that the run file leaves out."""
    format: TextFormat = field(default_factory=TextFormat)
    """How the files are written, where their names do not say it."""
    time_unit: TimeUnit = "s"
    """Unit of a numeric time column; unused where that is a Parquet timestamp or `time_format` is set."""
    time_format: str = ""
    """strptime format of times in text, such as "%d.%m.%Y %H:%M"; empty: `time_unit` says it."""
    time_zone: str = "UTC"
    """IANA name of the zone of times that name none, such as "Europe/Berlin"; numbers are UTC always."""
    time_year: int = 0
    """Year of times whose `time_format` has none; 0: it has one."""
    known_events: tuple[str, ...] = ()
    """Event types that there are; rows of another are rejected; empty: any. Needs `columns.event`."""
    keep_events: tuple[str, ...] = ()
    """Event types that count; empty: all. Needs `columns.event`."""
    event_weights: dict[str, float] = field(default_factory=dict[str, float])
    """Event type -> weight of its events, 1 where not named; multiplies `columns.weight`. Needs
    `columns.event`."""
    min_rating: float | None = None
    """Events rated lower are dropped. Needs `columns.rating`."""
    reject_negative: tuple[str, ...] = ()
    """Columns of the log, such as a quantity, whose negative numbers mean that a row is none."""
    items: SideTable | None = None
    """Item side table."""
    users: SideTable | None = None
    """User side table."""
    min_item_events: int = 1
    """Items with fewer events are dropped, together with `min_user_events` to a fixed point (k-core)."""
    min_user_events: int = 1
    """Users with fewer events are dropped."""
    max_reject_fraction: float = 0.01
    """The stage fails when more than this fraction of the rows is rejected."""
    keep_duplicates: bool = False
    """Keep rows that repeat another row in every column; otherwise they are rejected as `duplicate`."""
    partitions: int = 0
    """Number of user partitions; 0: one per 500,000 rows, at least 4. Results do not depend on it."""

    def __post_init__(self) -> None:
        require(bool(self.events), "events: found nothing, expected a path, a glob or a URI")
        require(
            self.source in ("", *SOURCES),
            f"source: unknown data set {self.source!r}{suggest(self.source, SOURCES)}",
        )
        self._check_columns()
        self._check_times()
        self._check_events()
        require(self.min_item_events >= 1, f"min_item_events: found {self.min_item_events}, expected >= 1")
        require(self.min_user_events >= 1, f"min_user_events: found {self.min_user_events}, expected >= 1")
        require(
            0 <= self.max_reject_fraction <= 1,
            f"max_reject_fraction: found {self.max_reject_fraction}, expected 0 to 1",
        )
        require(self.partitions >= 0, f"partitions: found {self.partitions}, expected >= 0")

    def _check_columns(self) -> None:
        for name in CORE:
            require(name in self.columns, f"columns.{name}: missing; name the log's {name} column")
        for name, column in self.columns.items():
            filled = bool(column) and all(column)
            require(filled, f"columns.{name}: found an empty name, expected a column of the log")
            require(
                isinstance(column, str) or name == "time",
                f"columns.{name}: found a list, expected one column; only columns.time may be several",
            )
        clash = RESERVED & set(self.features)
        require(
            not clash, f"columns.{min(clash, default='')}: this name is taken; choose another feature name"
        )
        require(
            all(self.reject_negative), "reject_negative: found an empty name, expected columns of the log"
        )

    def _check_times(self) -> None:
        zone = self.time_zone
        known = zoneinfo.available_timezones() if zone != "UTC" else {"UTC"}
        require(zone in known, f"time_zone: unknown zone {zone!r}{suggest(zone, known) if zone else ''}")
        require(
            isinstance(self.columns["time"], str) or self.clock.is_text,
            'columns.time: several columns need time_format, or time_unit = "iso8601"',
        )
        if self.time_format:
            year = has_year(self.time_format)
            require("%" in self.time_format, f"time_format: {self.time_format!r} has no %, as in %Y-%m-%d")
            require(
                year or self.time_year > 0,
                f"time_year: needed, because time_format = {self.time_format!r} has no year",
            )
            require(
                not year or not self.time_year,
                f"time_year: found {self.time_year}, but time_format = {self.time_format!r} has its own year",
            )
        else:
            require(not self.time_year, "time_year: needs time_format, which is not set")
        fits = not self.time_year or 1980 <= self.time_year < 2100
        require(fits, f"time_year: found {self.time_year}, expected 1980 to 2099")

    def _check_events(self) -> None:
        for name in ("known_events", "keep_events", "event_weights"):
            require(
                not getattr(self, name) or "event" in self.columns,
                f"{name}: needs columns.event, which is not set",
            )
        for name in (*self.keep_events, *self.event_weights) if self.known_events else ():
            require(
                name in self.known_events,
                f"known_events: lacks {name!r}, which keep_events or event_weights names; add it",
            )
        for name, weight in self.event_weights.items():
            fits = math.isfinite(weight) and weight >= 0
            require(fits, f"event_weights.{name}: found {weight}, expected a finite number >= 0")
        require(
            self.min_rating is None or "rating" in self.columns,
            "min_rating: needs columns.rating, which is not set",
        )

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the event-level features, in the config's order."""
        return tuple(name for name in self.columns if name not in CORE + OPTIONAL)

    @property
    def coded_features(self) -> dict[str, str]:
        """Event-level feature -> its column of the event table; the event type is the feature `type`."""
        kind = {"type": "event"} if "event" in self.columns else {}
        return kind | {name: name for name in self.features}

    @property
    def has_weight(self) -> bool:
        """Whether events have a weight."""
        return bool(self.event_weights) or "weight" in self.columns

    @property
    def clock(self) -> Clock:
        """How the log writes its times."""
        return Clock(self.time_unit, self.time_format, self.time_zone, self.time_year)

    def columns_of(self, name: str) -> tuple[str, ...]:
        """Return the log's columns behind a meaning."""
        column = self.columns[name]
        return (column,) if isinstance(column, str) else column

    @property
    def log_columns(self) -> dict[str, str]:
        """Every column of the log that is read -> the key that names it."""
        named = {f"columns.{name}": self.columns_of(name) for name in self.columns}
        named["reject_negative"] = self.reject_negative
        found: dict[str, str] = {}
        for key, columns in named.items():
            for column in columns:
                found.setdefault(column, key)
        return found
