"""Values and trials in words, for terminal and page."""

from raysys.tuning.trials import UNTUNED


def name_of(number: int) -> str:
    """Return how a trial is called."""
    return f"{number}, untuned" if number == UNTUNED else str(number)


def short(literal: str) -> str:
    """Return a value as TOML writes it, short enough for a table."""
    if "." in literal or "e" in literal:
        try:
            return f"{float(literal):.4g}"
        except ValueError:
            pass
    return literal.strip('"')
