"""Checks of outcomes: interests, gates, metrics and the learning curve."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from raysys.evaluation.doctor.check import Check, judged, not_checked
from raysys.evaluation.findings import REFERENCE, is_ranked, plural
from raysys.evaluation.health import InterestHealth, collapse_signs
from raysys.training_config import LISTS, TrainingConfig, goal

_SATURATED = 0.02
_ALL = 0.99
_CHANCE_SIGMAS = 3.0
GRAVE_SIGNS = ("same_direction", "even_routing", "one_winner")
"""Signs of collapse that make several interests one; the others are worth a look."""
ROOM = 'try more training.epochs, another training.learning_rate, or the preset "recommended"'


def collapsed_interests(health: InterestHealth | None) -> Check:
    """Tell the signs of collapse of the interests of a sample of users; None for a model with one vector."""
    name = "collapsed_interests"
    if health is None or health.num_interests < 2:
        return not_checked(name, "the model has one vector per user")
    result = health.result()
    signs = collapse_signs(result)
    figures = {
        key: float(value)
        for key in ("active_mean", "pairwise_cosine_mean", "routing_entropy_mean")
        if isinstance(value := result[key], float)
    }
    if not all(map(math.isfinite, figures.values())):
        return not_checked(name, "the interests are no numbers; see same_user_same_vectors")
    told = ", ".join(f"{key.removesuffix('_mean')} {value:.2f}" for key, value in figures.items())
    wins = result["wins"]
    top = max(wins) if isinstance(wins, list) and wins else 0.0
    return judged(
        name,
        f"{plural(health.num_interests, 'interest')} of {plural(health.users, 'user')}",
        "; ".join(
            [f"{told}, the most frequent winner has {top:.0%}", *(sign.seen for sign in signs.values())]
        ),
        "; ".join(sign.remedy for sign in signs.values()),
        fault=any(sign in signs for sign in GRAVE_SIGNS),
        warning=bool(signs),
        figures={**figures, "top_winner": top},
    )


def saturated_gate(gates: np.ndarray | None) -> Check:
    """Tell whether the gate of a fusion is shut, or open, for everyone; (Q,) shares of the session."""
    name = "saturated_gate"
    if gates is None or not len(gates):
        return not_checked(name, "the model has no gate")
    shut, open_ = float((gates < _SATURATED).mean()), float((gates > 1 - _SATURATED).mean())
    return judged(
        name,
        f"the gate of {plural(len(gates), 'user')}",
        f"mean share of the session {gates.mean():.3f}, below {_SATURATED} for {shut:.0%} of the users and "
        f"above {1 - _SATURATED} for {open_:.0%}",
        'compare model.fusion = "short" and "long", which are cheaper; or look at session.gap_s and '
        "session.long_term_s, which decide what each term holds",
        warning=max(shut, open_) > _ALL,
        figures={"mean": float(gates.mean()), "shut": shut, "open": open_},
    )


def chance_level(results: Mapping[str, Any]) -> Check:
    """Compare the metrics of an evaluation with its baselines: above chance, and above what is popular.

    Args:
        results: content of metrics.json.
    """
    name = "chance_level"
    metrics, intervals = results["metrics"], results.get("intervals") or {}
    keys = sorted(
        (key for key in intervals if is_ranked(key)), key=lambda key: not key.startswith("hit_rate")
    )
    if not keys:
        return not_checked(
            name, "evaluation/metrics.json has no metric with an interval; run jobs/evaluate.py"
        )
    baselines: Mapping[str, Mapping[str, float]] = results.get("baselines") or {}
    spans: Mapping[str, Any] = results.get("baseline_intervals") or {}

    def top_of(baseline: str, key: str) -> float:
        ends = (spans.get(baseline) or {}).get(key)
        return float(ends[1] if ends else baselines[baseline].get(key) or 0.0)

    ranked = [key for key in keys if key.startswith("hit_rate")] or keys[:1]
    at_chance = [
        key for key in ranked if "random" in baselines and intervals[key][0] <= top_of("random", key)
    ]
    below = [
        baseline
        for baseline in (REFERENCE, "own_frequent")
        if baseline in baselines
        and all(intervals[key][1] < (baselines[baseline].get(key) or 0.0) for key in ranked)
    ]
    key = ranked[0]
    told = [
        f"{baseline} {value[key]:.4f}" for baseline, value in baselines.items() if value.get(key) is not None
    ]
    remedy = (
        f"the model finds no more than chance: look at the other checks first, then {ROOM}"
        if len(at_chance) == len(ranked)
        else f"the model does worse than {' and '.join(below)}: {ROOM}"
    )
    return judged(
        name,
        f"evaluation/metrics.json, {plural(int(results['protocol']['queries']), 'query', 'queries')}",
        f"{key} {metrics[key]:.4f} ({intervals[key][0]:.4f} to {intervals[key][1]:.4f}), {', '.join(told)}",
        remedy,
        fault=len(at_chance) == len(ranked),
        warning=bool(below),
        figures={"value": float(metrics[key]), "low": float(intervals[key][0])},
    )


def chance_of_hit(candidates: int, relevant: int, k: int) -> float:
    """Return the probability that one of `relevant` items is among k drawn from the candidates without
    replacement."""
    missed = 1.0
    for drawn in range(min(k, candidates)):
        missed *= max(candidates - relevant - drawn, 0) / (candidates - drawn)
    return 1 - missed


def vectors_find_targets(hits: np.ndarray, chances: np.ndarray, k: int) -> Check:
    """Compare how often the exported vectors find a user's target with what chance would find.

    Args:
        hits: (Q,) whether one of the held-out items is among the first k of a user.
        chances: (Q,) how likely that is for k random items.
        k: items looked at.
    """
    name = "vectors_find_targets"
    if not len(hits):
        return not_checked(name, "no user of the sample has anything held out")
    spread = math.sqrt(max(float((chances * (1 - chances)).sum()), 1e-12))
    sigmas = (float(hits.sum()) - float(chances.sum())) / spread
    return judged(
        name,
        f"{plural(len(hits), 'test user')}, checkpoint/ against all of vectors/",
        f"hit_rate@{k} {hits.mean():.4f}, by chance {chances.mean():.4f} ({sigmas:+.1f} standard deviations)",
        "vectors/ do not belong to checkpoint/, or the model learnt nothing: run jobs/export.py again, then "
        f"{ROOM}",
        fault=sigmas < _CHANCE_SIGMAS and float(chances.mean()) < 0.5,
        figures={
            "users": len(hits),
            "hit_rate": float(hits.mean()),
            "chance": float(chances.mean()),
            "sigmas": sigmas,
        },
    )


def untrained_self(hits: np.ndarray, before: np.ndarray, moved: float, k: int) -> Check:
    """Compare a trained model with itself before training, on the same users.

    Args:
        hits: (Q,) whether the trained model finds a target among the first k.
        before: (Q,) the same of the untrained one.
        moved: largest change of a parameter by training.
        k: items looked at.
    """
    trained, untrained = (float(values.mean()) if len(values) else 0.0 for values in (hits, before))
    return judged(
        "untrained_self",
        f"{plural(len(hits), 'test user')}, checkpoint/ against the same model before training",
        f"hit_rate@{k} {trained:.4f}, untrained {untrained:.4f}; parameters moved by up to {moved:.3g}",
        "the checkpoint is an untrained model: delete checkpoint/ and run jobs/train.py again"
        if moved == 0
        else f"training did not help: {ROOM}, and look at the learning curve",
        fault=moved == 0,
        warning=trained <= untrained,
        figures={"trained": trained, "untrained": untrained, "moved": moved},
    )


def learning_curve(curve: Sequence[Mapping[str, float]], training: TrainingConfig, candidates: int) -> Check:
    """Tell what a learning curve shows: whether the loss is finite and falls, the validation metric is above
    chance, and the best epoch is before the last."""
    name = "learning_curve"
    if not curve:
        return not_checked(name, "checkpoint/state.json has no finished epoch")
    losses = [float(entry.get("train/loss", math.nan)) for entry in curve]
    values = [float(entry.get(f"valid/{training.metric}", math.nan)) for entry in curve]
    chance = _chance(training.metric, candidates)
    gains = [value if goal(training.metric) == "max" else -value for value in values]
    best = int(np.nanargmax(gains)) if not all(map(math.isnan, gains)) else -1
    faults, warnings = dict[str, str](), dict[str, str]()
    if not all(map(math.isfinite, losses)):
        faults["the loss is not finite"] = "lower training.learning_rate or set training.clip_norm"
    elif len(losses) > 1 and losses[-1] >= losses[0]:
        warnings["the loss does not fall"] = "try a lower training.learning_rate"
    if best < 0 or values[best] <= chance:
        faults["the validation metric is at chance"] = ROOM
    still_better = best == len(curve) - 1 and len(curve) >= 2 and training.schedule == "constant"
    if still_better and len(curve) == training.epochs:
        warnings["the last epoch is the best"] = "raise training.epochs"
    found = faults | warnings
    told = f"{training.metric} {values[best]:.4f} in epoch {best + 1}" if best >= 0 else "no metric"
    luck = "chance is not known" if math.isnan(chance) else f"chance {chance:.4f}"
    return judged(
        name,
        f"{plural(len(curve), 'epoch')} in checkpoint/state.json",
        "; ".join([f"loss {losses[0]:.4g} to {losses[-1]:.4g}, best {told} ({luck})", *found]),
        "; ".join(found.values()),
        fault=bool(faults),
        warning=bool(warnings),
        figures={"epochs": len(curve), "best_epoch": best + 1, "chance": chance},
    )


def _chance(metric: str, candidates: int) -> float:
    """Return what random lists reach of a metric with one target among the candidates; NaN for one of
    the lists."""
    name, _, depth = metric.partition("@")
    if name in LISTS:
        return math.nan
    ranks = np.arange(1, min(int(depth) if depth else candidates, candidates) + 1)
    gains = {"ndcg": 1 / np.log2(ranks + 1), "mrr": 1 / ranks}.get(name, np.ones(len(ranks)))
    return float(gains.sum()) / candidates
