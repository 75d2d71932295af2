"""Logger set-up: one line per event, key=value fields, the stage and the rank on every line."""

import logging
import sys
from typing import TextIO

FORMAT = "%(asctime)s %(levelname).1s %(stage)s%(rank)s %(message)s"


class _Context(logging.Filter):
    def __init__(self, stage: str, rank: int | None) -> None:
        super().__init__()
        self.stage = stage
        self.rank = "" if rank is None else f" rank={rank}"

    def filter(self, record: logging.LogRecord) -> bool:
        record.stage = self.stage
        record.rank = self.rank
        return True


class _Stdout(logging.StreamHandler[TextIO]):
    """Writes to what `sys.stdout` is at the time of writing, which somebody may have replaced meanwhile."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override] # an attribute of the handler, read anew
        return sys.stdout


def configure(stage: str, rank: int | None = None, stream: TextIO | None = None) -> None:
    """Send the `raysys` loggers to `stream` (default stdout), with stage and rank on every line.

    Rank None is a driver. Rank 0 logs at INFO, the other ranks at WARNING. A second call replaces the set-up.
    """
    handler = logging.StreamHandler(stream) if stream else _Stdout()
    handler.setFormatter(logging.Formatter(FORMAT, datefmt="%H:%M:%S"))
    handler.addFilter(_Context(stage, rank))
    root = logging.getLogger("raysys")
    root.handlers[:] = [handler]
    root.propagate = False
    root.setLevel(logging.INFO if rank in (None, 0) else logging.WARNING)


def fields(**values: object) -> str:
    """Return `key=value` pairs in the given order; floats are short, text with spaces is quoted."""
    return " ".join(f"{key}={_short(value)}" for key, value in values.items())


def _short(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 10000 else f"{value:.0f}"
    text = str(value)
    return repr(text) if " " in text else text
