"""The verdict on a run: does it beat its baselines, by how much, and how sure is that."""

from dataclasses import dataclass, field

from raysys.evaluation.findings import (
    LEVEL,
    REFERENCE,
    Measured,
    is_ranked,
    number,
    plural,
    ratio,
    span,
    standing,
)
from raysys.evaluation.health import collapse_signs


@dataclass(frozen=True)
class Verdict:
    """One run against one baseline; `tone` is better, unsure, worse or none (nothing to compare with)."""

    tone: str
    headline: str
    sentences: list[str] = field(default_factory=list[str])
    figures: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def judge(name: str, measured: Measured) -> Verdict:
    """Return the verdict on a run that is called `name`."""
    key = measured.headline
    value, interval = measured.metrics[key], measured.intervals.get(key)
    others = {who: found[key] for who, found in measured.baselines.items() if key in found}
    others.pop(measured.model, None)
    figures = [(key, number(value))]
    if interval:
        figures.append((f"{LEVEL} interval", span(interval)))
    signs = len(collapse_signs(measured.interests))
    warnings = [f"Warning: {plural(signs, 'sign')} of collapsed interests, see Interest health."] * bool(
        signs
    )
    if not others:
        text = f"{name} has {key} = {number(value)}; there is no baseline to compare it with."
        return Verdict("none", text, warnings, figures)
    strongest = max(others, key=lambda who: (others[who], who))
    against = REFERENCE if REFERENCE in others else strongest
    base = others[against]
    state = standing(value, interval, base)
    figures += [(against, number(base)), (f"ratio to {against}", ratio(value, base))]
    times = f", {ratio(value, base)[:-1]} times its value" if ratio(value, base) not in ("–", "1.00×") else ""
    doubt = ", but not surely" if state.endswith("?") else ""
    headline = (
        f"{name} {_VERBS[state]} {against} on {key}: {number(value)} against {number(base)}{times}{doubt}."
    )
    sentences = [_how_sure(measured, state, against, base), _overall(measured, against)]
    if others[strongest] > base:
        side = _PLACES[standing(value, interval, others[strongest])]
        sentences.append(
            f"The strongest baseline on {key} is {strongest} with {number(others[strongest])}; "
            f"{name} is {side}."
        )
    tone = {"above": "better", "below": "worse"}.get(state, "unsure")
    return Verdict(tone, headline, [text for text in sentences + warnings if text], figures)


_VERBS = {
    "above": "beats",
    "above?": "is ahead of",
    "below": "falls short of",
    "below?": "is behind",
    "equal": "equals",
}
_PLACES = {
    "above": "above it",
    "above?": "above it, but not surely",
    "below": "below it",
    "below?": "below it, but not surely",
    "equal": "equal to it",
}


def _how_sure(measured: Measured, state: str, against: str, base: float) -> str:
    interval, queries = measured.intervals.get(measured.headline), measured.protocol.get("queries")
    if interval is None:
        return "How sure: the run recorded no interval for this metric, so nothing can be said."
    over = f" over {plural(queries, 'query', 'queries')}" if isinstance(queries, int) else ""
    text = f"How sure: the {LEVEL} bootstrap interval{over}, {span(interval)},"
    if state in ("above", "below"):
        return (
            f"{text} lies wholly {state} the {number(base)} of {against}; which users happened to be "
            "measured does not explain the difference."
        )
    return (
        f"{text} contains the {number(base)} of {against}; the difference may be chance. Measure more users "
        "before relying on it."
    )


def _overall(measured: Measured, against: str) -> str:
    base = measured.baselines[against]
    states = {
        key: standing(value, measured.intervals.get(key), base[key])
        for key, value in measured.metrics.items()
        if key in base and is_ranked(key)
    }
    if len(states) < 2:
        return ""
    above = sum(state.startswith("above") for state in states.values())
    worse = [key for key, state in states.items() if state.startswith("below")]
    below = f", below on {', '.join(worse)}" if worse else ""
    clear = list(states.values()).count("above")
    sure = f", on {clear or 'none'} of them by more than the interval" if above else ""
    return f"All metrics: above {against} on {above} of {len(states)}{sure}{below}."
