"""Checks of item ids: padding and unknown stand for no item, so they are never candidates, targets or
negatives."""

from collections.abc import Mapping

from raysys.evaluation.doctor.check import Check, judged, not_checked
from raysys.evaluation.findings import plural


def reserved_items(counts: Mapping[str, tuple[int, int]]) -> Check:
    """Sum up where item_idx 0 (padding), 1 (unknown), or none of the vocabulary's ids was found.

    Args:
        counts: place, such as "vectors/items.parquet" -> (ids looked at, those that stand for no item).
    """
    name = "reserved_items"
    if not counts:
        return not_checked(name, "nothing that holds items is there yet")
    bad = {place: wrong for place, (_, wrong) in counts.items() if wrong}
    looked_at = ", ".join(f"{total:,} in {place}" for place, (total, _) in counts.items())
    found = ", ".join(f"{wrong:,} in {place}" for place, wrong in bad.items())
    return judged(
        name,
        f"item ids: {looked_at}",
        f"padding or unknown ids: {found}" if bad else "no padding and no unknown id",
        f"item_idx 0 and 1 stand for no item: make {_first(bad)} again, from jobs/prepare.py on if it is no "
        "other stage",
        fault=bool(bad),
        figures={place: wrong for place, (_, wrong) in counts.items()},
    )


def _first(bad: Mapping[str, int]) -> str:
    return next(iter(bad), "")


def likely_mistakes(profile: Mapping[str, object] | None) -> Check:
    """Repeat how many likely mistakes `prepare` noticed in the log, and which."""
    name = "likely_mistakes"
    if profile is None:
        return not_checked(name, "features/profile.json is missing; run jobs/prepare.py")
    noticed = profile.get("likely_mistakes")
    codes = [str(mistake["code"]) for mistake in noticed] if isinstance(noticed, list) else []
    return judged(
        name,
        "features/profile.json",
        f"{plural(len(codes), 'likely mistake')} of the log" + (f": {', '.join(codes)}" if codes else ""),
        "each has its remedy in features/profile.json; jobs/prepare.py prints them",
        warning=bool(codes),
        figures={"mistakes": len(codes)},
    )


def stages_fit(other: Mapping[str, str], newer: list[str]) -> Check:
    """Tell which stage was made from something else than what is there now.

    Args:
        other: stage -> the stage that it was made from, which is another one now.
        newer: stages that the run file describes otherwise than they were made.
    """
    jobs = {
        "checkpoint": "train",
        "vectors": "export",
        "table": "export",
        "index": "index",
        "evaluation": "evaluate",
    }
    first = next(iter(other), newer[0] if newer else "")
    job = jobs.get(first, "prepare")
    found = [f"{stage}/ was made from another {parent}/" for stage, parent in other.items()]
    found += [f"{stage}/ was made under other settings than the run file's" for stage in newer]
    return judged(
        "stages_fit",
        "digests in the manifests and the run file",
        "; ".join(found) or "every stage was made from the one before it",
        f"run jobs/{job}.py and the stages after it again",
        fault=bool(other),
        warning=bool(newer),
        figures={"other": len(other), "newer": len(newer)},
    )
