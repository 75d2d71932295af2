"""What to do about rejected rows, by reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from raysys.data.log_config import DataConfig
from raysys.data.units import Hint, time_hint


def remedy(reason: str, rows: Sequence[Mapping[str, Any]], config: DataConfig, mixed: bool = False) -> str:
    """Return what is wrong with rejected rows and which key may mend it.

    Args:
        reason: why they were rejected.
        rows: some of them, the first as an example, as in `REJECTED_SCHEMA`.
        config: under which they were read.
        mixed: whether the log also has many rows that are right.
    """
    if reason in ("time_out_of_range", "unparsable_time"):
        hint = time_remedy(reason, [str(row["time"]) for row in rows], config, mixed)
        return f"{hint.text}; {hint.remedy}"
    columns = ", ".join(config.reject_negative)
    remedies = {
        "duplicate": "repeats an earlier row in every column that data.columns names; set "
        "data.keep_duplicates = true if that is right",
        "wrong_width": "has another number of fields than the header or data.format.columns; check "
        "data.format.separator and data.format.quote, or mend the line",
        "unparsable_row": "is not one JSON object on one line; check data.format.kind, or mend the line",
        "unknown_event": f"its event type is none of {', '.join(config.known_events)}; add it to "
        "data.known_events, and leave it out of data.keep_events if it does not count",
        "negative_quantity": f"a number in {columns} is below 0; leave the column out of "
        "data.reject_negative if such rows are right",
        "bad_number": "a column of numbers (order, rating, weight, data.reject_negative) holds something "
        "else; check data.columns, or mend the log",
    }
    return remedies.get(reason, "mend the log, or raise data.max_reject_fraction if that is acceptable")


def time_remedy(reason: str, values: Sequence[str], config: DataConfig, mixed: bool) -> Hint:
    """Return what is wrong with times that were rejected, and what to do.

    Args:
        reason: time_out_of_range or unparsable_time.
        values: at least one time as logged; the first is the example.
        config, mixed: as in `remedy`.
    """
    if not config.time_format:
        return time_hint(values, config.time_unit, mixed)
    found = f"time {values[0]!r}"
    if reason == "time_out_of_range":
        return Hint(
            f"{found} is not between 1980 and 2100",
            "take such rows out of the log, or check data.time_format",
        )
    wrong = f"{found} is not of the format {config.time_format!r}, or no date that there is"
    return Hint(wrong, "check data.time_format, or mend the log")
