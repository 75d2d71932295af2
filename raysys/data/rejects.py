"""What to do about rejected rows, by reason."""

from collections.abc import Mapping, Sequence
from typing import Any

from raysys.data.log_config import DataConfig
from raysys.data.units import time_hint


def remedy(reason: str, rows: Sequence[Mapping[str, Any]], config: DataConfig, mixed: bool = False) -> str:
    """Return what is wrong with rejected rows and which key may mend it.

    Args:
        reason: why they were rejected.
        rows: some of them, the first as an example, as in `REJECTED_SCHEMA`.
        config: under which they were read.
        mixed: whether the log also has many rows that are right.
    """
    row = rows[0]
    if reason in ("time_out_of_range", "unparsable_time") and not config.time_format:
        hint = time_hint([str(row["time"]) for row in rows], config.time_unit, mixed)
        return f"{hint.text}; {hint.remedy}"
    keys, notation = "data.time_format and data.time_zone", f"of the format {config.time_format!r}"
    columns = ", ".join(config.reject_negative)
    remedies = {
        "time_out_of_range": f"time {row['time']} is not between 1980 and 2100 in {notation}; check {keys}, "
        "or whether the log mixes units",
        "unparsable_time": f"time {row['time']!r} is not {notation}; check {keys}",
        "duplicate": "repeats an earlier row in every column; set data.keep_duplicates = true if that "
        "is right",
        "wrong_width": "has another number of fields than the header or data.format.columns; check "
        "data.format.separator and data.format.quote, or mend the line",
        "unparsable_row": "is not one JSON object on one line; check data.format.kind, or mend the line",
        "unknown_event": f"its event type is none of {', '.join(config.known_events)}; add it to "
        "data.known_events, and leave it out of data.keep_events if it does not count",
        "negative_quantity": f"a number in {columns} is below 0; leave the column out of "
        "data.reject_negative if such rows are right",
        "bad_number": "a column of numbers (order, rating, weight, data.reject_negative) does not; check "
        "data.columns, or mend the log",
    }
    return remedies.get(reason, "mend the log, or raise data.max_reject_fraction if that is acceptable")
