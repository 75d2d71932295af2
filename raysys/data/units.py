"""Which unit the times of a log are in, where the configured one makes no sense of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa

from raysys.data.parsing import parse_whole
from raysys.data.times import EARLIEST_NS, LATEST_NS, UNIT_NS, Clock, parse_text


@dataclass(frozen=True)
class Hint:
    """What is wrong with a time that was not accepted, and what to do."""

    text: str
    remedy: str


def guess_unit(values: Sequence[str], configured: str) -> str | None:
    """Return the `data.time_unit` under which nine of ten rejected times are valid, None where there is none.

    The ranges of the numeric units do not overlap, so there is at most one.

    Args:
        values: times as logged, in text.
        configured: the unit under which they are not valid.
    """
    if not values:
        return None
    text = pa.array(list(values), pa.string())
    whole, no_number = _numbers(text)
    exact, no_date = _dates(text)
    fits = {
        unit: ~no_number & (whole >= EARLIEST_NS // factor) & (whole < LATEST_NS // factor)
        for unit, factor in UNIT_NS.items()
    }
    fits["iso8601"] = no_number & ~no_date & (exact >= EARLIEST_NS) & (exact < LATEST_NS)
    enough = [unit for unit, good in fits.items() if 10 * int(np.count_nonzero(good)) >= 9 * len(values)]
    return enough[0] if enough and enough[0] != configured else None


def time_hint(values: Sequence[str], configured: str, mixed: bool) -> Hint:
    """Return what is wrong with rejected times, and what to do.

    Args:
        values: at least one, as logged, in text; the first is the example.
        configured: the unit under which they are not valid.
        mixed: whether the log also has times that are.
    """
    value, unit = values[0], guess_unit(values, configured)
    text = pa.array([value], pa.string())
    (whole,), (no_number,) = _numbers(text)
    (exact,), (no_date,) = _dates(text)
    moment = int(whole) * UNIT_NS.get(unit or configured, 0) if not no_number else int(exact)
    is_date = no_number and not no_date
    if (configured == "iso8601" or no_number) and not (is_date and _outside(moment)):
        wrong = f"time {value!r} is not {configured}"
    else:
        wrong = f"time {value} is not between 1980 and 2100"
        wrong += "" if is_date else f" in {configured}"
    if unit:
        day = datetime.fromtimestamp(moment // 10**9, UTC).strftime("%Y-%m-%d")
        wrong += f"; as {unit} it is {day}"
        if mixed:
            return Hint(wrong, f"the log mixes units: write all its times in {configured}")
        return Hint(wrong, f'set data.time_unit = "{unit}"')
    if not no_number and int(whole) in (0, -1):
        return Hint(f"{wrong}: it stands for a time that is not known", "take such rows out of the log")
    if is_date:
        return Hint(wrong, "check the unit with which the column was written: a wrong one gives 1970")
    return Hint(wrong, "check data.time_unit and data.columns.time, or whether the log mixes units")


def _outside(time_ns: int) -> bool:
    return not EARLIEST_NS <= time_ns < LATEST_NS


def _numbers(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    whole, _, bad = parse_whole(pa.chunked_array([text]), "", "")
    return whole, np.zeros(len(text), dtype=bool) if bad is None else bad


def _dates(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    exact, bad = parse_text(text, Clock(unit="iso8601"))
    return exact, np.zeros(len(text), dtype=bool) if bad is None else bad
